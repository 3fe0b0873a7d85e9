"""What every session on a CPU refuses, by runtime."""

from __future__ import annotations

import numpy as np
import pytest

from job.model.artifact import Artifact
from job.model.loader import open_session
from job.model.session import Runtime, Session, TextFeatures
from tests.fakes import demo_artifact


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return demo_artifact()


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def session(artifact: Artifact, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    runtime: Runtime = request.param
    if runtime == "openvino":
        pytest.importorskip("openvino")
    return open_session(artifact, device="cpu", threads=1, runtime=runtime, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("shape", [(0, 336, 336, 3), (2, 336, 336, 3), (1, 335, 336, 3), (1, 3, 336, 336)])
def test_pixels_of_another_shape_are_refused(session: Session, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="for batches of up to 1 of side 336"):
        session.encode_images(np.zeros(shape, np.uint8))


def test_features_of_another_session_are_refused(session: Session, text: TextFeatures) -> None:
    with pytest.raises(TypeError, match="features of another session"):
        session.ground(object(), text, 0.4)
