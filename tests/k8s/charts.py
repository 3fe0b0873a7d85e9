"""A fake of helm that renders with Helm's library and has at most one release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python
import yaml  # type: ignore[import-untyped]

from job.errors import UsageError
from k8s.helm import Helm
from tests.chart.rendering import Values, merged, render


@dataclass(frozen=True)
class LibraryHelm(Helm):
    """Helm without a cluster.

    Attributes:
        installed: Values given for the release; None if it is not installed.
    """

    installed: Values | None = None

    def given_values(self, release: str) -> Values | None:
        return self.installed

    def render(self, release: str, chart: str, arguments: Sequence[str]) -> str:
        try:
            manifests = render(merged({}, *values_of(arguments)), name=release, namespace=self.namespace).manifests
        except helm_python.HelmError as exc:
            raise UsageError(str(exc)) from exc
        return str(yaml.dump_all(manifests, Dumper=yaml.CSafeDumper))


def values_of(arguments: Sequence[str]) -> Iterator[Values]:
    """Values in Helm's order of precedence: files, --set-json, --set, --set-string."""
    yield from (_of_file(text) for text in _texts(arguments, "--values="))
    yield from (helm_python.parse_set_json(text) for flag, text in pairwise(arguments) if flag == "--set-json")
    yield from (helm_python.parse_set_string(text) for text in _texts(arguments, "--set="))
    yield from (_as_text(text) for text in _texts(arguments, "--set-string="))


def _texts(arguments: Sequence[str], prefix: str) -> list[str]:
    return [text.removeprefix(prefix) for text in arguments if text.startswith(prefix)]


def _as_text(text: str) -> Values:
    key, _, value = text.partition("=")
    return dict(helm_python.parse_set_json(f'{key}="{value}"'))


def _of_file(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(path).read_text()) or {})
