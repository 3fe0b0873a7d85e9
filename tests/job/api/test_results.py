"""Stored annotations through the Python API."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from job.api.results import Results
from job.errors import ConfigurationError
from job.storage.local.store import LocalStore
from tests.job.convert.synthetic import (
    CLASSES,
    CONTENT,
    ROTATED,
    SyntheticSource,
    masks_of,
    upright_masks_of,
    write_images,
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    write_images(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return Results(SyntheticSource(), (LocalStore(tmp_path / "elsewhere", "x"), LocalStore(tmp_path, "x")))


def test_images_and_instances(results: Results) -> None:
    assert results.class_names == CLASSES
    for annotation, (stem, found) in zip(results, CONTENT.items(), strict=True):
        assert (annotation.key, annotation.image_key) == (f"{stem}.json", f"{stem}.jpg")
        assert [(one.class_name, one.score) for one in annotation.instances] == [
            (name, score) for name, score, _ in found
        ]
        for instance, mask in zip(annotation.instances, masks_of(stem), strict=True):
            assert np.array_equal(instance.mask, mask)
            rows, columns = np.nonzero(mask)
            assert instance.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert instance.area == mask.sum()
    assert len(list(results.instances())) == sum(map(len, CONTENT.values()))


def test_reading_is_lazy() -> None:
    class Counting(SyntheticSource):
        read = 0

        def images(self, *arguments: Any) -> Any:
            for image in super().images(*arguments):
                self.read += 1
                yield image

    source = Counting()
    next(iter(Results(source, ())))
    assert source.read == 1


def test_the_upright_frame(results: Results) -> None:
    (annotation,) = [one for one in results if one.key == f"{ROTATED}.json"]
    assert (annotation.size_hw, annotation.orientation) == ((48, 64), 6)
    upright = annotation.upright()
    assert (upright.size_hw, upright.orientation) == ((64, 48), 1)
    for instance, mask in zip(upright.instances, upright_masks_of(ROTATED), strict=True):
        assert np.array_equal(instance.mask, mask)


def test_coco(results: Results, tmp_path: Path) -> None:
    for annotation, stem in zip(results, CONTENT, strict=True):
        (tmp_path / "one.json").write_text(json.dumps(annotation.to_coco()))
        with contextlib.redirect_stdout(io.StringIO()):
            document = COCO(str(tmp_path / "one.json"))
        for held, mask in zip(document.loadAnns(document.getAnnIds()), masks_of(stem), strict=True):
            assert np.array_equal(document.annToMask(held), mask)


def test_a_notebook_shows_the_upright_picture_with_its_masks(results: Results) -> None:
    for annotation in results:
        png = annotation._repr_png_()
        assert png is not None
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == ((48, 64) if annotation.key == f"{ROTATED}.json" else (64, 48))
            colours = len(set(image.convert("RGB").get_flattened_data()))
        assert (colours > 1) == bool(annotation.instances)


def test_an_image_that_does_not_exist_is_named(tmp_path: Path) -> None:
    annotation = next(iter(Results(SyntheticSource(), (LocalStore(tmp_path, "x"),))))
    with pytest.raises(ConfigurationError, match=r"a/images/y\.jpg: the image is not in \S+: give the folder"):
        annotation.draw()
    assert annotation._repr_png_() is None, "a notebook shows the text"


def test_supervision_gets_whole_masks(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the constructor's names; the library itself is in tests/packaging/foreign_readers.py."""
    module: Any = ModuleType("supervision")
    module.Detections = lambda **fields: SimpleNamespace(**fields)
    module.Detections.empty = lambda: None
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = {annotation.key: annotation.to_supervision() for annotation in results}
    assert found["b/empty.json"] is None
    detections = found["a/x.json"]
    assert np.array_equal(detections.mask, np.stack(masks_of("a/x")))
    assert detections.class_id.tolist() == [0, 0, 1]
    assert detections.xyxy.shape == (3, 4)


@pytest.mark.parametrize(("module", "method"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_library_that_is_not_installed_is_named(
    results: Results, monkeypatch: pytest.MonkeyPatch, module: str, method: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    owner: Any = results if method == "to_pandas" else next(iter(results))
    with pytest.raises(ConfigurationError, match=f"this needs {module}, which is not installed: pip install {module}"):
        getattr(owner, method)()
