"""Credentials of S3 from files that may change while the process runs, such as a mounted Secret.

Kubernetes rewrites a mounted Secret within about a minute; environment variables stay those of the process's start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "SAM3_S3_CREDENTIALS"
"""Environment variable with a folder of files `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and if credentials are
temporary `AWS_SESSION_TOKEN`."""

_OPTION_OF_FILE = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
_OWN_ACCOUNT = ("key", "secret", "token", "anon", "profile", "session")


def with_credentials(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of s3fs with the keys in the folder of `SAM3_S3_CREDENTIALS`, unless they have an account of their own.

    A folder without both keys changes nothing.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or any(name in options for name in _OWN_ACCOUNT):
        return dict(options)
    found = {option: text for name, option in _OPTION_OF_FILE.items() if (text := _read(Path(folder) / name))}
    return {**options, **found} if {"key", "secret"} <= found.keys() else dict(options)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
