"""Lists of keys that replace a listing."""

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


def test_keys_are_sorted_and_unique(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes("b/2.json\na.json\r\n\n./b/1.json\nb/2.json\né.json\n".encode())
    assert keys(path) == ["a.json", "b/1.json", "b/2.json", "é.json"]


def test_a_key_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"\xff.json\n")
    assert keys(path) == ["\udcff.json"]


def test_a_column_by_number_of_an_inventory_without_header(tmp_path: Path) -> None:
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
        (".//c.json\n", None, "line 1: '/c.json' is an absolute path"),
        ("a,b\n", "5", r"line 1 has 2 columns, no column 5"),
        ("a,b\n", "\xb2", "has the columns a, b: no '\xb2'"),
        (f"{'a' * 200_000}\n", "0", "cannot be read: field larger than field limit"),
        (f"{'a' * 2_000_000}", None, "line 1 has more than 1048576 characters: give one key a line"),
    ],
)
def test_an_invalid_list_is_refused(tmp_path: Path, text: str, column: str | None, message: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        keys(path, column)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/data/in/a.json", "an absolute path"),
        ("s3://bucket/in/a.json", "a URL"),
        ("https://host/a.json", "a URL"),
        ("folder\\a.json", "a path with a backslash"),
        ("C:\\in\\a.json", "a path with a backslash"),
        ("/data/in/a.jpg", "an absolute path"),
    ],
)
def test_a_path_that_is_not_relative_is_refused_with_its_line(tmp_path: Path, line: str, kind: str) -> None:
    path = tmp_path / "list"
    path.write_text(f"a.json\n\n{line}\nb.json\n")
    with pytest.raises(UsageError, match=rf"line 3: .* is {kind}\. Give keys relative to the input s3://bucket/in"):
        open_input_list(str(path), None, Address("s3://bucket/in"), "s3://bucket/in")


def test_a_path_far_down_in_a_list_is_refused_by_the_planner(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a.json\n" * 2000 + "/b.json\n")
    found = open_input_list(str(path), None, Address("s3://bucket/in"), "s3://bucket/in")
    with pytest.raises(UsageError, match="line 2001"):
        list(found.json_keys())


@pytest.mark.parametrize("url", ["s3://bucket/in/a.json", "/in/a.json", "in/b%5Ca.json"])
def test_a_path_in_a_column_is_refused_with_its_line(tmp_path: Path, url: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"size,key\n1,in/x.json\n2,{url}\n")
    with pytest.raises(UsageError, match="line 3: "):
        keys(path, "key")


def test_a_key_of_another_folder_may_have_a_backslash(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("size,key\n1,other/b%5Ca.json\n2,in/a.json\n")
    assert keys(path, "key") == ["a.json"]


VERSIONS = [
    ("in/kept.json", "true", "false"),
    ("in/kept.json", "false", "false"),
    ("in/gone.json", "true", "true"),
    ("in/gone.json", "false", "false"),
    ("in/back.json", "true", "false"),
    ("in/back.json", "false", "true"),
]


@pytest.mark.parametrize("is_first_latest", [True, False])
def test_an_inventory_of_all_versions_gives_the_current_ones(tmp_path: Path, is_first_latest: bool) -> None:
    path = tmp_path / "inventory.csv"
    versions = VERSIONS if is_first_latest else VERSIONS[::-1]
    rows = [f'"bucket","{key}","v{n}","{latest}","{marker}","3"' for n, (key, latest, marker) in enumerate(versions)]
    path.write_text("\n".join(rows))
    assert keys(path, "1") == ["back.json", "kept.json"]


@pytest.mark.parametrize("names", ["IsLatest,IsDeleteMarker", "is_latest,is_delete_marker"])
def test_a_header_names_the_columns_of_versions(tmp_path: Path, names: str) -> None:
    path = tmp_path / "inventory.csv"
    path.write_text(f"key,{names}\n" + "\n".join(",".join(row).replace("true", "TRUE") for row in VERSIONS))
    assert keys(path, "key") == ["back.json", "kept.json"]


def test_a_list_without_versions_is_not_cut(tmp_path: Path) -> None:
    """Booleans elsewhere are no flags of versions: of an inventory of current versions, or of another list."""
    path = tmp_path / "list.csv"
    path.write_text("bucket,in/a.json,3,false,COMPLETED\nbucket,in/b.json,3,false,\n")
    assert keys(path, "1") == ["a.json", "b.json"]
    path.write_text("in/a.json,3,x,false,true\n")
    assert keys(path, "0") == ["a.json"]


def test_a_list_that_does_not_exist(tmp_path: Path) -> None:
    for path, words in {"none": "cannot be read", ".": "cannot be read", "folder/": "is a folder"}.items():
        with pytest.raises(UsageError, match=words):
            open_input_list(f"{tmp_path}/{path}", None, Address(str(tmp_path)), "")


@pytest.mark.parametrize("cut", [0, 7, -9], ids=["no gzip", "half a header", "no end"])
def test_a_list_that_cannot_be_decompressed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress(b"a.json\n" * 1000)[:cut] or b"a.json\n")
    with pytest.raises(UsageError, match=r"--input_list .*/list\.gz cannot be read"):
        keys(path)


def test_a_list_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("a.json\n")
    assert list(open_input_list("list", None, Address("s3://bucket/in"), "s3://bucket/in").json_keys()) == ["a.json"]


def test_annotate_processes_listed_keys_and_looks_up_images_and_outputs(
    tmp_path: Path, fake_session: FakeSession
) -> None:
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
