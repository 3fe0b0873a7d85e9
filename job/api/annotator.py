"""The model on single images, in this process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image

from job.api.annotation import Annotation, Instance
from job.errors import InputError, ModelError, ObjectError, UsageError
from job.formats.image_decode import decode_upright, read_header, upright_image
from job.formats.image_resize import resize_to_square
from job.model.artifact import Artifact, open_artifact, open_demo_artifact
from job.model.cache import default_cache, local_path, open_remote_model, remote_url
from job.model.loader import choose_runtime, default_device, open_session
from job.model.prompts import text_features_for
from job.model.session import Device, Grounding
from job.postprocess.annotate import annotate_grounding
from job.postprocess.orientation import read_orientation
from job.rules.classes_file import read_classes_file
from job.rules.requested import DEFAULT_PROMPTS, checked_prompts
from job.rules.rules import Rules, rules_of_prompts
from job.storage.open import Address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    AnyImage = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]

DEFAULT_THRESHOLD = 0.4


class Annotator:
    """A loaded model. Several threads may share one; it annotates one image at a time.

    Attributes:
        class_names: All classes that it can find, in order.
        device: `cuda` or `cpu`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | str | os.PathLike[str] | None = None,
        device: Device | None = None,
        *,
        threshold: float = DEFAULT_THRESHOLD,
        threads: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: Folder or URL of an exported model; None for the embedded demo model.
            classes: Prompts in order, each a class; or the path of a file of own classes, as of `--classes`. None for
                car, license plate and person.
            device: `cuda` or `cpu`; None for cuda if there is one. It never falls back to the CPU.
            threshold: Instances with a higher score are kept, 0 to 1; a class of a file may have its own.
            threads: CPU threads; None for all that this process may use.

        Raises:
            ArtifactError: The model is missing or damaged.
            UsageError: The classes or their file have a mistake, a prompt is longer than the text encoder's context, or
                the device, the threshold or the threads are not allowed.
            ConfigurationError: Neither onnxruntime nor openvino is installed, or the device cannot be used.
            DeviceError: The device does not respond.
        """
        _check_options(device, threshold, threads)
        artifact = _open_model(model)
        self._rules = _rules_of(classes, threshold)
        self.class_names = self._rules.class_names
        self.device: Device = device or default_device().device
        runtime = choose_runtime("auto", self.device, artifact.manifest).runtime
        self._session = open_session(artifact, device=self.device, batch_size=1, threads=threads, runtime=runtime)
        self._text = text_features_for(artifact, self._session, self._rules.prompts)
        self._lock = threading.Lock()

    def annotate(self, image: AnyImage) -> Annotation:
        """Annotate an image, by the rules of `sam3-annotate annotate`.

        Args:
            image: A path; a Pillow image, whose EXIF orientation counts; or an array, uint8 (H, W, 3) RGB or (H, W)
                grey.

        Returns:
            Instances with whole masks in the raster as stored: the raster of the file, of the Pillow image before
            its EXIF orientation is applied, or of the array.

        Raises:
            InputError: The image cannot be decoded.
            UsageError: It is of another type or shape.
            DeviceError: The device failed.
        """
        picture = _picture_of(image)
        upright_size_hw = picture.upright.height, picture.upright.width
        grounding = self._ground(resize_to_square(picture.upright, self._session.info.image_side))
        found = annotate_grounding(grounding, self._rules, upright_size_hw, picture.orientation)
        return Annotation(
            instances=tuple(
                Instance(one.class_name, one.score, value, one.prompt, one.query, one.mask)
                for one, value in [
                    *zip(found.instances, found.values, strict=True),
                    *((one, None) for one in found.beyond_255),
                ]
            ),
            size_hw=found.size_hw,
            class_names=self.class_names,
            image_key=picture.name,
            orientation=picture.orientation,
            load_image=picture.upright.copy,
        )

    def _ground(self, pixels: NDArray[np.uint8]) -> Grounding:
        with self._lock:
            features = self._session.encode_images(pixels[None])
            (found,) = self._session.ground(features, self._text, self._rules.min_score)
        if not (np.isfinite(found.scores).all() and np.isfinite(found.mask_logits).all()):
            raise ModelError("the model returned numbers that are not finite: export it again, or use another device")
        return found


def _rules_of(classes: Sequence[str] | str | os.PathLike[str] | None, threshold: float) -> Rules:
    if isinstance(classes, str | os.PathLike):
        try:
            return read_classes_file(os.fspath(classes), Address("."), threshold).rules
        except UsageError as exc:
            if not isinstance(exc.__cause__, ObjectError):
                raise
            advice = f"classes={str(classes)!r} is the path of a file of classes; prompts are a list, as in ['car']"
            raise UsageError(f"{exc}. {advice}") from exc
    return rules_of_prompts(_checked_classes(DEFAULT_PROMPTS if classes is None else classes), threshold)


def _checked_classes(classes: Iterable[object]) -> tuple[str, ...]:
    texts = []
    for one in classes:
        if not isinstance(one, str) or "," in one:
            raise UsageError(
                f"classes: {one!r} is not a prompt: give texts without commas, as in ['car', 'traffic cone']"
            )
        texts.append(one)
    return checked_prompts(texts, "classes")


def _check_options(device: object, threshold: object, threads: object) -> None:
    if device is not None and device not in get_args(Device):
        raise UsageError(f"device={device!r}: give {' or '.join(map(repr, get_args(Device)))}, or None to choose one")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise UsageError(f"threshold={threshold!r}: give a number from 0 to 1")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads={threads!r}: give a number from 1, or None for all that this process may use")


def _open_model(model: str | os.PathLike[str] | None) -> Artifact:
    if model is None:
        return open_demo_artifact()
    url = remote_url(os.fspath(model))
    if url is None:
        return open_artifact(local_path(os.fspath(model)))
    remote = open_remote_model(url, None, default_cache(), None)
    remote.fetch()
    return remote.artifact


@dataclass(frozen=True)
class _Picture:
    """An upright RGB image, the orientation of what it was read from, and the name of its file."""

    upright: Image.Image
    orientation: int = 1
    name: str = ""


def _picture_of(image: AnyImage) -> _Picture:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise UsageError(f"the image is {image.dtype} {image.shape}: give uint8 (H, W, 3) in RGB order, or (H, W)")
        if not image.size:
            raise UsageError(f"the image is {image.shape}: it has no pixel. Give at least one row and one column")
        return _Picture(Image.fromarray(image).convert("RGB"))
    if isinstance(image, Image.Image):
        try:
            return _Picture(upright_image(image), read_orientation(image))
        except OSError as exc:
            raise InputError(f"the image cannot be decoded: {exc}") from exc
    if not isinstance(image, str | os.PathLike):
        raise UsageError(f"the image is a {type(image).__name__}: give a path, a Pillow image or a NumPy array")
    path = Path(image)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}. Give the path of an image file") from exc
    return _Picture(decode_upright(data), read_header(data, sys.maxsize).orientation, path.name)
