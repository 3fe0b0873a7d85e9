"""An artifact against the original's answers that are stored with it: needs neither torch nor the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.parity.artifact import ArtifactSide
from export.parity.metrics import SCORE_THRESHOLD, TOLERANCES, Tally
from export.parity.reference import REFERENCE_NAME, read_reference
from job.errors import ArtifactError

if TYPE_CHECKING:
    from job.model.artifact import Artifact, ParityFigures
    from job.model.session import Session


def compare_with_reference(artifact: Artifact, session: Session) -> ParityFigures:
    """Compare what this machine answers with what the original answered when the artifact was made.

    Raises:
        ArtifactError: The artifact came without its reference.
    """
    path = artifact.path(REFERENCE_NAME)
    if not path.is_file():
        raise ArtifactError(f"model {artifact.folder} came without {REFERENCE_NAME}: copy the whole folder")
    reference = read_reference(path)
    ours = ArtifactSide(artifact, session, SCORE_THRESHOLD)
    tally = Tally(artifact.manifest.prompts, SCORE_THRESHOLD)
    for pixels, answer in zip(reference.pixels, reference.answers, strict=True):
        tally.add(answer, ours.answer(pixels, reference.grid_hw))
    tolerance = TOLERANCES[artifact.manifest.precision, "same_input"]
    return tally.figures("same_input", tolerance, session.info.provider)
