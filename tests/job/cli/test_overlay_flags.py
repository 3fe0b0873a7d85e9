from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from job.cli.annotate import annotate
from tests.fakes import write_inputs

COUNT = 4


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_inputs(tmp_path / "in", COUNT)
    return tmp_path / "in", tmp_path / "out"


def run(folders: tuple[Path, Path], *arguments: str) -> Result:
    """Annotate; `arguments` come before the flags, so that a flag without a value is followed by another flag."""
    source, target = map(str, folders)
    return CliRunner().invoke(annotate, [*arguments, "--input_top_dir", source, "--out_top_dir", target])


def overlays(folders: tuple[Path, Path]) -> list[Path]:
    return sorted((folders[1] / "_sam3" / "overlays").glob("**/*.*"))


@pytest.mark.parametrize(
    ("arguments", "suffixes"),
    [
        pytest.param((), [], id="none by default"),
        pytest.param(("--visualize",), [".jpg"] * COUNT, id="without a value: all"),
        pytest.param(("--visualize", "all"), [".jpg"] * COUNT, id="all"),
        pytest.param(("--visualize", "3"), [".jpg"] * 3, id="three"),
        pytest.param(("--visualize=99", "--shard_size", "1"), [".jpg"] * COUNT, id="more than there are"),
        pytest.param(("--visualize", "1", "--overlay_format", "webp"), [".webp"], id="WebP"),
        pytest.param(("--visualize", "1", "--overlay_format", "png"), [".png"], id="PNG"),
    ],
)
def test_overlays_of_the_images_asked_for(
    folders: tuple[Path, Path], arguments: tuple[str, ...], suffixes: list[str]
) -> None:
    result = run(folders, *arguments)
    assert result.exit_code == 0, result.output
    assert [path.suffix for path in overlays(folders)] == suffixes


def test_n_images_are_the_first_of_the_plan_whatever_the_shards(folders: tuple[Path, Path]) -> None:
    assert run(folders, "--visualize", "2", "--shard_size", "1", "--order", "backward").exit_code == 0
    first = sorted(path.stem for path in folders[0].glob("**/*.json"))[:2]
    assert [path.stem for path in overlays(folders)] == first


def test_overlay_side_is_the_longest_side(folders: tuple[Path, Path]) -> None:
    assert run(folders, "--visualize", "1", "--overlay_side", "20").exit_code == 0
    with Image.open(overlays(folders)[0]) as overlay:
        assert overlay.size == (20, 15)


@pytest.mark.parametrize("value", ["0", "some", "1.5"])
def test_visualize_takes_a_number_or_all(folders: tuple[Path, Path], value: str) -> None:
    result = run(folders, f"--visualize={value}")
    assert result.exit_code == 2
    assert "is neither a number of images from 1 nor all" in result.output


def test_overlays_change_neither_masks_nor_json(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 2)
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    assert run((tmp_path / "in", plain)).exit_code == 0
    assert run((tmp_path / "in", drawn), "--visualize", "--overlay_side", "16").exit_code == 0
    files = [path.relative_to(plain) for path in plain.glob("**/*") if path.is_file() and "_sam3" not in path.parts]
    assert len(files) == 6
    assert all((plain / name).read_bytes() == (drawn / name).read_bytes() for name in files)


def test_damaged_jpegs_fail_or_are_warned_about(tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 2, size_wh=(320, 240))
    early, padded = sorted((tmp_path / "in").glob("**/*.jpg"))
    buffer = io.BytesIO()
    Image.effect_noise((320, 240), 90).save(buffer, "JPEG")
    data = buffer.getvalue()
    early.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    padded.write_bytes(data[:-2] + bytes(9) + b"\xff\xd9")
    result = run((tmp_path / "in", tmp_path / "out"))
    assert result.exception is not None
    assert "1 of 2 inputs failed" in str(result.exception)
    assert f"{padded.name}: the image is damaged (Corrupt JPEG data: " in result.output
    assert [path.name for path in (tmp_path / "out").glob("**/*.npz")] == [f"{padded.stem}.npz"]
    rows = (tmp_path / "out").glob("_sam3/runs/*/failures.jsonl")
    assert "image is truncated" in next(rows).read_text()
