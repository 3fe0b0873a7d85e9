"""Checks of artifacts that need OpenVINO: their stored answers, and two runs."""

from __future__ import annotations

from pathlib import Path

from job.model.artifact import Artifact
from job.model.self_check import SelfCheck, self_check
from job.model.session import Session
from job.postprocess.masks import full_mask
from tests.fakes import write_inputs
from tests.processes import annotate, results


def check_stored_answers(artifact: Artifact, session: Session, scores_within: float, why: str = "") -> SelfCheck:
    """Check that a session gives the original's stored answers, but not those of float32; the result."""
    check = self_check(artifact, session, full_mask, mode="always")
    assert check is not None
    assert check.figures.passed, check.figures
    assert 1e-4 < check.figures.score_max < scores_within, why
    assert sum(check.figures.instances.values()) == 13
    return check


def run_flags(artifact: Artifact, folder: Path) -> tuple[str, ...]:
    """Flags of a run that name no runtime."""
    return ("--model", str(artifact.folder), "--threads", "1", "--model_cache", str(folder / "cache"))


def check_two_runs(artifact: Artifact, folder: Path) -> None:
    """Check that runs into `one` and `two` take OpenVINO without a flag, and give the same bytes."""
    write_inputs(folder / "in", 2)
    outputs = []
    for name in ("one", "two"):
        names = ("--run", "run", "--annotation_date", "2026-01-01")
        done = annotate(folder / "in", folder / name, *names, *run_flags(artifact, folder))
        assert done.returncode == 0, done.stderr
        assert f"Runtime: openvino, because the model is {artifact.manifest.precision}" in done.stderr
        outputs.append(results(folder / name))
    assert outputs[0] == outputs[1]
