"""An instance: one object in one image."""

from __future__ import annotations

from dataclasses import dataclass

from job.postprocess.masks import CroppedMask


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        class_name: Its class.
        score: 0 to 1.
        query: Query of the model that found it; it orders the instances of a prompt.
        mask: Its pixels.
        prompt: Prompt that found it.
    """

    class_name: str
    score: float
    query: int
    mask: CroppedMask
    prompt: str = ""
