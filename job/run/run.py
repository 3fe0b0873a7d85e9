"""A run: its name, its options and its end. docs/concepts/runs.md describes its folder.

`run.json` and `end.json` are created exclusively, once: the loser of the race reads the winner's object. Nothing else
coordinates the processes of a run.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from job.errors import RunConflictError, TooManyFailedError, UsageError
from job.redaction import public_url
from job.run.decoding import decoding
from job.run.spec import RunEnd, RunSpec
from job.storage.store import PRIVATE_FOLDER, Store, read_if_there
from job.system.threads import map_in_threads

RUNS_FOLDER = f"{PRIVATE_FOLDER}/runs"
HEARTBEAT_WATCH_S = 70.0
"""Workers write a heartbeat every 30 s; one that is unchanged for this long is not running."""
QUIET_AFTER_END_S = 60.0
"""Age of the end of a superseded run at which its last puts have completed and the output may be listed."""
OPTIONS_IN_OUTPUTS = ("prompts", "confidence_threshold", "classes", "image_mode", "model_id", "checkpoint_sha256")
"""Options that change the bytes of an output. The annotation date is not among them: each run has its own."""

_T = TypeVar("_T")
_SPEC = msgspec.json.Decoder(RunSpec)
_END = msgspec.json.Decoder(RunEnd)


class RunTarget:
    """An output and the options of a run that writes to it; the run itself may not exist yet.

    Attributes:
        store: The output.
        spec: The options.
    """

    def __init__(self, store: Store, spec: RunSpec) -> None:
        self.store = store
        self.spec = spec


class Run(RunTarget):
    """One run of an output.

    Attributes:
        name: The folder of the run below `RUNS_FOLDER`.
    """

    def __init__(self, store: Store, name: str, spec: RunSpec) -> None:
        super().__init__(store, spec)
        self.name = name

    def key(self, *parts: str) -> str:
        """Key of one of the run's files."""
        return "/".join((RUNS_FOLDER, self.name, *parts))

    def end(self) -> RunEnd | None:
        """Its end, or None while it has not ended."""
        return read_end(self.store, self.name)

    def write_end(self, end: RunEnd) -> RunEnd:
        """End the run unless another process has; returns the valid end."""
        self.store.flush()
        self.store.create(self.key("end.json"), _encode(end))
        return read_end(self.store, self.name) or end


def open_run(store: Store, spec: RunSpec, *, name: str | None, is_date_given: bool, process_id: str) -> Run:
    """Find the run to resume, or create one.

    Args:
        store: The output.
        spec: The options.
        name: Name of the run; None to resume the newest unfinished run if its options match, else create one.
        is_date_given: Whether the user set `spec.annotation_date`; if not, any date matches.
        process_id: Random ID of this process.

    Raises:
        RunConflictError: The named run has other options, or has ended and a newer run exists.
        TooManyFailedError: The named run has ended with too many failures.
    """
    found = find_run(store, spec, name=name, is_date_given=is_date_given)
    return found or _create(store, name or _time_name(process_id), spec, is_date_given)


def find_run(store: Store, spec: RunSpec, *, name: str | None, is_date_given: bool) -> Run | None:
    """The run that `open_run` would resume, or None when it would create one; changes nothing.

    Raises:
        RunConflictError: The named run has other options, or has ended and a newer run exists.
        TooManyFailedError: The named run has ended with too many failures.
    """
    if name is None:
        return _newest_unfinished(store, spec, is_date_given)
    existing = read_spec(store, name)
    if existing is None:
        return None
    _check_same_options(name, existing, spec, is_date_given)
    run = Run(store, name, existing)
    check_not_over(run)
    return run


def check_not_over(run: Run) -> None:
    """Refuse a run that has ended, unless it is the newest and has succeeded.

    Raises:
        RunConflictError: It was superseded, or has ended and a newer run exists.
        TooManyFailedError: It has ended with too many failures.
    """
    end = run.end()
    if end is None:
        return
    end.check_not_superseded(run.name)
    if end.outcome == "too_many_failed":
        raise TooManyFailedError(
            f"run {run.name} has ended with {end.failed} failed of {end.inputs_listed} inputs: see its failures.jsonl, "
            "and choose another name with --run to try again"
        )
    names = list_runs(run.store)
    if names[-1] != run.name:
        raise RunConflictError(
            f"run {run.name} has ended and was followed by run {names[-1]}: choose another name with --run"
        )


