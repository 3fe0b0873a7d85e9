"""Prompts to text features: stored ones where the artifact has them, else from its text encoder.

Tokens equal those of sam3's tokenizer. This module fixes encodings, unescapes, strips and lowercases the text;
`tokenizer.json` splits it; this module adds start and end tokens and truncates to the context length.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import ftfy
import numpy as np
from tokenizers import Tokenizer

from job.errors import ArtifactError, UsageError
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
    """Return the text features of prompts, in their order.

    The features of a prompt do not depend on the other prompts: stored features are used unchanged, other prompts are
    encoded one by one.

    Raises:
        UsageError: A prompt is longer than the context of the text encoder.
        ArtifactError: A prompt is not stored and the artifact came without its text encoder.
    """
    for prompt, tokens in prompts_beyond_context(artifact, prompts).items():
        raise UsageError(
            f"the prompt {prompt!r} has {tokens} tokens with start and end, the model's text encoder takes "
            f"{artifact.manifest.context_length}: shorten it"
        )
    stored = stored_text_features(artifact)
    tokenizer = PromptTokenizer(artifact) if any(prompt not in stored for prompt in prompts) else None
    rows = [
        session.encode_text(tokenizer.token_ids([prompt])) if tokenizer and prompt not in stored else stored[prompt]
        for prompt in prompts
    ]
    return TextFeatures(
        features=np.concatenate([row.features for row in rows]), mask=np.concatenate([row.mask for row in rows])
    )


def prompts_beyond_context(artifact: Artifact, prompts: Sequence[str]) -> dict[str, int]:
    """Prompts that have more tokens than the context of the text encoder, with the number, start and end included.

    Prompts whose features are stored are not tokenized, nor any prompt of an artifact that has no tokenizer (yet).
    """
    others = [prompt for prompt in prompts if prompt not in artifact.manifest.prompts]
    if not others or not artifact.path(TOKENIZER_NAME).is_file():
        return {}
    tokenizer = PromptTokenizer(artifact)
    counts = {prompt: tokenizer.count(prompt) for prompt in others}
    return {prompt: count for prompt, count in counts.items() if count > artifact.manifest.context_length}


def stored_text_features(artifact: Artifact) -> dict[str, TextFeatures]:
    """Read the stored features, by prompt."""
    with np.load(artifact.path(TEXT_FEATURES_NAME), allow_pickle=False) as arrays:
        features, mask = arrays["features"], arrays["mask"]
    return {
        prompt: TextFeatures(features=features[i : i + 1], mask=mask[i : i + 1])
        for i, prompt in enumerate(artifact.manifest.prompts)
    }


class PromptTokenizer:
    """Converts text to the token ids that sam3's text encoder was trained with."""

    def __init__(self, artifact: Artifact) -> None:
        path = artifact.path(TOKENIZER_NAME)
        if not path.is_file():
            raise ArtifactError(
                f"model {artifact.folder} has no {TOKENIZER_NAME}, so it accepts only the "
                f"prompts {', '.join(artifact.manifest.prompts)}: export it again"
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        self._length = artifact.manifest.context_length
        self._start, self._end = self._id_of(START), self._id_of(END)

    def count(self, prompt: str) -> int:
        """Number of tokens with start and end, not truncated."""
        return len(self._words(prompt)) + 2

    def token_ids(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenize to int64 (P, L); longer text is truncated and the end token comes last."""
        ids = np.zeros((len(prompts), self._length), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            words = self._words(prompt)
            framed = [self._start, *words[: self._length - 2], self._end]
            row[: len(framed)] = framed
        return ids

    def _words(self, prompt: str) -> list[int]:
        return list(self._tokenizer.encode(clean(prompt), add_special_tokens=False).ids)

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ArtifactError(f"the tokenizer has no {token}: export the model again")
        return found


def clean(text: str) -> str:
    """Fix broken encodings, resolve HTML entities, collapse white space, lowercase."""
    fixed = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _WHITE_SPACE.sub(" ", fixed).strip().lower()
