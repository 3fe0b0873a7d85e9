"""The tokenizer of sam3's text encoder as a `tokenizer.json` that needs neither torch nor sam3.

It has to give the tokens that sam3's `SimpleTokenizer` gives for text that `job.model.prompts` has cleaned. Three
things are not in the vocabulary file and are written down here: which characters the original's regular expression
takes for letters and digits (its case folding and its version of Unicode differ from those of the `tokenizers`
library, so the classes are spelled out), that words end in a mark, and that the two special tokens are ordinary
words when they stand in a prompt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORD_END = "</w>"
_SURROGATES = range(0xD800, 0xE000)


def write_tokenizer(original: Any, path: Path) -> None:
    """Write `tokenizer.json`.

    Args:
        original: A `sam3.model.tokenizer_ve.SimpleTokenizer`.
        path: File to write.
    """
    vocabulary, merges = dict(original.encoder), sorted(original.bpe_ranks, key=original.bpe_ranks.__getitem__)
    for special in original.all_special_ids:
        _add_special(vocabulary, merges, original.decoder[special])
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_word_pattern()), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    compact = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    path.write_text(compact + "\n", encoding="utf-8")


def _add_special(vocabulary: dict[str, int], merges: list[tuple[str, str]], token: str) -> None:
    """Add merges so that `<start_of_text>` in a prompt becomes its own id.

    No other word mixes punctuation with letters, so the merges below apply to nothing else. The ids of the
    steps in between are never the end of a merge.
    """
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END))
    joined, *pieces = plain.encode(token).tokens
    for piece in pieces:
        merges.append((joined, piece))
        joined += piece
        vocabulary[joined] = len(vocabulary)
    vocabulary[joined] = vocabulary.pop(token)


def _word_pattern() -> str:
    """Patterns of one word of the original, in its order of preference."""
    letters, digits, others = (_character_class(p) for p in (r"[\p{L}]", r"[\p{N}]", r"[^\s\p{L}\p{N}]"))
    contractions = "'s|'ſ|'t|'re|'ve|'m|'ll|'d"
    return f"<start_of_text>|<end_of_text>|{contractions}|[{letters}]+|[{digits}]|[{others}]+"


def _character_class(pattern: str) -> str:
    """Expand a class of the original's regular expressions to ranges of code points."""
    import regex  # type: ignore[import-untyped]

    matches = regex.compile(pattern, regex.IGNORECASE).match
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in _ranges(lambda c: bool(matches(chr(c)))))


def _ranges(holds: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """Maximal ranges of code points that satisfy a predicate, without surrogates."""
    start = None
    for code in (*range(0x110000), None):
        inside = code is not None and code not in _SURROGATES and holds(code)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            yield start, (0x110000 if code is None else code) - 1
            start = None
