"""Rows of the instance table that are missing, or not those of the stored mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from job.formats.instance_table import InstanceRow, Rle, decode_part, encode_part
from job.formats.rle import encode_rle
from job.plan.plan import shard_name
from job.postprocess.masks import CroppedMask
from job.run.run import newest_run
from job.storage.local.store import LocalStore
from job.telemetry.progress_bar import Tally
from job.tools.audit import AuditCounts
from job.tools.audit_deep import audit
from job.worker.runner import annotate
from tests.fakes import request_of, use_fake_session, write_inputs
from tests.job.tools.test_audit_deep import VariedSession, found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 6)
    return tmp_path / "in"


@pytest.fixture
def target(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six annotated images."""
    use_fake_session(monkeypatch, VariedSession())
    annotate(request_of(source, tmp_path / "out", run_name="one"), Tally())
    return tmp_path / "out"


def edit_table(target: Path, edit: Callable[[list[InstanceRow]], list[InstanceRow]]) -> None:
    """Change the rows of `00002.json` in the instance table."""
    for path in target.glob("_sam3/runs/one/instances/*/*"):
        rows = decode_part(path.read_bytes())
        others = [row for row in rows if row.json != "00002.json"]
        changed = [*others, *edit([row for row in rows if row.json == "00002.json"])]
        path.write_bytes(encode_part(changed or [msgspec.structs.replace(rows[0], json="x.json")]))


def with_fields(**fields: Any) -> Callable[[list[InstanceRow]], list[InstanceRow]]:
    return lambda rows: [msgspec.structs.replace(row, **fields) for row in rows]


ANOTHER_MASK = Rle((30, 40), encode_rle(CroppedMask((30, 40), (3, 3, 11, 4), np.array([[255]], np.uint8)), (30, 40)))

TABLES: dict[str, tuple[Callable[[list[InstanceRow]], list[InstanceRow]], str]] = {
    "without rows": (lambda rows: [], "has no rows of it"),
    "one row twice": (lambda rows: [*rows, *rows], "2 instances with a value, the journal 1"),
    "another class": (with_fields(class_name="bus"), "instances with a value"),
    "another mask": (with_fields(rle=ANOTHER_MASK), "painted, are not the mask of the NPZ"),
    "damaged counts": (with_fields(rle=Rle((30, 40), "0")), "do not fill a raster"),
    "no mask": (with_fields(rle=None), "painted, are not the mask of the NPZ"),
    "another size": (with_fields(width=41), "in a raster of 30 x 41"),
    "another value": (with_fields(value=7), "painted, are not the mask of the NPZ"),
    "another area": (with_fields(area=1), "box or areas of value 255"),
    "another visible area": (with_fields(visible_area=1), "box or areas of value 255"),
    "another box": (with_fields(box=(0, 0, 1, 1)), "box or areas of value 255"),
}


@pytest.mark.parametrize(("edit", "detail"), TABLES.values(), ids=TABLES)
def test_rows_that_are_not_those_of_the_mask_are_found(
    source: Path, target: Path, edit: Callable[[list[InstanceRow]], list[InstanceRow]], detail: str
) -> None:
    assert found(source, target) == []
    edit_table(target, edit)
    assert found(source, target) == [("instances", "00002.json")]
    store = LocalStore(target, "auditor")
    (finding,) = audit(LocalStore(source, "auditor"), store, newest_run(store).spec, AuditCounts(), deep=True)
    assert detail in finding.detail


def test_a_missing_part_of_the_table_is_found_and_a_run_without_tables_is_whole(
    source: Path, target: Path, tmp_path: Path
) -> None:
    for path in target.glob(f"_sam3/runs/one/instances/{shard_name(2)}/*"):
        path.unlink()
    assert found(source, target) == [("instances", "00002.json")]
    annotate(request_of(source, tmp_path / "plain", instances="none"), Tally())
    assert found(source, tmp_path / "plain") == []
