"""`sam3-annotate annotate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from job.cli import flags as groups
from job.cli.requests import Folders, open_folders
from job.cli.requests import annotate_request as request_of
from job.errors import AnnotateError, NoInputsError, TooManyFailedError
from job.model.gpu import unusable_device_is_configuration
from job.storage.open import new_process_id
from job.storage.patience import call_with_patience, index_failures
from job.storage.store import refusals_are_configuration
from job.system.watchdog import Watchdog
from job.telemetry.logs import set_up_logging
from job.telemetry.metrics import max_idle_s
from job.telemetry.observer import Watch
from job.telemetry.progress_bar import COMPLETE, PART_COMPLETE, STOPPED, Tally, log_summary
from job.worker.runner import annotate as annotate_request
from job.worker.runner import list_planned

logger = logging.getLogger(__name__)


@click.command()
@groups.folder_flags
@groups.selection_flags
@groups.model_flags
@groups.run_flags
@groups.share_flags
@groups.runtime_flags
@groups.fail_if_empty_flag
@groups.log_flags
@click.option("--dry_run", is_flag=True, help="List the keys that would be processed; change nothing.")
def annotate(**flags: Any) -> None:
    """Annotate a folder of images, each with a JSON of metadata."""
    set_up_logging(flags["log_level"], flags["log_format"])
    begun_s = time.monotonic()
    is_indexed = flags["index"] is not None
    with (
        _observed(flags) as watch,
        refusals_are_configuration(is_planner=not is_indexed),
        unusable_device_is_configuration(is_indexed=is_indexed),
    ):
        failures = index_failures() if is_indexed else 0
        call_with_patience(lambda: _annotate(flags, watch, begun_s), failures, watch.watchdog.touch)


def _annotate(flags: dict[str, Any], watch: Watch, begun_s: float) -> None:
    process_id = new_process_id()
    folders = open_folders(flags, process_id)
    logger.info("Input directory: %s", flags["input_top_dir"])
    logger.info("Output directory: %s", flags["out_top_dir"])
    request = request_of(flags, folders, process_id, watch)
    if flags["dry_run"]:
        for key in list_planned(request):
            click.echo(key)
        return
    tally = Tally()
    try:
        end = annotate_request(request, tally)
    except AnnotateError as exc:
        if tally.is_begun:
            is_complete = isinstance(exc, TooManyFailedError | NoInputsError)
            _log_summary(tally, COMPLETE if is_complete else STOPPED, folders, begun_s)
        raise
    finally:
        folders.target.close()
    _log_summary(tally, PART_COMPLETE if end is None else COMPLETE, folders, begun_s)


def _log_summary(tally: Tally, headline: str, folders: Folders, begun_s: float) -> None:
    log_summary(tally, headline, output_url=folders.target.url, seconds=time.monotonic() - begun_s)


@contextmanager
def _observed(flags: dict[str, Any]) -> Iterator[Watch]:
    """Serve metrics from the start of the process: downloading a model may take long."""
    watchdog, port = Watchdog(), flags["metrics_port"]
    if port is None:
        yield Watch(watchdog)
        return
    from job.telemetry.metrics import Metrics, served

    metrics = Metrics(flags["pool"], flags["index"] or 0)
    with served(port, metrics, watchdog, max_idle_s(flags["image_timeout_s"])):
        yield Watch(watchdog, metrics)
