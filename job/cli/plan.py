"""`sam3-annotate plan`."""

from __future__ import annotations

import logging
from typing import Any

import click

from job.cli import flags as groups
from job.cli.requests import open_folders, plan_request
from job.plan.plan import read_plan
from job.plan.planner import plan_now
from job.run.heartbeat import Heartbeat
from job.storage.open import new_process_id
from job.storage.store import refusals_are_configuration
from job.system.signals import ended_by_signals
from job.telemetry.logs import set_up_logging
from job.worker.runner import begin_run, check_not_empty, warn_if_empty

logger = logging.getLogger(__name__)


@click.command()
@groups.folder_flags
@groups.selection_flags
@groups.model_flags
@groups.run_flags
@groups.fail_if_empty_flag
@groups.log_flags
def plan(**flags: Any) -> None:
    """List the input and write the plan of a run for `annotate --run`; needs no device."""
    set_up_logging(flags["log_level"], flags["log_format"])
    with refusals_are_configuration(is_planner=True):
        folders = open_folders(flags, new_process_id())
        request = plan_request(flags, folders)
        run = begin_run(request)
        try:
            with ended_by_signals(), Heartbeat(run, request.options):
                found = read_plan(run)
                made = found or plan_now(run, request.source, request.options, request.input_list)
        finally:
            folders.target.close()
    logger.info(
        "Run %s: %d of %d inputs to do in %d shards%s",
        run.name,
        made.inputs_planned,
        made.inputs_listed,
        made.shards_planned,
        " (planned before)" if found else "",
    )
    warn_if_empty(request.source, made)
    check_not_empty(request, made.inputs_listed)
    click.echo(run.name)
