"""`status`: text, JSON, exit codes and waiting."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from job.cli.main import run as run_cli
from job.run.run import open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from k8s.status import ReleaseStatus
from tests.fakes import spec_of
from tests.k8s.api import Api
from tests.k8s.objects import condition, ended, job, pod
from tests.processes import wait_until

ON_VOLUME = ["annotate", "--out_top_dir=/volumes/results", "--run=night-1a2b3c4d"]
REFUSED = condition("Failed", "True", "PodFailurePolicy", "Container annotate failed with exit code 78")


@contextmanager
def called(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own."""
    fast_polling = "from k8s.cli import status as view; view._INTERVAL_S = 0.2; from job.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", fast_polling, "status", "night", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_status_prints_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, ready=1, active=2)]
    assert run_cli(["status", "night"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "Release night in namespace garage: working",
        "Run     night-1a2b3c4d, into /volumes/results",
    ]


def test_control_characters_in_messages_are_replaced(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME)]
    api.pods = [pod(0, "Failed", containerStatuses=ended(70, message="\x1b[2J red"))]
    assert run_cli(["status", "night"]) == 0
    assert "\N{REPLACEMENT CHARACTER}[2J red" in capsys.readouterr().out


def test_fields_of_the_json_output(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, ready=1, active=2)]
    assert run_cli(["status", "night", "-o", "json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=ReleaseStatus)
    assert (found.state, found.run, found.pools["gpu"].pods) == ("working", "night-1a2b3c4d", 2)


BACKOFF = condition("Failed", "True", "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number")
POD_ENDS: dict[str, tuple[int, str, dict[str, Any], int]] = {
    "configuration": (78, "ArtifactError, exit 78: no model", REFUSED, 78),
    "usage": (2, "UsageError, exit 2: no such folder", REFUSED, 78),
    "a failed worker whose message has a key like an exit code": (70, "cam/exit 2/img.jpg: no CUDA", BACKOFF, 70),
    "a failed worker whose message has other words for one": (70, "after exit code 78 of cam-1.jpg", BACKOFF, 70),
    "too many failed inputs": (65, "TooManyFailedError, exit 65: 9 of 10 inputs failed", BACKOFF, 65),
}


@pytest.mark.parametrize(("ended_with", "message", "reason", "code"), POD_ENDS.values(), ids=POD_ENDS)
def test_the_exit_code_of_the_pod_decides(
    api: Api, capsys: pytest.CaptureFixture[str], ended_with: int, message: str, reason: dict[str, Any], code: int
) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, conditions=(reason,), failedIndexes="0")]
    api.pods = [pod(0, "Failed", containerStatuses=ended(ended_with, message=message))]
    assert run_cli(["status", "night", "--wait"]) == code
    assert message in capsys.readouterr().err


ENDS: dict[str, tuple[dict[str, Any], int, str]] = {
    "complete by its Jobs": ({"conditions": (condition("Complete"),)}, 0, ""),
    "permanent error": ({"conditions": (REFUSED,)}, 78, "is failed: PodFailurePolicy: Container annotate"),
    "anything else": ({"conditions": (condition("Failed", "True", "BackoffLimit", "too often"),)}, 70, "too often"),
}


@pytest.mark.parametrize(("status", "code", "words"), ENDS.values(), ids=ENDS)
def test_wait_exits_with_the_outcome(
    api: Api, capsys: pytest.CaptureFixture[str], status: dict[str, Any], code: int, words: str
) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, **status)]
    assert run_cli(["status", "night", "--wait"]) == code
    assert words in capsys.readouterr().err