def list_runs(store: Store) -> list[str]:
    """Names of all runs of an output, oldest first by the store's time of `run.json`, then by name."""
    names = store.list_dirs(RUNS_FOLDER)
    found = map_in_threads(lambda name: store.stat(f"{RUNS_FOLDER}/{name}/run.json"), names)
    stamped = [(item.modified_s, name) for name, item in zip(names, found, strict=True) if item is not None]
    return [name for _, name in sorted(stamped)]


def find_named(store: Store, name: str) -> Run:
    """The run of that name.

    Raises:
        UsageError: No such run exists.
    """
    spec = read_spec(store, name)
    if spec is None:
        known = ", ".join(list_runs(store)[-5:]) or "none"
        raise UsageError(f"no run {name!r} in {store.url}; the newest are: {known}")
    return Run(store, name, spec)


def newest_run(store: Store) -> Run:
    """The newest run of an output.

    Raises:
        UsageError: The output has no run.
    """
    for name in reversed(list_runs(store)):
        spec = read_spec(store, name)
        if spec is not None:
            return Run(store, name, spec)
    raise UsageError(f"{store.url} is not the output of any run: give the folder that annotate wrote to")


def _newest_unfinished(store: Store, spec: RunSpec, is_date_given: bool) -> Run | None:
    for name in reversed(list_runs(store)):
        if read_end(store, name) is not None:
            continue
        existing = read_spec(store, name)
        if existing is not None and not _differences(existing, spec, is_date_given):
            return Run(store, name, existing)
        return None
    return None


def _create(store: Store, name: str, spec: RunSpec, is_date_given: bool) -> Run:
    run = Run(store, name, spec)
    if store.create(run.key("run.json"), _encode(spec)):
        return run
    existing = read_spec(store, name)
    if existing is None:
        raise RunConflictError(f"run {name} vanished while it was created: do not delete {RUNS_FOLDER} during a run")
    _check_same_options(name, existing, spec, is_date_given)
    return Run(store, name, existing)


def _time_name(process_id: str) -> str:
    """`20261123-201501-3f2a`: sorts by time; two runs of one second have different names."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%d-%H%M%S-") + process_id[:4]


def _check_same_options(name: str, existing: RunSpec, wanted: RunSpec, is_date_given: bool) -> None:
    differences = _differences(existing, wanted, is_date_given)
    if differences:
        listed = "; ".join(f"{field}: the run has {old!r}, asked for is {new!r}" for field, old, new in differences)
        raise RunConflictError(f"run {name} has other options ({listed}): give those, or choose another --run name")


def _differences(existing: RunSpec, wanted: RunSpec, is_date_given: bool) -> list[tuple[str, object, object]]:
    free = {"classes"} if is_date_given else {"classes", "annotation_date"}  # the digest of their file is compared
    # Earlier versions stored passwords of URLs.
    existing, wanted = (msgspec.structs.replace(one, input_url=public_url(one.input_url)) for one in (existing, wanted))
    pairs = [(f, getattr(existing, f), getattr(wanted, f)) for f in RunSpec.__struct_fields__ if f not in free]
    return [(field, old, new) for field, old, new in pairs if old != new]


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def read_spec(store: Store, name: str) -> RunSpec | None:
    """Read `run.json` of a run; None when it does not exist."""
    key = f"{RUNS_FOLDER}/{name}/run.json"
    return _decode(read_if_there(store, key), _SPEC, f"{store.url}/{key}")


def read_end(store: Store, name: str) -> RunEnd | None:
    """Read `end.json` of a run; None while the run has not ended."""
    key = f"{RUNS_FOLDER}/{name}/end.json"
    return _decode(read_if_there(store, key), _END, f"{store.url}/{key}")


def _decode(raw: bytes | None, decoder: msgspec.json.Decoder[_T], location: str) -> _T | None:
    if raw is None:
        return None
    with decoding(location):
        return decoder.decode(raw)
