"""Janitor: suspends the unfinished Jobs of a run after the run has ended in storage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from job.errors import ObjectError, StorageError, UsageError
from job.run.run import find_named
from job.storage.store import Store
from job.system.clock import SYSTEM_CLOCK, Clock
from k8s.cluster import Cluster, ClusterError

logger = logging.getLogger(__name__)

POLL_S = 15.0
GRACE_S = 60.0
"""Running pods check for the end of the run every 30 s and exit by themselves."""


def wait_for_end(open_store: Callable[[], Store], run_name: str, clock: Clock = SYSTEM_CLOCK) -> None:
    """Wait until the run has ended; retries for as long as storage is unreachable or refuses the credentials.

    Args:
        open_store: Opens the output; called again until it succeeds.
        run_name: Name of the run.
        clock: For waiting.

    Raises:
        RunConflictError: The run was written by an incompatible version.
    """
    store: Store | None = None
    while True:
        try:
            if store is None:
                store = open_store()
                logger.info("Waiting for the end of run %s in %s", run_name, store.url)
            if _has_ended(store, run_name):
                return
        except StorageError as exc:  # no credentials yet: a mounted Secret may come
            logger.warning("%s; retrying", exc)
        clock.sleep(POLL_S)


def _has_ended(store: Store, run_name: str) -> bool:
    try:
        end = find_named(store, run_name).end()
    except UsageError:
        return False  # the run has not begun
    except (StorageError, ObjectError) as exc:
        logger.warning("%s; retrying", exc)
        return False
    if end is not None:
        logger.info("Run %s has ended: %s", run_name, end.outcome)
    return end is not None


def suspend_unfinished(cluster: Cluster, jobs: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> list[str]:
    """Suspend the Jobs that have not finished `GRACE_S` after the end of the run.

    Args:
        cluster: Cluster of the Jobs.
        jobs: Names of the Jobs.
        clock: For waiting.

    Returns:
        Names of the suspended Jobs.
    """
    clock.sleep(GRACE_S)
    return [name for name in jobs if _suspend(cluster, name, clock)]


def _suspend(cluster: Cluster, name: str, clock: Clock) -> bool:
    while True:
        try:
            job = cluster.job(name)
            if job is None or job.spec.suspend or job.has_ended:
                return False
            cluster.suspend(name)
        except ClusterError as exc:
            logger.warning("%s; retrying", exc)
            clock.sleep(POLL_S)
        else:
            logger.info("Suspended Job %s: the run has ended", name)
            return True
