"""`suspend`, `resume`, `scale` and `cancel`: refusals and confirmation, before Helm is called."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from job.cli.main import run as run_cli
from job.errors import UsageError
from k8s.api_objects import Job
from k8s.cli.lifecycle import _chosen
from tests.k8s.api import Api
from tests.k8s.objects import condition, job, release

DONE = (condition("Complete"),)
NO_HELM = "Error: the program helm is not on the PATH: install Helm"


class Terminal(io.StringIO):
    """A person who has typed something."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def without_helm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(autouse=True)
def running(api: Api) -> None:
    api.jobs = [job("gpu", active=2), job("cpu", conditions=DONE)]


REFUSED: dict[str, tuple[list[str], str]] = {
    "more pods than indexes": (
        ["scale", "night", "--parallelism=9"],
        "pool gpu has 8 indexes, --parallelism is 9: give at most 8",
    ),
    "no number of pods": (["scale", "night", "--parallelism=-1"], "-1 is not in the range"),
    "a pool of another chart": (["suspend", "night", "--pool=tpu"], "'tpu' is not one of 'gpu', 'cpu'"),
    "no release to suspend": (["suspend", "day"], "namespace garage has no Jobs of a release day"),
    "no release to resume": (["resume", "day", "-n", "garage"], "namespace garage has no Jobs of a release day"),
    "no release to cancel": (["cancel", "day", "--yes"], "namespace garage has no Jobs of a release day"),
    "no name": (["suspend", "Night!"], "'Night!' is not a valid release name: give at most 53 lower-case letters"),
    "too long a name": (["cancel", "n" * 54, "--yes"], "is not a valid release name"),
    "a dot at the end": (["scale", "night.", "--parallelism=1"], "is not a valid release name"),
    "no terminal to ask": (
        ["cancel", "night"],
        "nothing was removed, because there is no terminal for the confirmation: give --yes",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert run_cli(arguments) == 2
    assert words in capsys.readouterr().err


HELM_OF = """#!/bin/sh
echo "$@" >> "$0.called"
case "$1 $2" in
    "get metadata") echo '{{"version": "{installed}"}}' ;;
    "get values") echo '{{"pools": {{"gpu": {{"suspend": true}}}}}}' ;;
    "show chart") echo 'version: 0.1.0' ;;
esac
"""


@pytest.mark.parametrize("arguments", [["suspend"], ["resume"], ["scale", "--parallelism=8"]], ids=" ".join)
def test_another_chart_version_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    helm = tmp_path / "helm"
    helm.write_text(HELM_OF.format(installed="0.0.9"))
    helm.chmod(0o755)
    command = [arguments[0], "night", *arguments[1:], "--chart=./mine"]
    assert run_cli(command) == 2
    told = capsys.readouterr().err
    assert "release night was installed from version 0.0.9 of the chart, ./mine is 0.1.0: give that version by" in told
    helm.write_text(HELM_OF.format(installed="0.1.0"))
    assert run_cli(command) == 0
    called = (tmp_path / "helm.called").read_text().splitlines()
    assert [line.split()[0] for line in called].count("upgrade") == 1
    assert called[-1].startswith("upgrade night ./mine --reuse-values --set-json pools.gpu.")


@pytest.mark.parametrize("command", ["suspend", "resume"])
def test_jobs_of_kueue_are_refused(api: Api, capsys: pytest.CaptureFixture[str], command: str) -> None:
    api.jobs = [job("gpu", suspend=True, queue="night-shift"), job("cpu", queue="night-shift")]
    assert run_cli([command, "night", "--pool=gpu"]) == 2
    assert "release night is in queue night-shift of Kueue, which owns `suspend`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["suspend", "night"], ["resume", "night"], ["scale", "night", "--parallelism=8"], ["cancel", "night", "--yes"]],
    ids=lambda arguments: arguments[0],
)
def test_all_commands_need_helm(api: Api, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run_cli(arguments) == 78
    assert NO_HELM in capsys.readouterr().err
    assert api.patched == []


def test_cancel_asks_for_confirmation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert run_cli(["cancel", "night"]) == 0
    shown = capsys.readouterr().out
    assert "gpu: Job night-gpu-0a1b2c3d with 2 pods\ncpu: Job night-cpu-0a1b2c3d with 0 pods\n" in shown
    assert "Remove release night from namespace garage? [y/N]" in shown
    assert shown.endswith("Nothing was removed\n")

    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run_cli(["cancel", "night"]) == 78
    assert NO_HELM in capsys.readouterr().err


CHOSEN: dict[str, tuple[dict[str, Job], tuple[str, ...], list[str]]] = {
    "all that have work left": ({"gpu": job("gpu"), "cpu": job("cpu", conditions=DONE)}, (), ["gpu"]),
    "all, where none has": (
        {"gpu": job("gpu", conditions=DONE), "cpu": job("cpu", conditions=DONE)},
        (),
        ["cpu", "gpu"],
    ),
    "one that was asked for": ({"gpu": job("gpu"), "cpu": job("cpu", conditions=DONE)}, ("cpu",), ["cpu"]),
}


@pytest.mark.parametrize(("jobs", "asked", "chosen"), CHOSEN.values(), ids=CHOSEN)
def test_selection_of_pools(jobs: dict[str, Job], asked: tuple[str, ...], chosen: list[str]) -> None:
    assert _chosen(release(**jobs), asked) == chosen


def test_a_disabled_pool() -> None:
    with pytest.raises(UsageError, match="release night has no pool gpu: it has cpu"):
        _chosen(release(cpu=job("cpu")), ("gpu",))
