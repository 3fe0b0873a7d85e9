"""The stored tokenizer gives the tokens of sam3's own."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from export.checkpoint import Original
from job.model.artifact import Artifact
from job.model.prompts import PromptTokenizer

PRINTABLE = [c for c in map(chr, range(0x110000)) if c.isprintable()]
ANYTHING = [c for c in map(chr, range(0x110000)) if not 0xD800 <= ord(c) < 0xE000]
LATIN = [chr(c) for c in range(32, 0x180)]
PIECES = (
    *("<start_of_text>", "<END_OF_TEXT>", "!<start_of_text>", "'S", "'ſ", "'ll", "&amp;amp;lt;", "&eacute;", "  "),
    *("license plate", "Ä", "ß", "İ", "ΑΣ", "1", "½", "Ⅷ", "\u0345", "\x1c", "\t", "\ufeff", "schÃ¶n", "日本語", "a_b"),
    "\U0001f469\u200d\U0001f467",
)

Draw = Callable[[random.Random], str]


def characters(alphabet: list[str], longest: int) -> Draw:
    return lambda rng: "".join(rng.choices(alphabet, k=rng.randint(0, longest)))


@pytest.mark.parametrize(
    ("draw", "number"),
    [
        pytest.param(characters(PRINTABLE, 24), 10_000, id="printable"),
        pytest.param(characters(ANYTHING, 24), 2_000, id="anything"),
        pytest.param(characters(LATIN, 80), 2_000, id="latin, longer than the context"),
        pytest.param(lambda rng: "".join(rng.choices(PIECES, k=rng.randint(0, 8))), 4_000, id="traps"),
    ],
)
def test_tokens_are_those_of_the_original(original: Original, demo_onnx: Artifact, draw: Draw, number: int) -> None:
    theirs = original.model.backbone.language_backbone.tokenizer
    ours, length = PromptTokenizer(demo_onnx), demo_onnx.manifest.context_length
    rng = random.Random(number)
    prompts = [draw(rng) for _ in range(number)]
    expected = theirs(prompts, context_length=length).numpy()
    different = [prompts[i] for i in np.flatnonzero((ours.token_ids(prompts) != expected).any(axis=1))]
    assert different == []
