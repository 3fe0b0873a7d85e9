"""A simulated store in memory and a simulated clock; a scheduler controls both.

A simulated process is a thread. Exactly one thread runs at any time: a process stops before every store operation and
at every sleep, until the scheduler resumes it with a `Verdict`. So a simulation is a function of its seed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from job.errors import AnnotateError, InterruptedRunError, ObjectMissingError, StorageError
from job.storage.keys import GROUP_SUFFIXES, ordered
from job.storage.store import Fetched, FolderTest, Guard, StoredObject, no_folder

PAGE = 4
BEAT_S = 30.0
LATENCY_S = 0.05
MAX_GHOST_S = 20.0
"""A request whose client timed out may still complete within this time."""

_T = TypeVar("_T")


class CrashedError(BaseException):
    """SIGKILL: the thread of a dead process unwinds without further effects."""


class Kind(Enum):
    """The outcomes of an operation."""

    def __repr__(self) -> str:
        return f"Kind.{self.name}"

    GO = auto()
    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    CRASH_GHOST = auto()
    """The process dies; its request completes later."""
    RETRY = auto()
    """The response is lost, and the client retries."""
    RETRY_GHOST = auto()
    """The request times out, and the client retries; the first request completes later."""
    FAIL_BEFORE = auto()
    FAIL_AFTER = auto()
    """The store is unreachable for longer than the retry timeout; FAIL_AFTER: the last attempt took effect."""
    STOP = auto()
    """SIGSTOP, and SIGCONT later."""
    REPLACED = auto()
    """SIGSTOP and SIGCONT; meanwhile a replacement process starts."""
    SUSPEND = auto()
    """The machine sleeps: its monotonic clock stops."""
    TERM = auto()


@dataclass(frozen=True)
class Verdict:
    """The outcome of an operation, with a time for the outcomes that need one."""

    kind: Kind = Kind.GO
    seconds: float = 0.0


@dataclass(frozen=True)
class Event:
    """A change of the store, or a listing.

    Attributes:
        time_s: Simulated time.
        actor: Number of the process.
        what: `put`, `create`, `delete`, or `list` for the first page of a listing.
        key: Of the object or folder, after `in/` or `out/`.
        data: What was stored.
        guarded_s: Time of the guard's check; None without a guard.
        is_ghost: Whether its client had timed out or died.
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
    """Objects, time, events and trace of a simulation."""

    now_s: float = 1_000_000.0
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    ghosts: list[tuple[float, Event]] = field(default_factory=list)

    def seed(self, key: str, data: bytes) -> None:
        """Add an object before the simulation starts."""
        self.objects[key] = (data, self.now_s - 10_000)

    def note(self, event: Event) -> None:
        """Record an event at the current time."""
        self.events.append(replace(event, time_s=self.now_s))

    def store(self, event: Event) -> bool:
        """Apply a put or create; returns whether it took effect. Times of objects are whole seconds, as on S3."""
        if event.what == "create" and event.key in self.objects:
            return False
        self.objects[event.key] = (event.data, float(int(self.now_s)))
        self.note(event)
        return True

    def log(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_s - 1_000_000:9.2f}  {line}")


class Actor:
    """One simulated process.

    Attributes:
        wake_s: World time at which it may continue.
        pending: Its next operation.
        is_dead: Whether it was killed.
        exit_code: Its exit code; None if it was killed or is running.
        error: The unexpected error that ended it, or None.
        beat: Writes the heartbeat, or None.
        on_term: Handles SIGTERM; None for the default action.
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
        """Start the thread; it waits for the first `resume`."""
        threading.Thread(target=self._run, args=(body,), name=self.name, daemon=True).start()

    def resume(self, verdict: Verdict) -> None:
        """Continue to the next operation; returns when the process is there or has exited."""
        self._verdict = verdict
        self._go.release()
        self._back.acquire()

    def monotonic_s(self) -> float:
        """Its monotonic clock, which stops while the machine sleeps."""
        return self.world.now_s - self.asleep_s - self.number * 1000

    def boot_s(self) -> float:
        """Its boot clock, which does not stop."""
        return self.world.now_s + self.number * 77

    def sleep(self, seconds: float) -> None:
        """Wait by its monotonic clock and write heartbeats."""
        until_s = self.monotonic_s() + seconds
        while (left_s := until_s - self.monotonic_s()) > 1e-6:
            if self.beat is not None:
                self._beat_if_due()
                left_s = min(left_s, max(0.01, self._beaten_s + BEAT_S - self.monotonic_s()))
            self.wake_s = self.world.now_s + left_s
            self._pause(f"sleep {left_s:.1f}")

    def step(self, pending: str) -> Verdict:
        """Stop before an operation until the scheduler continues."""
        self._beat_if_due()
        verdict = self._pause(pending)
        if verdict.kind is Kind.TERM:
            self._terminate()
            return Verdict()
        if verdict.kind is Kind.FAIL_BEFORE:
            raise StorageError(f"{pending}: unreachable")
        return verdict

    def die(self) -> None:
        """Die as from SIGKILL."""
        self.is_dead = True
        raise CrashedError

    def first_beat(self) -> None:
        """Record that a heartbeat was written."""
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
        except BaseException as exc:  # noqa: BLE001 - the checks report it
            self.exit_code, self.error = 70, exc
        self.is_over = True
        self._back.release()

    def _pause(self, pending: str) -> Verdict:
        """Return control to the scheduler and wait for it."""
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
        """List by pages: objects that appear before the current page are not listed."""
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
            names = sorted({tail.partition("/")[0] for key in keys if "/" in (tail := key.removeprefix(f"{prefix}/"))})
            return tuple(names)

        return self._operate("list_dirs", prefix, find)

    def existing_suffixes(self, stem: str, among: Sequence[str] = GROUP_SUFFIXES) -> frozenset[str]:
        def find() -> frozenset[str]:
            return frozenset(key.removeprefix(stem) for key in self._keys(f"{stem}.", None)).intersection(among)

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

    def put_file(self, key: str, path: Path) -> None:
        self._write("put", key, path.read_bytes(), None)

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
        """Perform a request without side effects; only crashes and delays apply."""
        verdict = self.actor.step(f"{what} {key}")
        result = effect()
        if verdict.kind in (Kind.CRASH_AFTER, Kind.CRASH_GHOST):
            self.actor.die()
        if verdict.kind is Kind.FAIL_AFTER:
            raise StorageError(f"{what} {key}: unreachable")
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
                raise StorageError(f"{what} {key}: unreachable")
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


class StillStore(WorldStore):
    """The output after the simulation: requests succeed at once."""

    def __init__(self, world: World) -> None:
        super().__init__(world, Actor(world, 0, "reader"), "out")

    def _operate(self, what: str, key: str, effect: Callable[[], _T]) -> _T:
        return effect()
