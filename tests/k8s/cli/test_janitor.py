"""The janitor waits for the end of the run and suspends unfinished Jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from job.cli.main import run as run_cli
from job.errors import AnnotateError, CredentialsRefusedError, ObjectRefusedError, RunConflictError, StorageError
from job.run.run import Run, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from k8s.cluster import Cluster
from k8s.janitor import GRACE_S, POLL_S, suspend_unfinished, wait_for_end
from tests.fakes import JumpingClock, spec_of
from tests.k8s.api import Api
from tests.k8s.objects import condition, job

RUN = "night-1a2b3c4d"
GPU, CPU = "night-gpu-0a1b2c3d", "night-cpu-0a1b2c3d"


@dataclass
class EventfulClock(JumpingClock):
    """Something happens during each wait."""

    events: list[Callable[[], object]] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.events.pop(0)()


class RefusingStore(LocalStore):
    """Fails to read until nothing is left to raise."""

    def __init__(self, root: Path, *errors: AnnotateError) -> None:
        super().__init__(root, "janitor")
        self.errors = list(errors)

    def read(self, key: str) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return super().read(key)


def begin(folder: Path) -> Run:
    return open_run(LocalStore(folder, "x"), spec_of(folder), name=RUN, is_date_given=False, process_id="x")


def end(folder: Path) -> None:
    begin(folder).write_end(RunEnd(outcome="succeeded", by="x"))


def test_the_janitor_waits_for_begin_and_end(tmp_path: Path) -> None:
    clock = EventfulClock(events=[lambda: None, lambda: begin(tmp_path), lambda: None, lambda: end(tmp_path)])
    wait_for_end(lambda: LocalStore(tmp_path, "janitor"), RUN, clock)
    assert clock.waits == [POLL_S] * 4


def test_the_janitor_retries_storage_outages(tmp_path: Path) -> None:
    end(tmp_path)
    clock = JumpingClock()
    store = RefusingStore(tmp_path, StorageError("out of reach"), ObjectRefusedError("permission denied"))
    wait_for_end(lambda: store, RUN, clock)
    assert len(clock.waits) == 2


def test_a_run_of_an_incompatible_version_ends_the_janitor(tmp_path: Path) -> None:
    error = RunConflictError("was written by an incompatible version")
    with pytest.raises(RunConflictError, match=str(error)):
        wait_for_end(lambda: RefusingStore(tmp_path, error), RUN, JumpingClock())


def test_the_janitor_waits_for_valid_credentials(tmp_path: Path) -> None:
    end(tmp_path)
    clock, openings = JumpingClock(), [CredentialsRefusedError("no credentials found")]
    store = RefusingStore(tmp_path, CredentialsRefusedError("InvalidAccessKeyId"))

    def open_store() -> LocalStore:
        if openings:
            raise openings.pop()
        return store

    wait_for_end(open_store, RUN, clock)
    assert clock.waits == [POLL_S, POLL_S]


def test_jobs_get_a_grace_period(api: Api) -> None:
    api.jobs = [job("gpu"), job("cpu")]
    done = job("gpu", conditions=(condition("Complete"),))
    clock = EventfulClock(events=[lambda: api.jobs.__setitem__(0, done)])
    assert suspend_unfinished(Cluster(), [GPU, CPU, "gone"], clock) == [CPU]
    assert clock.waits == [GRACE_S]
    assert api.patched == [(CPU, {"spec": {"suspend": True}})]


@pytest.mark.parametrize("status", [{"suspend": True}, {"conditions": (condition("Failed"),)}])
def test_ended_and_suspended_jobs_are_not_patched(api: Api, status: dict[str, object]) -> None:
    api.jobs = [job("gpu", **status)]
    assert suspend_unfinished(Cluster(), [GPU], JumpingClock()) == []
    assert api.patched == []


def test_the_janitor_retries_outages_of_the_api_server(api: Api) -> None:
    api.jobs = [job("gpu")]

    def fail() -> None:
        api.answer = (500, b"")

    def mend() -> None:
        api.answer = None

    clock = EventfulClock(events=[fail, lambda: None, mend])
    assert suspend_unfinished(Cluster(), [GPU], clock) == [GPU]
    assert clock.waits == [GRACE_S, POLL_S, POLL_S]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's clock does not wait."""
    monkeypatch.setattr("job.system.clock.SystemClock.sleep", lambda self, seconds: None)


def arguments(output: Path) -> list[str]:
    return ["janitor", "--namespace=garage", f"--job={GPU}", f"--job={CPU}", f"--out_top_dir={output}", f"--run={RUN}"]


@pytest.mark.usefixtures("at_once")
def test_the_command_of_the_janitor_pod(api: Api, tmp_path: Path) -> None:
    api.jobs = [job("gpu"), job("cpu", conditions=(condition("Complete"),))]
    end(tmp_path / "out")
    assert run_cli(arguments(tmp_path / "out")) == 0
    assert [name for name, _ in api.patched] == [GPU]


@pytest.mark.usefixtures("at_once")
def test_a_missing_role_is_a_configuration_error(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end(tmp_path / "out")
    api.refused = {"jobs"}
    assert run_cli(arguments(tmp_path / "out")) == 78
    assert "the cluster refuses to get jobs in namespace garage" in capsys.readouterr().err
