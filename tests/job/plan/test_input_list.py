"""Lists of keys in place of a listing."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from job.errors import UsageError
from job.plan.input_list import open_input_list
from job.storage.open import Address
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate, list_planned
from tests.fakes import FakeSession, request_of, write_inputs
from tests.processes import results


def keys(path: Path, column: str | None = None, input_url: str = "s3://bucket/in") -> list[str]:
    return list(open_input_list(str(path), column, Address(input_url), input_url).json_keys())


def test_keys_come_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes("b/2.json\na.json\r\n\n./b/1.json\nb/2.json\né.json\n".encode())
    assert keys(path) == ["a.json", "b/1.json", "b/2.json", "é.json"]


def test_a_key_that_is_not_utf8_goes_through(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"\xff.json\n")
    assert keys(path) == ["\udcff.json"]


def test_an_inventory_without_header_gives_a_column_by_number(tmp_path: Path) -> None:
    path = tmp_path / "inventory.csv.gz"
    rows = '"bucket","in/day+1/b%2B.json","12"\n"bucket","in/a.jpg","3"\n"bucket","other/a.json","3"\n'
    path.write_bytes(gzip.compress(rows.encode()))
    assert keys(path, "1") == ["day 1/b+.json"]


def test_a_column_by_name(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("size,key\n3,in/b.json\n4,in/a.json\n")
    assert keys(path, "key") == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a.jpg\n", None, r"line 1: 'a.jpg' is not the key of a JSON"),
        ("size,name\n3,x\n", "key", r"has the columns size, name: no 'key'"),
        ("a,b\n", "5", r"line 1 has 2 columns, no column 5"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, column: str | None, message: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        keys(path, column)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for path, words in {"none": "cannot be read", ".": "cannot be read", "folder/": "is a folder"}.items():
        with pytest.raises(UsageError, match=words):
            open_input_list(f"{tmp_path}/{path}", None, Address(str(tmp_path)), "")


@pytest.mark.parametrize("cut", [0, 7, -9], ids=["no gzip", "half a header", "no end"])
def test_a_list_that_cannot_be_unpacked(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress(b"a.json\n" * 1000)[:cut] or b"a.json\n")
    with pytest.raises(UsageError, match=r"--input_list .*/list\.gz cannot be read"):
        keys(path)


def test_a_list_beside_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("a.json\n")
    assert list(open_input_list("list", None, Address("s3://bucket/in"), "s3://bucket/in").json_keys()) == ["a.json"]


def test_annotate_does_what_is_listed_and_looks_for_the_rest_itself(tmp_path: Path, fake_session: FakeSession) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    write_inputs(source, 6)
    (source / "00005.jpg").unlink()
    path = tmp_path / "list"
    path.write_text("00001.json\n00003.json\n00005.json\nnone.json\n")
    request = request_of(source, target, input_list_sha256="x")
    request = replace(request, input_list=open_input_list(str(path), None, Address(str(source)), str(source)))
    assert list(list_planned(request)) == ["00001.json", "00003.json", "00005.json", "none.json"]
    request = replace(request, options=replace(request.options, max_failed_fraction=1.0))
    end = annotate(request, Tally())
    assert end is not None
    assert (end.annotated, end.failed, end.inputs_listed) == (2, 2, 4)
    assert set(results(target)) == {f"0000{n}{s}" for n in (1, 3) for s in (".jpg", ".json", ".npz")}
    tally = Tally()
    annotate(replace(request, run_name="again"), tally)
    assert (tally.annotated, tally.skipped, tally.failed) == (0, 2, 2)
