"""`sam3-annotate progress`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import click
import msgspec

from job.cli.flags import FILE, FOLDER
from job.cli.terminal import one_line
from job.storage.open import Address, new_process_id
from job.storage.store import refusals_are_configuration
from job.telemetry.logs import set_up_logging
from job.telemetry.progress_bar import significant
from job.tools.progress import PoolProgress, RunProgress, read_progress

_REPAINT = "\x1b[H\x1b[2J"
_INTERVAL_S = 5.0
_CONTINUING = {"planning", "planned", "working"}
_HINTS = {
    "planned": "; no worker has started",
    "interrupted": "; rerun the same command to resume",
    "stalled": "; no worker is alive: rerun the same command to resume",
}


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--run", "run_name", help="Name of the run. Default: the newest.")
@click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for the output.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@click.option("--once", is_flag=True, help="Show it once. Default: on a terminal, refresh until the run ends.")
def progress(out: str, run_name: str | None, output_storage_options: str | None, output: str, once: bool) -> None:
    """Show the progress of the run of OUT; only reads. Ctrl-C ends the view, not the run."""
    set_up_logging("WARNING", "text")
    is_live = output == "text" and not once and sys.stdout.isatty()
    with refusals_are_configuration(is_planner=True), suppress(KeyboardInterrupt):
        store = Address.with_file(out, output_storage_options).open(new_process_id())
        try:
            while True:
                found = read_progress(store, run_name)
                run_name = found.run  # the view stays with this run when another one starts
                click.echo(msgspec.json.encode(found) if output == "json" else _painted(found, is_live=is_live))
                if not is_live or found.state not in _CONTINUING:
                    return
                time.sleep(_INTERVAL_S)
        finally:
            store.close()


def _painted(found: RunProgress, *, is_live: bool) -> str:
    return (_REPAINT if is_live else "") + "\n".join(one_line(line) for line in _lines(found))


def _lines(found: RunProgress) -> Iterator[str]:
    share = f" ({100 * found.done / found.planned:.1f} %)" if found.planned else ""
    rate = "not known yet" if not found.images_per_s else f"{significant(found.images_per_s)} images/s"
    eta = "" if found.eta_s is None else f", {timedelta(seconds=round(found.eta_s))} to go"
    yield f"Run {found.run}: {found.state}{_HINTS.get(found.state, '')}"
    yield f"Inputs listed  {found.inputs_listed}, done before {found.inputs_done_before}, to do {found.planned}"
    if found.other_options:
        yield f"Kept           what was done before, with another {' and '.join(found.other_options)}"
    yield f"Done           {found.done}{share}, failed {found.failed}, left {found.left}"
    if found.state == "working":
        yield f"Rate           {rate}{eta}"
    yield from (_pool_line(name, pool) for name, pool in found.pools.items())
    yield from (f"Error          {error}" for error in found.last_errors)


def _pool_line(name: str, pool: PoolProgress) -> str:
    rate = f" ({significant(pool.images_per_s)} images/s)" if pool.images_per_s else ""
    return f"Pool {name:<10}{pool.alive} alive{rate}, {pool.left} exited in order, {pool.silent} silent"
