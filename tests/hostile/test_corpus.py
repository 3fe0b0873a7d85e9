"""Hostile inputs end annotated or as one failed row with a reason; nothing is written outside of the output."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

from job.run.options import WorkerOptions
from job.run.spec import RunEnd
from job.storage.keys import printable
from job.system.resources import peak_resident_bytes
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, use_fake_session
from tests.hostile.corpus import GOOD_JSON, Case, cases
from tests.processes import results

# Pillow warns of odd metadata; `job.telemetry.logs` ignores that too.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

MAX_GROWTH_BYTES = 1 << 30
"""Of one run: the images in flight may have 1 million pixels and the JSONs 16 MiB each."""


def write_cases(folder: Path, chosen: Iterable[Case]) -> dict[str, Case]:
    """Write every case that the file system can store; returns them by the printable key of their JSON."""
    written = {}
    for case in chosen:
        path = os.fsencode(folder) + b"/" + case.stem
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            for suffix, content in ((b".json", case.json), (b".jpg", case.image)):
                with open(path + suffix, "wb") as stream:
                    stream.write(content)
        except OSError:
            continue
        written[printable(os.fsdecode(case.stem)) + ".json"] = case
    return written


def digest_of(folder: Path) -> str:
    """Digest of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(os.fsencode(path) for path in folder.rglob("*")):
        digest.update(path)
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                digest.update(stream.read())
    return digest.hexdigest()


def peak_growth_bytes(before: int) -> int:
    return peak_resident_bytes() - before


def reset_peak() -> int:
    """Set the peak of this process to its current memory, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def annotate_cases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunEnd:
    use_fake_session(monkeypatch, FakeSession())
    options = WorkerOptions(device="cpu", max_failed_fraction=1, image_timeout_s=60)
    end = annotate(request_of(folder / "in", folder / "out", run_name="hostile", options=options), Tally())
    assert end is not None
    return end


def reasons_of(folder: Path) -> dict[str, str]:
    table = folder / "out/_sam3/runs/hostile/failures.jsonl"
    rows = [json.loads(line) for line in table.read_bytes().split(b"\n") if line]
    assert len(rows) == len({row["json"] for row in rows}), "one row an input"
    return {row["json"]: row["reason"] for row in rows}


def check_outcomes(folder: Path, written: dict[str, Case], end: RunEnd) -> dict[str, str]:
    """Every case is annotated with all its files, or failed with a reason and without any; returns the reasons."""
    reasons = reasons_of(folder)
    assert end.annotated + end.failed == end.inputs_listed == len(written)
    assert end.failed == len(reasons)
    assert set(reasons) <= set(written)
    stored = {printable(name) for name in results(folder / "out")}
    for key in written:
        stem = key.removesuffix(".json")
        files = stored & {f"{stem}{suffix}" for suffix in (".json", ".jpg", ".npz")}
        if key in reasons:
            assert 5 < len(reasons[key]) < 2_000, reasons[key]
            assert not files, key
        else:
            assert len(files) == 3, key
    expected = 3 * (len(written) - len(reasons))
    assert len(stored) == expected, "no other file"
    return reasons


def run_corpus(folder: Path, chosen: Iterable[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotate cases, check what must hold for each, and print the counts by outcome."""
    written = write_cases(folder / "in", chosen)
    inputs, begun_s = digest_of(folder / "in"), time.monotonic()
    resident = reset_peak()
    end = annotate_cases(folder, monkeypatch)
    growth, spent_s = peak_growth_bytes(resident), time.monotonic() - begun_s
    reasons = check_outcomes(folder, written, end)
    assert digest_of(folder / "in") == inputs, "the input is never written"
    assert {path.name for path in folder.iterdir()} == {"in", "out"}
    assert growth < MAX_GROWTH_BYTES
    kinds = Counter(" ".join(reason.removeprefix(f"{folder}/").split()[:4]) for reason in reasons.values())
    lines = [f"{len(written)} cases: {end.annotated} annotated, {end.failed} failed, {spent_s:.0f} s"]
    lines += [f"{growth / 1e6:.0f} MB more memory at most", *(f"{n:6} {kind}" for kind, n in kinds.most_common(40))]
    sys.stdout.write("\n".join(lines) + "\n")


@pytest.mark.timeout(120)
def test_a_sample_of_hostile_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_corpus(tmp_path, cases(seed=1, images=60, documents=60), monkeypatch)


@pytest.mark.slow
def test_hostile_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Case("numbers", b"numbers", b'{"a": [%s1]}' % (b"1," * 8_000_000), GOOD_JSON)
    large = Case("large", b"large", b'{"a": [%s1]}' % (b"1," * 50_000_000), GOOD_JSON)
    run_corpus(tmp_path, chain(cases(seed=2, images=3_500, documents=1_500), (numbers, large)), monkeypatch)
