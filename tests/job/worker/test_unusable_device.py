"""A node that can never run the model: at once, with the reason in heartbeat and exit code, in one process or many."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import job.worker.factory
import job.worker.runner
from job.cli.main import run
from job.errors import DeviceError, DeviceMemoryError, UnusableDeviceError
from job.plan.plan import iter_shards, read_plan
from job.run.options import WorkerOptions
from job.run.run import open_run
from job.storage.local.store import LocalStore
from job.storage.open import Address
from job.telemetry.observer import NullObserver
from job.telemetry.progress_bar import Tally
from job.worker import supervisor
from job.worker.factory import open_device
from job.worker.process import WorkerTask
from job.worker.runner import annotate
from tests.fakes import FakeSession, JumpingClock, demo_artifact, request_of, spec_of

WORDS = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
REASON = f"the driver is too old. The runtime's message: {WORDS}"


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise UnusableDeviceError(REASON)

    monkeypatch.setattr(job.worker.runner, "check_session", lambda *arguments: None)
    monkeypatch.setattr(job.worker.factory, "open_session", fail)


@pytest.mark.parametrize(
    ("share", "code"), [([], 78), (["--index", "0", "--num_indexes", "1", "--run", "r"], 70)], ids=["alone", "index"]
)
@pytest.mark.usefixtures("old_driver")
def test_a_driver_that_is_too_old_ends_at_once_with_its_reason(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str], share: list[str], code: int
) -> None:
    folders = ["--input_top_dir", str(source), "--out_top_dir", str(target)]
    assert run([*folders, "--device", "cuda", "--workers", "1", "--device_retry_s", "600", *share]) == code
    assert f"Error: {REASON}" in capsys.readouterr().err
    (beat,) = target.glob("_sam3/runs/*/workers/*.json")
    assert (json.loads(beat.read_bytes())["activity"], json.loads(beat.read_bytes())["last_error"]) == ("left", REASON)
    assert run(["progress", str(target), "--once", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_errors"] == [REASON]


def test_only_what_may_pass_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception] = [DeviceError("no device"), DeviceMemoryError("full"), UnusableDeviceError(REASON)]
    monkeypatch.setattr(
        job.worker.factory, "open_session", lambda *arguments, **options: (_ for _ in ()).throw(answers.pop(0))
    )
    clock = JumpingClock()
    options = WorkerOptions(device="cuda", device_retry_s=600, clock=clock)
    with pytest.raises(UnusableDeviceError):
        open_device(demo_artifact(), options, 3)
    assert (answers, clock.waits) == ([], [10.0, 10.0])


def test_a_model_is_not_fetched_for_a_node_that_cannot_run_it(
    monkeypatch: pytest.MonkeyPatch, source: Path, target: Path
) -> None:
    def fail(*arguments: Any) -> None:
        raise UnusableDeviceError(REASON)

    monkeypatch.setattr(job.worker.runner, "check_gpu", fail)
    monkeypatch.setattr(job.worker.runner, "build_worker", lambda *arguments: pytest.fail("the model is loaded"))
    with pytest.raises(UnusableDeviceError):
        annotate(request_of(source, target), Tally())


def test_an_index_does_not_wait_for_a_plan_that_its_node_cannot_work_on(
    monkeypatch: pytest.MonkeyPatch, source: Path, target: Path
) -> None:
    def fail(*arguments: Any) -> None:
        raise UnusableDeviceError(REASON)

    monkeypatch.setattr(job.worker.runner, "check_gpu", fail)
    clock = JumpingClock()
    options = WorkerOptions(device="cpu", index=1, num_indexes=2, clock=clock)
    with pytest.raises(UnusableDeviceError):
        annotate(request_of(source, target, run_name="r", options=options), Tally())
    assert clock.waits == []
    (beat,) = target.glob("_sam3/runs/r/workers/*.json")
    assert json.loads(beat.read_bytes())["last_error"] == REASON


@pytest.mark.parametrize(("precision", "warnings"), [("fp32", 1), ("fp16", 0)])
def test_an_fp32_model_on_a_gpu_is_warned_of(
    caplog: pytest.LogCaptureFixture, use_session: Any, precision: str, warnings: int
) -> None:
    use_session(FakeSession())
    artifact = demo_artifact()
    manifest = msgspec.structs.replace(artifact.manifest, precision=precision)
    caplog.set_level(logging.WARNING)
    open_device(msgspec.structs.replace(artifact, manifest=manifest), WorkerOptions(device="cuda"), 3)
    assert sum("fp16 export" in message for message in caplog.messages) == warnings


def test_memory_that_runs_out_during_work_ends_the_worker_with_70(
    source: Path, target: Path, session: FakeSession
) -> None:
    def fail(pixels: Any) -> None:
        if session.images:
            raise DeviceMemoryError("--device cuda: ONNX Runtime failed: out of memory")

    session.before_image = fail
    with pytest.raises(DeviceMemoryError) as raised:
        annotate(request_of(source, target), Tally())
    assert raised.value.exit_code == 70


def end_as_unusable(connection: Any, task: WorkerTask) -> None:
    """Worker process on a node whose driver is too old; appends to a file, so that starts can be counted."""
    with (task.artifact_folder / "starts").open("a") as stream:
        stream.write("x")
    connection.send(("end", 70, REASON, "UnusableDeviceError"))
    connection.close()


def end_as_unusable_or_wait(connection: Any, task: WorkerTask) -> None:
    """The first worker process ends so when both have started; the other waits to be terminated."""
    starts = task.artifact_folder / "starts"
    with starts.open("a") as stream:
        stream.write("x")
    if task.options.part:
        time.sleep(20)
    while len(starts.read_text()) < 2:
        time.sleep(0.01)
    connection.send(("end", 70, REASON, "UnusableDeviceError"))
    connection.close()


@pytest.mark.parametrize("worker", [end_as_unusable, end_as_unusable_or_wait])
def test_worker_processes_are_not_restarted_on_a_node_that_cannot_run_the_model(
    worker: Callable[[Any, WorkerTask], None],
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    target: Path,
    tmp_path: Path,
) -> None:
    annotate(request_of(source, target, run_name="r"), Tally())
    opened = open_run(LocalStore(target, "t"), spec_of(source), name="r", is_date_given=False, process_id="t")
    plan = read_plan(opened)
    assert plan is not None
    monkeypatch.setattr(supervisor, "run_worker", worker)
    monkeypatch.setattr(supervisor, "is_marked", lambda *arguments: False)
    addresses = (Address(str(source), {}), Address(str(target), {}))
    options = WorkerOptions(device="cpu", workers=2)
    shards = list(iter_shards(opened, plan))
    with pytest.raises(UnusableDeviceError, match=f"worker [01]: {REASON}"):
        supervisor.work_in_processes(
            WorkerTask(addresses, tmp_path, None, "r", options), opened, shards, lambda counts: None, NullObserver()
        )
    assert len((tmp_path / "starts").read_text()) <= 2
