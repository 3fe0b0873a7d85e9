"""A store in memory, in which nothing happens but by the scheduler's leave, and time that passes by it alone.

A simulated process is a thread. Exactly one thread runs at any time: a process stops before every operation on the
store and whenever it sleeps, and goes on when the scheduler says so and how (`Verdict`). So a run of the whole world
is a function of its seed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TypeVar

from job.errors import AnnotateError, InterruptedRunError, ObjectMissingError, StorageError
from job.storage.keys import ordered
from job.storage.store import Fetched, FolderTest, Guard, StoredObject, no_folder

PAGE = 4
BEAT_S = 30.0
LATENCY_S = 0.05
MOST_GHOST_S = 20.0
"""A request that a client gave up may still land, but no later than this."""

_T = TypeVar("_T")


class CrashedError(BaseException):
    """SIGKILL: the thread of a dead process unwinds; nothing that it does any more has an effect."""


class Kind(Enum):
    """What may become of an operation."""

    def __repr__(self) -> str:
        return f"Kind.{self.name}"

    GO = auto()
    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    CRASH_GHOST = auto()
    """The process dies; its request lands later."""
    RETRY = auto()
    """Done, the answer lost, tried again."""
    RETRY_GHOST = auto()
    """Given up, tried again; the first request lands later."""
    FAIL_BEFORE = auto()
    FAIL_AFTER = auto()
    """The store is out of reach for longer than it is tried; the last try was done all the same."""
    STOP = auto()
    """SIGSTOP, and SIGCONT later."""
    REPLACED = auto()
    """The same, and meanwhile another process has its place."""
    SUSPEND = auto()
    """The machine sleeps: its monotonic clock stands still."""
    TERM = auto()


@dataclass(frozen=True)
class Verdict:
    """What becomes of an operation, with a time where it takes one."""

    kind: Kind = Kind.GO
    seconds: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happened to the store.

    Attributes:
        time_s: When.
        actor: Number of the process.
        what: `put`, `create`, `delete`, or `list` for the first page of a listing.
        key: Of the object or folder, after `in/` or `out/`.
        data: What was stored.
        guarded_s: When the guard let it pass; None when there is none.
        is_ghost: Its client had given it up, or died.
    """

    time_s: float
    actor: int
    what: str
    key: str
    data: bytes = b""
    guarded_s: float | None = None
    is_ghost: bool = False


@dataclass
class World:
    """Objects, time, and what happened."""

    now_s: float = 1_000_000.0
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    ghosts: list[tuple[float, Event]] = field(default_factory=list)

    def seed(self, key: str, data: bytes) -> None:
        """Put an object there before anything begins."""
        self.objects[key] = (data, self.now_s - 10_000)

    def note(self, event: Event) -> None:
        """It happens now."""
        self.events.append(replace(event, time_s=self.now_s))

    def store(self, event: Event) -> bool:
        """A put or a create takes effect; returns whether it does. Times of objects are whole seconds, as on S3."""
        if event.what == "create" and event.key in self.objects:
            return False
        self.objects[event.key] = (event.data, float(int(self.now_s)))
        self.note(event)
        return True

    def say(self, line: str) -> None:
        """Note a line for whoever reads about a violation."""
        self.trace.append(f"{self.now_s - 1_000_000:9.2f}  {line}")


