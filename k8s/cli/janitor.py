"""`sam3-annotate janitor`."""

from __future__ import annotations

import logging
from typing import Any

import click

from job.cli.flags import FILE, FOLDER, log_flags
from job.storage.open import Address, new_process_id
from job.telemetry.logs import set_up_logging
from k8s.cluster import Cluster
from k8s.janitor import suspend_unfinished, wait_for_end

logger = logging.getLogger(__name__)


@click.command()
@click.option("--namespace", required=True, help="Namespace of the Jobs.")
@click.option("--job", "jobs", multiple=True, required=True, help="Name of a Job of the run; repeatable.")
@click.option("--out_top_dir", type=FOLDER, required=True, help="Folder or URL of the run's results.")
@click.option("--output_storage_options", type=FILE, help="JSON file of fsspec options for the output.")
@click.option("--run", "run_name", required=True, help="Name of the run.")
@log_flags
def janitor(**flags: Any) -> None:
    """Wait for the end of a run, then suspend its unfinished Jobs.

    The chart runs this command in a pod that may get and patch these Jobs only.
    """
    set_up_logging(flags["log_level"], flags["log_format"])
    output = Address.with_file(flags["out_top_dir"], flags["output_storage_options"])
    cluster = Cluster(flags["namespace"])
    wait_for_end(lambda: output.open(new_process_id()), flags["run_name"])
    if not suspend_unfinished(cluster, flags["jobs"]):
        logger.info("No unfinished Job among %s", ", ".join(flags["jobs"]))
