"""`logs`: selection of pods and prefixes of lines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from job.cli.main import run as run_cli
from k8s.cli.logs import MAX_FOLLOWED
from tests.k8s.api import Api
from tests.k8s.objects import job, pod, time


def created(name: str, index: int, seconds_ago: float, pool: str = "gpu") -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.to_builtins(pod(index, pool=pool))
    raw["metadata"] |= {"name": name, "creationTimestamp": time(seconds_ago)}
    return raw


@pytest.fixture
def pods(api: Api) -> Api:
    """Index 0 of the gpu pool was replaced; index 1 has not started."""
    api.jobs = [job("gpu"), job("cpu")]
    api.pods = [
        created("gpu-1-a", 1, 500),
        created("gpu-0-new", 0, 100),
        created("gpu-0-old", 0, 900),
        created("cpu-0-a", 0, 900, "cpu"),
    ]
    api.logs = {"gpu-0-old": b"first try\n", "gpu-0-new": b"second\ntry \x1b[2J", "cpu-0-a": b"slowly\n"}
    return api


SECOND_TRY = ["gpu-0 second", "gpu-0 try \N{REPLACEMENT CHARACTER}[2J"]
SHOWN: dict[str, tuple[list[str], list[str]]] = {
    "the newest of each index": ([], ["cpu-0 slowly", *SECOND_TRY]),
    "those that were replaced too": (["--all"], ["cpu-0 slowly", *SECOND_TRY, "gpu-0 first try"]),
    "of a pool": (["--pool", "cpu"], ["cpu-0 slowly"]),
    "of two pools": (["--pool", "cpu", "--pool", "gpu"], ["cpu-0 slowly", *SECOND_TRY]),
    "of an index": (["--index", "0", "--pool", "gpu"], SECOND_TRY),
    "one that has not started": (["--index", "1"], []),
}


@pytest.mark.parametrize(("flags", "lines"), SHOWN.values(), ids=SHOWN)
def test_selection_of_pods(pods: Api, capsys: pytest.CaptureFixture[str], flags: list[str], lines: list[str]) -> None:
    assert run_cli(["logs", "night", *flags]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_logs_are_followed_concurrently(pods: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["logs", "night", "-f", "--tail", "7"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(["cpu-0 slowly", *SECOND_TRY])
    followed = [path for path in pods.asked if "/log?" in path]
    assert len(followed) == 3
    assert all("follow=True" in path and "tailLines=7" in path for path in followed)


def test_a_pod_that_cannot_be_followed_does_not_end_the_others(pods: Api, capsys: pytest.CaptureFixture[str]) -> None:
    pods.refused = {"log"}
    assert run_cli(["logs", "night", "-f", "--pool", "cpu"]) == 0
    assert "cpu-0 Warning: the cluster refuses to get pods/log" in capsys.readouterr().err


def test_too_many_pods_to_follow(pods: Api, capsys: pytest.CaptureFixture[str]) -> None:
    pods.pods = [pod(index) for index in range(MAX_FOLLOWED + 1)]
    assert run_cli(["logs", "night", "-f"]) == 2
    assert "51 pods match, --follow takes at most 50: give --index or --pool" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--index", "7"], ["--pool", "cpu", "--index", "1"]])
def test_no_such_pod(pods: Api, capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert run_cli(["logs", "night", *flags]) == 2
    assert "release night has no such pods: see `sam3-annotate status night`" in capsys.readouterr().err


def test_forbidden_logs(pods: Api, capsys: pytest.CaptureFixture[str]) -> None:
    pods.refused = {"pods"}
    assert run_cli(["logs", "night"]) == 78
    assert "ask for a Role that grants it" in capsys.readouterr().err
