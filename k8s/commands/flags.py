"""Flags that several commands have."""

from __future__ import annotations

from collections.abc import Callable

import click

Command = Callable[..., None]


def release_flags(command: Command) -> Command:
    """Which release, and where."""
    options = (
        click.argument("release"),
        click.option("-n", "--namespace", help="Namespace of the release. Default: that of the kubeconfig's context."),
        click.option("--kube_context", help="Context of the kubeconfig. Default: its current one."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chart_flag(command: Command) -> Command:
    """Which chart, for what goes through Helm."""
    return click.option("--chart", help="Folder, archive or oci:// URL of the chart. Default: the checkout's.")(command)


def pool_flag(command: Command) -> Command:
    """Which pool."""
    pools = click.Choice(["gpu", "cpu"])
    return click.option("--pool", "pools", type=pools, multiple=True, help="Only this pool; repeatable.")(command)
