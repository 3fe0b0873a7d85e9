"""The options and the end of a run: `run.json` and `end.json`."""

from __future__ import annotations

from typing import Literal

import msgspec

from job.errors import RunConflictError
from job.rules.rules import Rules, rules_of_prompts

Outcome = Literal["succeeded", "too_many_failed", "superseded"]


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every option that changes bytes or selection; pinned in `run.json`.

    Attributes:
        input_url: The input's folder, without secrets.
        prompts: Prompts in order.
        confidence_threshold: Scores above it are kept, 0 to 1; a class of its own may have another threshold.
        annotation_date: Date in every annotation, `YYYY-MM-DD`.
        image_mode: Whether the image is copied to the output.
        override: Whether annotated inputs are annotated again.
        override_reviewed: Whether annotations that a person has reviewed are replaced.
        max_image_pixels: Inputs with larger images fail.
        include: Globs; JSON keys must match one of them, if there are any. `*` matches `/` too.
        exclude: Globs; JSON keys that match one of them are left out.
        input_list_sha256: Digest of the list of keys that replaces the listing, or empty.
        classes_sha256: Digest of the file of own classes, or empty.
        classes: What this file says, or None: each prompt is a class.
        candidates_threshold: Candidates above it are stored, 0 to 1; None for no candidates.
        max_candidates: Maximum number of candidates of one image.
        missing_json: `create`: an image without a JSON is an input too, and gets a minimal JSON.
        instances: Whether the instance table is stored.
        limit: Maximum number of inputs to process, or None.
        model_id: Name of the model in annotations.
        checkpoint_sha256: Digest of the weights, whatever the precision of the artifact.
        format_version: Version of this file.
    """

    input_url: str
    prompts: tuple[str, ...]
    confidence_threshold: float
    annotation_date: str
    image_mode: Literal["copy", "none"]
    override: bool
    override_reviewed: bool
    max_image_pixels: int
    limit: int | None
    model_id: str
    checkpoint_sha256: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    input_list_sha256: str = ""
    classes_sha256: str = ""
    classes: Rules | None = None
    candidates_threshold: float | None = None
    max_candidates: int = 100
    missing_json: Literal["skip", "create"] = "skip"
    instances: Literal["table", "none"] = "table"
    format_version: int = 1

    @property
    def rules(self) -> Rules:
        """The classes and the rules on their instances."""
        return self.classes or rules_of_prompts(self.prompts, self.confidence_threshold)

    @property
    def lowest_score(self) -> float:
        """What the model has to find: instances of the output, and candidates."""
        return min(self.rules.min_score, 1.0 if self.candidates_threshold is None else self.candidates_threshold)

    @property
    def selects_all(self) -> bool:
        """Whether no input is left out."""
        return not (self.include or self.exclude or self.input_list_sha256 or self.limit)


class RunEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run ended.

    Attributes:
        outcome: The outcome.
        by: The process that wrote this; makes the file unique.
        superseded_by: Name of the run that superseded it, or empty.
        inputs_listed: Inputs in the listing, done or not.
        annotated: Inputs annotated by this run.
        failed: Inputs that failed in this run.
        reviewed: Inputs kept because a person has reviewed them.
    """

    outcome: Outcome
    by: str
    superseded_by: str = ""
    inputs_listed: int = 0
    annotated: int = 0
    failed: int = 0
    reviewed: int = 0

    def check_not_superseded(self, run_name: str) -> None:
        """Refuse to continue a run that another one has superseded.

        Args:
            run_name: Name of the run.

        Raises:
            RunConflictError: It was superseded.
        """
        if self.outcome == "superseded":
            raise RunConflictError(
                f"run {run_name} was superseded by run {self.superseded_by}: resume that run, or choose another name "
                "with --run"
            )
