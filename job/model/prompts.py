"""Prompts to text features: stored ones where the artifact has them, else its text encoder.

Tokens are those of sam3's own tokenizer: text is mended, unescaped, stripped and lowered here, words and pieces
are `tokenizer.json`'s business, and the ids are framed and cut to the context length here again.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import ftfy
import numpy as np
from tokenizers import Tokenizer

from job.errors import ArtifactError
from job.model.session import TextFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from job.model.artifact import Artifact
    from job.model.session import Session

TEXT_FEATURES_NAME = "text_features.npz"
TOKENIZER_NAME = "tokenizer.json"
START, END = "<start_of_text></w>", "<end_of_text></w>"

# White space of the `regex` module, which sam3 uses; that of `re` also has four control characters.
_WHITE_SPACE = re.compile(r"[^\S\x1c-\x1f]+")


def text_features_for(artifact: Artifact, session: Session, prompts: Sequence[str]) -> TextFeatures:
    """Give the text features of prompts, in their order.

    A prompt's features do not depend on its neighbours: stored ones are taken as they are, others are encoded
    one by one.

    Raises:
        ArtifactError: A prompt is not stored and the artifact came without its text encoder.
    """
    stored = stored_text_features(artifact)
    tokenizer = PromptTokenizer(artifact) if any(prompt not in stored for prompt in prompts) else None
    rows = [
        session.encode_text(tokenizer.token_ids([prompt])) if tokenizer and prompt not in stored else stored[prompt]
        for prompt in prompts
    ]
    return TextFeatures(
        features=np.concatenate([row.features for row in rows]), mask=np.concatenate([row.mask for row in rows])
    )


def stored_text_features(artifact: Artifact) -> dict[str, TextFeatures]:
    """Read the stored features, by prompt."""
    with np.load(artifact.path(TEXT_FEATURES_NAME), allow_pickle=False) as arrays:
        features, mask = arrays["features"], arrays["mask"]
    return {
        prompt: TextFeatures(features=features[i : i + 1], mask=mask[i : i + 1])
        for i, prompt in enumerate(artifact.manifest.prompts)
    }


class PromptTokenizer:
    """Text to the token ids that sam3's text encoder was trained with."""

    def __init__(self, artifact: Artifact) -> None:
        path = artifact.path(TOKENIZER_NAME)
        if not path.is_file():
            raise ArtifactError(
                f"model {artifact.folder} has no {TOKENIZER_NAME}, so it knows the prompts "
                f"{', '.join(artifact.manifest.prompts)} only: export it again"
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        self._length = artifact.manifest.context_length
        self._start, self._end = self._id_of(START), self._id_of(END)

    def token_ids(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenise: int64 (P, L); what does not fit is cut and the last token becomes the end mark."""
        ids = np.zeros((len(prompts), self._length), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            words = self._tokenizer.encode(clean(prompt), add_special_tokens=False).ids
            framed = [self._start, *words[: self._length - 2], self._end]
            row[: len(framed)] = framed
        return ids

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ArtifactError(f"the tokenizer has no {token}: export the model again")
        return found


def clean(text: str) -> str:
    """Mend broken encodings, resolve HTML entities, join white space, lower."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _WHITE_SPACE.sub(" ", mended).strip().lower()