class Actor:
    """One simulated process, from its start to its exit.

    Attributes:
        wake_s: World time before which it is not to go on.
        pending: What it is about to do.
        is_dead: Killed.
        exit_code: Of a process that has ended by itself, else None.
        error: What it was ended by if nobody foresaw that.
        beat: Writes the heartbeat, while there is one.
        on_term: Takes SIGTERM; None to be ended by it.
    """

    def __init__(self, world: World, number: int, name: str) -> None:
        self.world, self.number, self.name = world, number, name
        self.started_s = self.wake_s = world.now_s
        self.asleep_s = 0.0
        self.pending = "start"
        self.is_dead = self.is_over = False
        self.exit_code: int | None = None
        self.error: BaseException | None = None
        self.message = ""
        self.beat: Callable[[], None] | None = None
        self.on_term: Callable[[], None] | None = None
        self._beaten_s = 0.0
        self._is_beating = False
        self._verdict = Verdict()
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()

    def start(self, body: Callable[[], object]) -> None:
        """Make the thread; it does nothing before the first `resume`."""
        threading.Thread(target=self._run, args=(body,), name=self.name, daemon=True).start()

    def resume(self, verdict: Verdict) -> None:
        """Let it go on to its next operation; returns when it is there, or over."""
        self._verdict = verdict
        self._go.release()
        self._back.acquire()

    def monotonic_s(self) -> float:
        """Its own clock, which stands still while the machine sleeps."""
        return self.world.now_s - self.asleep_s - self.number * 1000

    def boot_s(self) -> float:
        """Its own clock, which does not."""
        return self.world.now_s + self.number * 77

    def sleep(self, seconds: float) -> None:
        """Wait by its own clock, beating meanwhile."""
        until_s = self.monotonic_s() + seconds
        while (left_s := until_s - self.monotonic_s()) > 1e-6:
            if self.beat is not None:
                self._beat_if_due()
                left_s = min(left_s, max(0.01, self._beaten_s + BEAT_S - self.monotonic_s()))
            self.wake_s = self.world.now_s + left_s
            self._pause(f"sleep {left_s:.1f}")

    def step(self, pending: str) -> Verdict:
        """Stop before an operation until the scheduler lets it happen."""
        self._beat_if_due()
        verdict = self._pause(pending)
        if verdict.kind is Kind.TERM:
            self._terminate()
            return Verdict()
        if verdict.kind is Kind.FAIL_BEFORE:
            raise StorageError(f"{pending}: out of reach")
        return verdict

    def die(self) -> None:
        """Be killed."""
        self.is_dead = True
        raise CrashedError

    def first_beat(self) -> None:
        """A beat was just written."""
        self._beaten_s = self.monotonic_s()

    def _run(self, body: Callable[[], object]) -> None:
        self._go.acquire()
        try:
            if not self.is_dead:
                body()
                self.exit_code = 0
        except CrashedError:
            pass
        except AnnotateError as exc:
            self.exit_code, self.message = exc.exit_code, str(exc)
        except BaseException as exc:  # noqa: BLE001 - told by the checks
            self.exit_code, self.error = 70, exc
        self.is_over = True
        self._back.release()

    def _pause(self, pending: str) -> Verdict:
        """Hand the token to the scheduler and wait to get it back."""
        if self.is_dead:
            raise CrashedError
        self.pending = pending
        self._back.release()
        self._go.acquire()
        if self.is_dead or self._verdict.kind is Kind.CRASH_BEFORE:
            self.die()
        return self._verdict

    def _terminate(self) -> None:
        if self.on_term is None:
            raise InterruptedRunError("SIGTERM")
        self.on_term()

    def _beat_if_due(self) -> None:
        if self.beat is None or self._is_beating or self.monotonic_s() - self._beaten_s < BEAT_S:
            return
        self._is_beating = True
        try:
            self._beaten_s = self.monotonic_s()
            self.beat()
        except StorageError:
            pass  # as the real heartbeat's thread
        finally:
            self._is_beating = False


