"""Flags that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from job.cli.flags import FILE
from job.errors import UsageError

Command = Callable[..., None]


_RELEASE = re.compile(r"(?=.{1,53}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""Names that Helm allows (its `ValidateReleaseName`)."""


def _check_release(context: click.Context, parameter: click.Parameter, name: str) -> str:
    if not _RELEASE.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid release name: give at most 53 lower-case letters, digits, '-' and '.', with "
            "a letter or a digit at both ends"
        )
    return name


def release_flags(command: Command) -> Command:
    """Flags that select a release."""
    options = (
        click.argument("release", callback=_check_release),
        click.option("-n", "--namespace", help="Namespace of the release. Default: that of the kubeconfig's context."),
        click.option("--kube_context", help="Context of the kubeconfig. Default: its current one."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chart_flag(command: Command) -> Command:
    """Flag that selects the chart."""
    return click.option(
        "--chart", type=FILE, help="Folder, archive or oci:// URL of the chart. Default: the checkout's."
    )(command)


def pool_flag(command: Command) -> Command:
    """Flag that selects pools."""
    pools = click.Choice(["gpu", "cpu"])
    return click.option("--pool", "pools", type=pools, multiple=True, help="Only this pool; repeatable.")(command)
