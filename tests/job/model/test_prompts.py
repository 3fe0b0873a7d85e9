"""Prompts to tokens and features, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from job.errors import ArtifactError
from job.model.artifact import Artifact, open_artifact
from job.model.prompts import PromptTokenizer, clean, stored_text_features, text_features_for
from job.model.session import TextFeatures
from tests.fakes import DEMO_ARTIFACT

# Of CLIP's vocabulary: start, end, "car", "license", "plate".
START, END = 49406, 49407
CAR, LICENSE, PLATE = 1615, 10337, 5135


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return open_artifact(DEMO_ARTIFACT)


@pytest.fixture(scope="module")
def tokenizer(artifact: Artifact) -> PromptTokenizer:
    return PromptTokenizer(artifact)


class CountingSession:
    """Encodes every prompt to the number of its tokens."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode_text(self, token_ids: NDArray[np.int64]) -> TextFeatures:
        self.encoded += 1
        length = token_ids.shape[1]
        return TextFeatures(np.full((1, length, 48), (token_ids > 0).sum(), np.float32), token_ids == 0)


def test_known_tokens(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.token_ids(["car", "License  Plate", ""])
    assert ids.shape == (3, 32)
    assert ids.dtype == np.int64
    assert ids[0, :4].tolist() == [START, CAR, END, 0]
    assert ids[1, :5].tolist() == [START, LICENSE, PLATE, END, 0]
    assert ids[2, :3].tolist() == [START, END, 0]


def test_a_long_prompt_is_truncated_before_the_end_token(tokenizer: PromptTokenizer) -> None:
    (ids,) = tokenizer.token_ids(["car " * 100])
    assert ids.tolist() == [START, *[CAR] * 30, END]


@given(prompts=st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_every_row_is_framed_and_independent(tokenizer: PromptTokenizer, prompts: list[str]) -> None:
    rows = tokenizer.token_ids(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        last = np.flatnonzero(row)[-1]  # 0 is padding, and also the id of "!"
        assert (row[0], row[last]) == (START, END)
        np.testing.assert_array_equal(row, tokenizer.token_ids([prompt])[0])


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  License \n\tPlate ", "license plate"),
        ("schÃ¶n", "schön"),
        ("&amp;amp;lt;", "<"),
        ("A&nbsp;B", "a b"),
        ("“car”", '"car"'),
        ("ＣＡＲ", "car"),
    ],
)
def test_text_is_normalised_before_it_is_tokenized(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_stored_features_are_used_unchanged(artifact: Artifact) -> None:
    stored = stored_text_features(artifact)
    session = CountingSession()
    text = text_features_for(artifact, session, ("person", "car"))
    assert session.encoded == 0
    np.testing.assert_array_equal(text.features[0], stored["person"].features[0])
    np.testing.assert_array_equal(text.features[1], stored["car"].features[0])
    assert text.mask.tolist()[1] == [False] * 3 + [True] * 29


def test_other_prompts_are_encoded_one_by_one_in_order(artifact: Artifact) -> None:
    session = CountingSession()
    text = text_features_for(artifact, session, ("red car", "person", "Car"))
    assert session.encoded == 2
    assert text.features[0].max() == 4
    np.testing.assert_array_equal(text.features[1], stored_text_features(artifact)["person"].features[0])
    assert text.features[2].max() == 3


def test_a_model_without_tokenizer_accepts_stored_prompts_only(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    artifact = open_artifact(folder)
    (folder / "tokenizer.json").unlink()
    text_features_for(artifact, CountingSession(), ("car",))
    with pytest.raises(ArtifactError, match="accepts only the prompts car, license plate, person: "):
        text_features_for(artifact, CountingSession(), ("bus",))


def test_prompts_need_no_torch() -> None:
    program = (
        "import sys; from pathlib import Path; from job.model.artifact import open_artifact; "
        "from job.model.prompts import PromptTokenizer; "
        "from job.model.loader import open_session; artifact = open_artifact(Path(sys.argv[1])); "
        "open_session(artifact, device='cpu', threads=1); PromptTokenizer(artifact).token_ids(['car']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(DEMO_ARTIFACT)], check=True, cwd=Path(__file__).parents[3])
