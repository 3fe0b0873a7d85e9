"""Reads a checkpoint file without running code of it; says what a file is that is no checkpoint."""

from __future__ import annotations

import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from job.errors import ConfigurationError, UsageError
from job.formats import file_type

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FIRST_BYTES = 4096
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a file of `torch.save` or safetensors.

    Args:
        path: The file; of a large one only the pages that are used are read.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        UsageError: There is no such file, or it is a folder.
        ConfigurationError: It is not a checkpoint, is damaged, or holds more than tensors and plain values.
    """
    if path.is_dir():
        raise UsageError(f"--checkpoint {path} is a folder: give the file in it, as in {path}/sam3.pt")
    if not path.is_file():
        raise UsageError(f"--checkpoint {path}: no such file. Give `hub`, `demo` or the path of a sam3.pt")
    with path.open("rb") as stream:
        start = stream.read(_FIRST_BYTES)
    content = _read_safetensors(path) if _is_safetensors(start) else _read_torch(path, start)
    if not isinstance(content, dict):
        raise ConfigurationError(f"--checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _is_safetensors(start: bytes) -> bool:
    """A length of 8 bytes, then a JSON header (safetensors, README, "Format")."""
    return start[8:9] == b"{" and not start.startswith(b"{")


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content: Mapping[str, Any] = load_file(path)
    except SafetensorError as exc:
        raise ConfigurationError(
            f"--checkpoint {path} is a damaged safetensors file ({exc}): download it again"
        ) from exc
    return content


def _read_torch(path: Path, start: bytes) -> Any:
    if not start.startswith(b"PK"):
        raise ConfigurationError(
            f"--checkpoint {path} is {_kind(start)}, not a checkpoint of torch.save or safetensors: "
            "download sam3.pt again, or give another file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as exc:
        found = _GLOBAL.search(str(exc))
        raise ConfigurationError(
            f"--checkpoint {path} cannot be read safely: it holds {found[1] if found else 'objects'}, and only "
            "tensors, numbers, text, lists and dictionaries are allowed. Save its weights alone: "
            "torch.save(checkpoint['model'], 'weights.pt')"
        ) from exc
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as exc:
        raise ConfigurationError(f"--checkpoint {path} is damaged or incomplete: download or copy it again") from exc


def _kind(start: bytes) -> str:
    if start.startswith(b"\x80") and b"ctorch" in start:
        return "a checkpoint in the format before torch 1.6"
    return file_type.describe(start)
