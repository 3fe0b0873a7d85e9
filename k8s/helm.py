"""Client of Helm. The chart is the only definition of the Jobs, so every change of them goes through Helm."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from job.errors import ConfigurationError, InterruptedRunError, UsageError

logger = logging.getLogger(__name__)

CHECKOUT_CHART = Path(__file__).parents[1] / "charts" / "sam3-annotate"
_TIMEOUT_S = 300.0
_USER_ERRORS = (
    "not found", "schema", "execution error", "failed to parse", "cannot be", "forbidden", "no such file", "invalid",
)  # fmt: skip


class HelmError(InterruptedRunError):
    """Helm failed; the message holds its reason."""


class ReleaseMissingError(UsageError):
    """No release of this name in this namespace."""


def find_chart(given: str | None) -> str:
    """The chart to use: the given one (a folder, an archive, `oci://…`), else the chart of this checkout.

    Raises:
        UsageError: None was given, and this is not a checkout.
    """
    if given is not None:
        return given
    if (CHECKOUT_CHART / "Chart.yaml").is_file():
        return str(CHECKOUT_CHART)
    raise UsageError("this installation has no chart: give --chart with a folder, an archive or oci://…")


@dataclass(frozen=True)
class Helm:
    """The helm program, for one namespace of a cluster.

    Attributes:
        namespace: Namespace of the releases.
        context: Context of the kubeconfig, or None for its current one.
    """

    namespace: str
    context: str | None = None

    def values(self, release: str) -> dict[str, Any]:
        """Values of a release, including the chart's defaults."""
        return dict(msgspec.json.decode(self._run("get", "values", release, "--all", "--output", "json")))

    def given_values(self, release: str) -> dict[str, Any] | None:
        """Values that the user gave for a release; None if it is not installed."""
        try:
            return msgspec.json.decode(self._run("get", "values", release, "--output", "json")) or {}
        except ReleaseMissingError:
            return None

    def installed_version(self, release: str) -> str:
        """Chart version that a release was installed from."""
        return str(msgspec.json.decode(self._run("get", "metadata", release, "--output", "json"))["version"])

    def version_of(self, chart: str) -> str:
        """Version of a chart."""
        text = self._run("show", "chart", chart)
        return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("version:")), "")

    def set(self, release: str, chart: str, changes: Mapping[str, object]) -> None:
        """Change these values of a release and keep all others."""
        self._run("upgrade", release, chart, "--reuse-values", *set_flags(changes))

    def install(self, release: str, chart: str, arguments: Sequence[str]) -> str:
        """Install or upgrade a release; return the chart's notes."""
        return self._run("upgrade", release, chart, "--install", *arguments)

    def render(self, release: str, chart: str, arguments: Sequence[str]) -> str:
        """Rendered manifests as YAML; contacts no cluster."""
        return self._run("template", release, chart, *arguments)

    def uninstall(self, release: str) -> None:
        """Remove a release with its Jobs and their pods."""
        self._run("uninstall", release, "--wait")

    def _run(self, *arguments: str) -> str:
        context = [] if self.context is None else ["--kube-context", self.context]
        command = ["helm", *arguments, "--namespace", self.namespace, *context]
        logger.debug("helm %s", arguments[0])  # values may hold secrets
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (FileNotFoundError, PermissionError) as exc:
            raise ConfigurationError("the program helm is not on the PATH: install Helm 4") from exc
        except subprocess.TimeoutExpired as exc:
            raise HelmError(
                f"helm {arguments[0]} timed out after {_TIMEOUT_S:.0f} s: check the release with `helm history`"
            ) from exc
        if done.returncode != 0:
            raise _error(arguments[0], done.stderr)
        return done.stdout


def set_flags(changes: Mapping[str, object]) -> list[str]:
    """Arguments of helm that set these values by path; strings stay strings."""
    return [
        flag
        for key, value in changes.items()
        for flag in ("--set-json", f"{key}={msgspec.json.encode(value).decode()}")
    ]


def _error(command: str, stderr: str) -> Exception:
    """Map a message of helm to an error by what the user can correct."""
    sentence = " ".join(stderr.replace("Error: ", "").split())
    if "release: not found" in sentence:
        return ReleaseMissingError(f"helm {command}: {sentence}")
    if "want string" in sentence:
        sentence += ". Give a string that looks like a number by --set_string KEY=VALUE, or in quotes in a file"
    if any(word in sentence for word in _USER_ERRORS):
        return UsageError(f"helm {command}: {sentence}")
    return HelmError(f"helm {command}: {sentence}")
