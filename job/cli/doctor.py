"""`sam3-annotate doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from job.cli import flags as groups
from job.cli.requests import doctor_request, open_folders
from job.errors import AnnotateError
from job.model.gpu import unusable_device_is_configuration
from job.storage.local.store import remove_empty_dirs
from job.storage.open import new_process_id
from job.storage.store import PRIVATE_FOLDER, refusals_are_configuration
from job.telemetry.logs import set_up_logging
from job.tools.doctor import examine


@click.command()
@groups.folder_flags
@groups.missing_json_flag
@groups.model_flags
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu.")
@groups.runtime_flag
def doctor(**flags: Any) -> None:
    """Check everything that a run needs: storage and its guarantees, model, one image."""
    set_up_logging("WARNING", "text")
    with refusals_are_configuration(is_planner=True), unusable_device_is_configuration(is_indexed=False):
        with _cross("folders"):
            folders = open_folders(flags, new_process_id())
        try:
            with _cross("model"):
                request = doctor_request(flags, folders)
            for check in examine(request):
                if check.error is not None:
                    click.echo(f"✗ {check.name}")
                    raise check.error
                click.echo(f"✓ {check.name}: {check.detail}")
        finally:
            folders.target.close()
            remove_empty_dirs(folders.target, PRIVATE_FOLDER)


@contextmanager
def _cross(name: str) -> Iterator[None]:
    """Show a cross if the block raises an error."""
    try:
        yield
    except AnnotateError:
        click.echo(f"✗ {name}")
        raise
