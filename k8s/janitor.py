"""Suspends what is left of a run's Jobs once the storage says that the run has ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from job.errors import CredentialsRefusedError, ObjectError, StorageError, UsageError
from job.run.run import find_named
from job.storage.store import Store
from job.system.clock import SYSTEM_CLOCK, Clock
from k8s.cluster import Cluster, ClusterError

logger = logging.getLogger(__name__)

POLL_S = 15.0
GRACE_S = 60.0
"""Pods that run see the end themselves; a look for it is at most 30 s old."""


def wait_for_end(store: Store, run_name: str, clock: Clock = SYSTEM_CLOCK) -> None:
    """Wait until the run has ended, however long storage is out of reach.

    Raises:
        CredentialsRefusedError: Storage has refused this user since the start.
        RunConflictError: The run is of another version.
    """
    while not _has_ended(store, run_name):
        clock.sleep(POLL_S)


def _has_ended(store: Store, run_name: str) -> bool:
    try:
        end = find_named(store, run_name).end()
    except UsageError:
        return False  # nobody has begun it
    except CredentialsRefusedError:
        raise
    except (StorageError, ObjectError) as exc:
        logger.warning("%s; will look again", exc)
        return False
    if end is not None:
        logger.info("Run %s has ended: %s", run_name, end.outcome)
    return end is not None


def suspend_what_is_left(cluster: Cluster, jobs: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> list[str]:
    """Suspend the Jobs that have not finished, after a while in which they may finish by themselves.

    Args:
        cluster: Where they are.
        jobs: Their names.
        clock: To wait by.

    Returns:
        Names of those that were suspended.
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
            logger.warning("%s; will try again", exc)
            clock.sleep(POLL_S)
        else:
            logger.info("Job %s is suspended: others have done its work", name)
            return True
