"""The token table of the demo model: rows of other words are zero, so that the file stays small."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from export.demo_model.scenes.prompts import WORDS

_START_SCALE = 0.5


class WordTable(nn.Module):
    """Replaces the token table in training; only the rows of known tokens are parameters."""

    def __init__(self, full: Tensor, known_ids: list[int]) -> None:
        """Keep the rows of known tokens.

        Args:
            full: The whole table (V, D).
            known_ids: Ids of the tokens to keep, ascending.
        """
        super().__init__()
        self.rows_of_ids: Tensor
        self.register_buffer("rows_of_ids", torch.zeros(len(full), dtype=torch.long), persistent=False)
        self.rows_of_ids[known_ids] = torch.arange(1, len(known_ids) + 1)
        self.known_ids = known_ids
        self.weight = nn.Parameter(full[known_ids].clone())

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (...) to vectors (..., D); vectors of unknown tokens are zero."""
        unknown = self.weight.new_zeros(1, self.weight.shape[1])
        return F.embedding(self.rows_of_ids[ids], torch.cat([unknown, self.weight]))

    def full(self, weight: Tensor) -> Tensor:
        """The full table (V, D) from values (K, D) of the known rows."""
        table = torch.zeros(len(self.rows_of_ids), weight.shape[1])
        table[self.known_ids] = weight.detach()
        return table


def known_token_ids(model: Any) -> list[int]:
    """Ids of the tokens of all known words and of a prompt's start and end, ascending."""
    tokenizer = model.backbone.language_backbone.tokenizer
    ids = {int(tokenizer.sot_token_id), int(tokenizer.eot_token_id)}
    for words in WORDS.values():
        ids.update(*(map(int, tokenizer.encode(word)) for word in words))
    return sorted(ids)


def use_word_table(model: Any, *, from_scratch: bool) -> WordTable:
    """Replace a model's token table by a table of the known words.

    Args:
        model: What `build_model` gives.
        from_scratch: Whether the table is random and may be rescaled.
    """
    encoder = model.backbone.language_backbone.encoder
    full = encoder.token_embedding.weight.detach() * (_START_SCALE if from_scratch else 1.0)
    encoder.token_embedding = WordTable(full, known_token_ids(model))
    table: WordTable = encoder.token_embedding
    return table