def test_a_run_that_has_ended_with_too_many_failed(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(
        LocalStore(tmp_path / "out", "x"), spec_of(tmp_path), name="night-1a2b3c4d", is_date_given=False, process_id="x"
    )
    run.write_end(RunEnd(outcome="too_many_failed", by="x", inputs_listed=6, failed=6))
    api.jobs = [job("gpu", args=[*ON_VOLUME[:1], f"--out_top_dir=file://{tmp_path}/out", ON_VOLUME[2]])]
    assert run_cli(["status", "night", "--wait"]) == 65
    assert run_cli(["status", "night"]) == 0, "without --wait a read status is a success"
    assert "more inputs failed than allowed" in capsys.readouterr().out


def test_wait_fails_for_an_empty_input(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(
        LocalStore(tmp_path / "out", "x"), spec_of(tmp_path), name="night-1a2b3c4d", is_date_given=False, process_id="x"
    )
    run.write_end(RunEnd(outcome="succeeded", by="x"))
    args = [*ON_VOLUME[:1], f"--out_top_dir=file://{tmp_path}/out", ON_VOLUME[2]]
    api.jobs = [job("gpu", args=args, conditions=(BACKOFF,), failedIndexes="0")]
    api.pods = [
        pod(0, "Failed", containerStatuses=ended(65, message="NoInputsError, exit 65: no JSON files in s3://x"))
    ]
    assert run_cli(["status", "night", "--wait"]) == 65
    assert "no JSON files in s3://x" in capsys.readouterr().err
    api.pods = []
    assert run_cli(["status", "night", "--wait"]) == 0


@pytest.mark.parametrize(
    ("is_away", "words"), [(False, "the API server failed to list"), (True, "the API server http://127.0.0.1:")]
)
def test_wait_says_once_that_the_api_server_is_away(api: Api, is_away: bool, words: str) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, ready=1)]
    with called("--wait") as process:
        wait_until(lambda: len(api.asked) > 6)
        api.answer, api.is_away = (500, b""), is_away
        asked = len(api.asked)
        wait_until(lambda: len(api.asked) > asked + 2 + 4 * is_away)  # the client tries four times
        api.answer, api.is_away = None, False
        api.jobs = [job("gpu", args=ON_VOLUME, conditions=(condition("Complete"),))]
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.startswith(f"Warning: {words}")
    assert len(err.splitlines()) == 1
    assert out.count("Release night in namespace garage") == 2, "once at begin and once at the end"


@pytest.mark.parametrize(("flag", "code"), [("--wait", 75), ("--watch", 0)])
def test_ctrl_c_is_not_the_end_of_the_release(api: Api, flag: str, code: int) -> None:
    api.jobs = [job("gpu", args=ON_VOLUME, ready=1)]
    with called(flag) as process:
        wait_until(lambda: len(api.asked) > 6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Release night in namespace garage: working" in out
    assert "Traceback" not in err
    assert "install it again" not in err


@pytest.mark.parametrize(
    ("answer", "code"), [((403, b""), 78), ((503, b""), 75)], ids=["refused", "temporarily unreachable"]
)
def test_the_first_request_must_succeed(api: Api, answer: tuple[int, bytes], code: int) -> None:
    api.answer = answer
    assert run_cli(["status", "night", "--wait"]) == code
    assert len(api.asked) == 1


def test_no_such_release(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["status", "night"]) == 2
    assert "Error: namespace garage has no Jobs of a release night: give its name" in capsys.readouterr().err


def test_status_times_out_on_the_silent_endpoint_of_the_workers(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = {"name": "AWS_ENDPOINT_URL_S3", "value": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        raw = msgspec.to_builtins(job("gpu", args=[*ON_VOLUME[:1], "--out_top_dir=s3://pictures/out", ON_VOLUME[2]]))
        raw["spec"]["template"]["spec"]["containers"][0]["env"] = [endpoint]
        api.jobs = [raw]
        setting = "import job.storage.s3, k8s.storage_access as access; access.STORAGE_TIMEOUT_S = 2"
        script = f"{setting}; from job.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script, "status", "night", "-o", "json"],
            env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert select.select([silent], [], [], 0)[0], "no connection was made"
    assert json.loads(done.stdout)["warnings"] == [
        "the output s3://pictures/out cannot be read from here: no answer for 2 s"
    ]
