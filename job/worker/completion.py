"""Completion of a run: the failure table and `end.json`, once every shard has a marker."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from job.errors import TooManyFailedError
from job.plan.plan import Plan
from job.run.journal import ANNOTATED, FAILED, REVIEWED
from job.run.options import WorkerOptions
from job.run.run import Run
from job.run.spec import Outcome, RunEnd
from job.system.threads import iter_in_threads
from job.worker.shards import are_all_marked, read_marker


def end_if_complete(run: Run, plan: Plan, options: WorkerOptions) -> RunEnd | None:
    """End the run if this was its last shard.

    Returns:
        How the run ended, or None while other processes have work left.

    Raises:
        TooManyFailedError: More inputs failed than `options.max_failed_fraction` of all inputs listed.
        RunConflictError: The run was superseded.
    """
    end = run.end()
    if end is None:
        if not are_all_marked(run, plan):
            return None
        end = run.write_end(_sum_up(run, plan, options))
    end.check_not_superseded(run.name)
    if end.outcome == "too_many_failed":
        raise TooManyFailedError(
            f"{end.failed} of {end.inputs_listed} inputs failed, more than --max_failed_fraction allows: "
            f"see {run.store.url}/{run.key('failures.jsonl')}"
        )
    return end


def _sum_up(run: Run, plan: Plan, options: WorkerOptions) -> RunEnd:
    """Read the markers and write the failure table; the caller writes `end.json`."""
    totals: Counter[str] = Counter()
    encode = msgspec.json.Encoder().encode_lines
    with tempfile.TemporaryDirectory(prefix="sam3-failures-") as folder:  # the failures may not fit in memory
        table = Path(folder) / "failures.jsonl"
        with table.open("wb") as rows:
            for marker in iter_in_threads(lambda name: read_marker(run, name), plan.shard_names()):
                options.watchdog.touch()
                totals.update(marker.totals)
                rows.write(encode(marker.failures))
        run.store.put_file(run.key("failures.jsonl"), table)
    is_too_many = totals[FAILED] > options.max_failed_fraction * plan.inputs_listed
    outcome: Outcome = "too_many_failed" if is_too_many else "succeeded"
    return RunEnd(
        outcome=outcome,
        by=options.process_id,
        inputs_listed=plan.inputs_listed,
        annotated=totals[ANNOTATED],
        failed=totals[FAILED],
        reviewed=totals[REVIEWED],
    )
