"""Downloads official checkpoints from the Hugging Face hub with the user's own credentials."""

from __future__ import annotations

from pathlib import Path

from job.errors import ConfigurationError, UsageError

DEFAULT_REPOSITORY = "facebook/sam3"
FILES = {DEFAULT_REPOSITORY: "sam3.pt", "facebook/sam3.1": "sam3.1_multiplex.pt"}
"""Checkpoint file of each repository that holds one."""
_HUB = "hub"


def is_on_hub(checkpoint: str) -> bool:
    """Whether an argument names the hub: `hub`, or `hub:` and a repository."""
    return checkpoint == _HUB or checkpoint.startswith(f"{_HUB}:")


def download(checkpoint: str) -> Path:
    """Download a checkpoint, or find it in the hub's cache.

    Args:
        checkpoint: `hub` for SAM 3, or `hub:` and a repository of `FILES`.

    Returns:
        Path of the file in the hub's cache.

    Raises:
        UsageError: The repository is not in `FILES`.
        ConfigurationError: No access, or no connection.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    repository = checkpoint.removeprefix(_HUB).removeprefix(":") or DEFAULT_REPOSITORY
    if repository not in FILES:
        raise UsageError(
            f"--checkpoint {checkpoint}: {repository} is not a repository of official checkpoints. Give `hub` "
            f"or {' or '.join(f'`{_HUB}:{name}`' for name in FILES)}, or the path or URL of a checkpoint file"
        )
    try:
        return Path(hf_hub_download(repo_id=repository, filename=FILES[repository]))
    except GatedRepoError as exc:
        raise ConfigurationError(
            f"no access to {repository}: accept its licence at https://huggingface.co/{repository}, "
            "log in with `hf auth login` (or set HF_TOKEN), and export again"
        ) from exc
    except (HfHubHTTPError, LocalEntryNotFoundError) as exc:
        raise ConfigurationError(
            f"{FILES[repository]} could not be downloaded from {repository}: {exc}. "
            "Try again, or give the path of a downloaded file as --checkpoint"
        ) from exc
