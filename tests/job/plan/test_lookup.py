"""Files whose names differ only in Unicode normalization, and reasons that say so."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from job.plan.input_list import open_input_list
from job.plan.lookup import no_image_reason
from job.storage.local.store import LocalStore
from job.storage.open import Address
from job.telemetry.progress_bar import Tally
from job.worker.runner import annotate
from tests.fakes import FakeSession, request_of, write_inputs

NFC = unicodedata.normalize("NFC", "caf\N{LATIN SMALL LETTER E WITH ACUTE}")
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("json", "image", "form"),
    [
        pytest.param(f"day/{NFC}.json", f"day/{NFD}.jpg", "NFD", id="NFD image"),
        pytest.param(f"day/{NFD}.json", f"day/{NFC}.JPG", "NFC", id="NFC image"),
        pytest.param(f"{NFC}/{NFC}.json", f"{NFD}/{NFD}.jpeg", "NFD", id="folder too"),
    ],
)
def test_an_image_in_another_unicode_form_is_named(tmp_path: Path, json: str, image: str, form: str) -> None:
    for key in (json, image):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).touch()
    reason = no_image_reason(LocalStore(tmp_path, "a"), json)
    assert reason.startswith(f"No image found at {tmp_path}/{json}: ")
    assert f"{image.rpartition('/')[2]!a} has the same name in another Unicode normalization form ({form})" in reason


def test_without_such_an_image_the_reason_stays(tmp_path: Path) -> None:
    (tmp_path / f"{NFC}.json").touch()
    assert no_image_reason(LocalStore(tmp_path, "a"), f"{NFC}.json") == f"No image found at {tmp_path}/{NFC}.json"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG", ".tiff", ".heic", ".Jpg"])
def test_a_picture_that_is_not_read_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "day").mkdir()
    for name in ("image1.json", f"image1{suffix}", "image1.txt", "image10.png"):
        (tmp_path / "day" / name).touch()
    assert no_image_reason(LocalStore(tmp_path, "a"), "day/image1.json") == (
        f"No image found at {tmp_path}/day/image1.json: found image1{suffix}; only .jpg and .jpeg are read. "
        "Convert it to JPEG"
    )


def test_a_listed_key_in_another_unicode_form_fails_with_a_reason(tmp_path: Path, fake_session: FakeSession) -> None:
    source = tmp_path / "in"
    write_inputs(source, 1)
    for suffix in (".json", ".jpg"):
        (source / f"00000{suffix}").rename(source / f"{NFD}{suffix}")
    path = tmp_path / "list"
    path.write_text(f"{NFC}.json\n")
    request = request_of(source, tmp_path / "out", input_list_sha256="x")
    request = replace(
        request,
        input_list=open_input_list(str(path), None, Address(str(source)), str(source)),
        options=replace(request.options, max_failed_fraction=1.0),
    )
    end = annotate(request, Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (0, 1)
    failures = next((tmp_path / "out" / "_sam3" / "runs").glob("*/failures.jsonl")).read_text()
    assert "another Unicode normalization form (NFD)" in failures
