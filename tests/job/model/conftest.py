"""What the tests of sessions share: prompts and pictures of a module's `artifact`, for its `session`."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from job.model.artifact import Artifact
from job.model.prompts import text_features_for
from job.model.session import Session, TextFeatures


@pytest.fixture(scope="module")
def text(artifact: Artifact, session: Session) -> TextFeatures:
    return text_features_for(artifact, session, artifact.manifest.prompts)


@pytest.fixture(scope="module")
def pixels(artifact: Artifact) -> NDArray[np.uint8]:
    with np.load(artifact.path("reference.npz")) as arrays:
        shown: NDArray[np.uint8] = arrays["pixels"]
    return shown
