"""`sam3-annotate clean`."""

from __future__ import annotations

import sys

import click

from job.cli.flags import FILE, FOLDER
from job.cli.terminal import one_line
from job.errors import UsageError
from job.storage.open import Address, new_process_id
from job.storage.store import refusals_are_configuration
from job.telemetry.logs import set_up_logging
from job.tools.cleanup import find_leftovers, remove


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for the output.")
@click.option("--yes", is_flag=True, help="Remove without confirmation.")
def clean(out: str, output_storage_options: str | None, yes: bool) -> None:
    """Remove what ended runs of OUT no longer need; results, journals and failure tables stay."""
    set_up_logging("WARNING", "text")
    with refusals_are_configuration(is_planner=True):
        store = Address.with_file(out, output_storage_options).open(new_process_id())
        leftovers = [leftover for leftover in find_leftovers(store) if leftover.keys]
        if not leftovers:
            click.echo(f"Nothing to remove in {store.url}")
            return
        for leftover in leftovers:
            click.echo(one_line(f"{leftover.what}: {len(leftover.keys)} objects, {leftover.size} bytes"))
        if not yes and not sys.stdin.isatty():
            raise UsageError("nothing was removed: give --yes to remove without confirmation")
        if not yes and not click.confirm("Remove these?"):
            click.echo("Nothing was removed")
            return
        for leftover in leftovers:
            remove(store, leftover)
        store.close()
        click.echo(f"Removed {sum(len(leftover.keys) for leftover in leftovers)} objects")
