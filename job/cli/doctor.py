"""`sam3-annotate doctor`."""

from __future__ import annotations

from typing import Any

import click

from job.cli import flags as groups
from job.cli.requests import doctor_request, open_folders
from job.storage.local import remove_empty_dirs
from job.storage.open import new_process_id
from job.storage.store import PRIVATE_FOLDER, refusals_are_configuration
from job.telemetry.logs import set_up_logging
from job.tools.doctor import examine


@click.command()
@groups.folder_flags
@groups.model_flags
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Default: cuda if there is one, else cpu.")
@click.option(
    "--runtime", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True, help="What runs the model."
)
def doctor(**flags: Any) -> None:
    """Try everything that a run needs, one thing after the other: storage, its promises, model, one image."""
    set_up_logging("WARNING", "text")
    with refusals_are_configuration(is_planner=True):
        folders = open_folders(flags, new_process_id())
        try:
            for check in examine(doctor_request(flags, folders)):
                if check.error is not None:
                    click.echo(f"✗ {check.name}")
                    raise check.error
                click.echo(f"✓ {check.name}: {check.said}")
        finally:
            folders.target.close()
            remove_empty_dirs(folders.target, PRIVATE_FOLDER)
