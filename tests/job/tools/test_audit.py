"""Every kind of damage is found and named; annotating the list repairs it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from job.cli.main import run as run_cli
from job.formats.mask_npz import to_npz
from job.run.run import newest_run
from job.storage.keys import split_key, stem_of
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.audit import AuditCounts, Finding
from job.tools.audit_deep import audit
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, write_inputs
from tests.processes import annotate as annotate_process
from tests.processes import results

DATED = ("--annotation_date", "2026-01-31")


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ten scenes and one broken input, annotated by the real model."""
    folder = tmp_path_factory.mktemp("audited")
    shutil.copytree(scenes, folder / "in")
    (folder / "in" / "zz_broken.json").write_text("{")
    (folder / "in" / "zz_broken.jpg").write_bytes(b"no picture")
    annotate_process(folder / "in", folder / "out", "--max_failed_fraction", "0.5", *DATED).check_returncode()
    return folder / "in", folder / "out"


@pytest.fixture
def data(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy to damage; the run's name of the input is the original's."""
    shutil.copytree(finished[1], tmp_path / "out")
    return finished[0], tmp_path / "out"


def found(data: tuple[Path, Path], *, deep: bool = True) -> list[Finding]:
    counts = AuditCounts()
    target = LocalStore(data[1], "auditor")
    findings = list(audit(LocalStore(data[0], "auditor"), target, newest_run(target).spec, counts, deep=deep))
    assert counts.inputs == 11
    assert counts.findings.total() == len(findings)
    return [finding for finding in findings if finding.kind != "failed"]


def pairs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def same_size(out: Path) -> tuple[Path, Path]:
    """Masks of two pictures of one size whose masks differ."""
    for one in pairs(out):
        for other in pairs(out):
            if one < other and size_of(one) == size_of(other) and one.read_bytes() != other.read_bytes():
                return one, other
    raise AssertionError("no two scenes of one size")


def size_of(npz: Path) -> tuple[int, ...]:
    with np.load(npz) as arrays:
        shape: tuple[int, ...] = arrays["mask"].shape
        return shape


def swap_both(out: Path) -> None:
    one, other = same_size(out)
    swap(one, other)
    swap(one.with_suffix(".json"), other.with_suffix(".json"))


def delete_all(out: Path) -> None:
    first = pairs(out)[0]
    for suffix in (".npz", ".json", ".jpg"):
        first.with_suffix(suffix).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str], int]] = {
    "a mask is deleted": (lambda out: pairs(out)[0].unlink(), {"torn"}, 1),
    "all of an image is deleted": (
        delete_all,
        {"missing"},
        1,
    ),
    "a mask is cut off": (lambda out: pairs(out)[0].write_bytes(pairs(out)[0].read_bytes()[:99]), {"unreadable"}, 1),
    "a JSON is cut off": (
        lambda out: pairs(out)[0].with_suffix(".json").write_bytes(b'{"annotation": {'),
        {"unreadable"},
        1,
    ),
    "a mask is emptied": (lambda out: pairs(out)[0].write_bytes(b""), {"empty"}, 1),
    "two masks of one size are swapped": (lambda out: swap(*same_size(out)), {"foreign", "mask_values"}, 2),
    "two whole pairs are swapped": (swap_both, {"foreign", "unreadable"}, 2),
    "another image lies in its place": (
        lambda out: pairs(out)[0].with_suffix(".jpg").write_bytes(pairs(out)[1].with_suffix(".jpg").read_bytes()),
        {"image_differs"},
        1,
    ),
    "a mask of another size": (
        lambda out: pairs(out)[0].write_bytes(to_npz(np.zeros((9, 7), np.uint8))),
        {"mask_size"},
        1,
    ),
}


@pytest.mark.parametrize(("damage", "kinds", "count"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_listed_and_repaired(
    data: tuple[Path, Path], damage: Callable[[Path], object], kinds: set[str], count: int, tmp_path: Path
) -> None:
    assert found(data) == []
    before = results(data[1])
    damage(data[1])
    damaged = {key for key, raw in before.items() if results(data[1]).get(key) != raw}
    findings = found(data)
    assert {finding.kind for finding in findings} <= kinds
    assert {stem_of(finding.key) for finding in findings} == {split_key(key)[0] for key in damaged}
    assert len(findings) == count
    keys = tmp_path / "keys"
    assert run_cli(["audit", str(data[1]), "--deep", "--list", str(keys), "--log_level", "ERROR"]) == 1
    assert keys.read_text().splitlines() == sorted(finding.key for finding in findings)
    redo = ("--input_list", str(keys), "--override_previous_annotations")
    annotate_process(data[0], data[1], *redo, *DATED).check_returncode()
    assert found(data) == []
    assert results(data[1]) == before


def test_orphans_are_named_and_never_listed(data: tuple[Path, Path], tmp_path: Path) -> None:
    (data[1] / "orphan.npz").write_bytes(b"x")
    assert [(f.kind, f.key) for f in found(data, deep=False)] == [("orphaned", "orphan.npz")]
    keys = tmp_path / "keys"
    assert run_cli(["audit", str(data[1]), "--list", str(keys)]) == 1
    assert keys.read_text() == ""


@pytest.mark.parametrize("gone", ["journal", "done"])
def test_without_the_runs_own_records_files_are_judged_by_themselves(data: tuple[Path, Path], gone: str) -> None:
    for folder in data[1].glob(f"_sam3/runs/*/{gone}"):
        shutil.rmtree(folder)
    assert found(data) == []
    assert found(data, deep=False) == []


def test_a_failed_input_is_no_finding_that_ends_with_one(
    data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["audit", str(data[1]), "-o", "json"]) == 0
    *findings, summary = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["kind"], f["key"]) for f in findings] == [("failed", "zz_broken.json")]
    assert "broken" in findings[0]["detail"].lower()
    assert (summary["inputs"], summary["annotated"], summary["failed"], summary["missing"]) == (11, 10, 1, 0)


def test_an_output_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["audit", str(tmp_path)]) == 2
    assert "is not the output of any run" in capsys.readouterr().err


def test_a_failure_that_a_later_run_repaired_does_not_count(tmp_path: Path, fake_session: FakeSession) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, 4)
    picture = (source / "00002.jpg").read_bytes()
    (source / "00002.jpg").write_bytes(b"broken")
    request = request_of(source, target, run_name="first")
    request = replace(request, options=replace(request.options, max_failed_fraction=1.0))
    annotate(request, Tally())
    (source / "00002.jpg").write_bytes(picture)
    annotate(request_of(source, target, run_name="second"), Tally())
    for suffix in (".json", ".jpg", ".npz"):
        (target / f"00002{suffix}").unlink()
    store = LocalStore(target, "a")
    findings = list(audit(LocalStore(source, "a"), store, newest_run(store).spec, AuditCounts(), deep=False))
    assert [(finding.kind, finding.key) for finding in findings] == [("missing", "00002.json")]