class WorldStore:
    """A process's view of one folder of the world; see `job.storage.store.Store`."""

    def __init__(self, world: World, actor: Actor, root: str) -> None:
        self._world, self.actor, self._root = world, actor, f"{root}/"
        self.url = f"world://{root}"

    def exists(self) -> bool:
        return True

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """A page at a time: what appears behind the reader is not seen."""
        folder = f"{prefix}/" if prefix else ""
        begun = Event(0.0, self.actor.number, "list", self._root + prefix)
        self._operate("list", prefix, lambda: self._world.note(begun))
        last = after
        while True:
            keys = [key for key in self._keys(folder, skip) if ordered(key) > ordered(last)]
            yield from (self._stored(key) for key in keys[:PAGE] if self._has(key))
            if len(keys) <= PAGE:
                return
            last = keys[PAGE - 1]
            self._operate("page", prefix, lambda: None)

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        def find() -> tuple[str, ...]:
            keys = self._keys(f"{prefix}/", None)
            names = sorted({rest.partition("/")[0] for key in keys if "/" in (rest := key.removeprefix(f"{prefix}/"))})
            return tuple(names)

        return self._operate("list_dirs", prefix, find)

    def existing_suffixes(self, stem: str) -> frozenset[str]:
        def find() -> frozenset[str]:
            return frozenset(key.removeprefix(stem) for key in self._keys(f"{stem}.", None))

        return self._operate("existing_suffixes", stem, find)

    def read(self, key: str) -> bytes:
        def find() -> bytes:
            if not self._has(key):
                raise ObjectMissingError(key)
            return self._world.objects[self._root + key][0]

        return self._operate("read", key, find)

    def fetch(self, key: str) -> Fetched:
        return Fetched(self.read(key))

    def stat(self, key: str) -> StoredObject | None:
        return self._operate("stat", key, lambda: self._stored(key) if self._has(key) else None)

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        self._write("put", key, data, guard)

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        self._write("put", key, fetched.data, guard)

    def create(self, key: str, data: bytes) -> bool:
        """As ObjectStore: "it exists" may be the answer to its own first try, so it is read back."""
        return self._write("create", key, data, None) or self.read(key) == data

    def delete(self, key: str) -> None:
        self._operate("delete", key, lambda: self._world.objects.pop(self._root + key, None))

    def flush(self) -> None:
        pass

    def now_s(self) -> float:
        return self._operate("now", "", lambda: float(int(self._world.now_s)))

    def close(self) -> None:
        pass

    def _operate(self, what: str, key: str, effect: Callable[[], _T]) -> _T:
        """A request that changes nothing that matters here: only dying and waiting makes a difference."""
        verdict = self.actor.step(f"{what} {key}")
        result = effect()
        if verdict.kind in (Kind.CRASH_AFTER, Kind.CRASH_GHOST):
            self.actor.die()
        if verdict.kind is Kind.FAIL_AFTER:
            raise StorageError(f"{what} {key}: out of reach")
        return result

    def _write(self, what: str, key: str, data: bytes, guard: Guard | None) -> bool:
        while True:
            if guard is not None:
                guard()
            guarded_s = None if guard is None else self._world.now_s
            verdict = self.actor.step(f"{what} {key}")

            event = Event(0.0, self.actor.number, what, self._root + key, data, guarded_s)
            if verdict.kind in (Kind.CRASH_GHOST, Kind.RETRY_GHOST):
                self._world.ghosts.append((self._world.now_s + verdict.seconds, replace(event, is_ghost=True)))
            else:
                is_stored = self._world.store(event)
            if verdict.kind in (Kind.CRASH_GHOST, Kind.CRASH_AFTER):
                self.actor.die()
            if verdict.kind is Kind.FAIL_AFTER:
                raise StorageError(f"{what} {key}: out of reach")
            if verdict.kind not in (Kind.RETRY, Kind.RETRY_GHOST):
                return is_stored

    def _has(self, key: str) -> bool:
        return self._root + key in self._world.objects

    def _stored(self, key: str) -> StoredObject:
        data, modified_s = self._world.objects[self._root + key]
        return StoredObject(key=key, size=len(data), modified_s=modified_s)

    def _keys(self, prefix: str, skip: str | None) -> list[str]:
        start = self._root + prefix
        keys = [key[len(self._root) :] for key in self._world.objects if key.startswith(start)]
        hidden = None if skip is None else f"{skip}/"
        return sorted((key for key in keys if hidden is None or not key.startswith(hidden)), key=ordered)
