"""Everything about a release in a few requests: its Jobs, one paged list of pods, warnings, and the storage."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from job.errors import AnnotateError, ConfigurationError, StorageError, UsageError
from job.storage.open import Address, new_attempt
from job.tools.progress import RunProgress, read_progress
from k8s.api_objects import Event, Node
from k8s.cluster import Cluster
from k8s.diagnostics import find_hindrances
from k8s.release import Release, find_release, labels_of
from k8s.status import ReleaseStatus, judge

STORAGE_WAIT_S = 30.0
"""The layer that retries is patient for minutes; who looks is not."""

_T = TypeVar("_T")


def look(cluster: Cluster, name: str, storage_options: Mapping[str, object]) -> ReleaseStatus:
    """How a release does.

    Args:
        cluster: Where it is.
        name: Of the release.
        storage_options: Of fsspec, for the output.

    Raises:
        UsageError: There is no such release.
        ClusterError: The API server is out of reach.
        ConfigurationError: It refuses to show the release.
    """
    release = find_release(cluster, name)
    pods = list(cluster.pods(labels_of(name)))
    progress, trouble = _ask_storage(release, storage_options)
    # An event is kept for an hour: it is news only where there still are pods missing.
    lacking = frozenset(job.metadata.name for job in release.jobs.values() if job.lacks_pods)
    hindrances = find_hindrances(pods, _events(cluster), lacking, lambda node: _node(cluster, node), datetime.now(UTC))
    return judge(release, pods, progress, [*trouble, *hindrances])


def _ask_storage(release: Release, options: Mapping[str, object]) -> tuple[RunProgress | None, list[str]]:
    if release.has_output_on_volume:
        what = f"the output is a volume ({release.output_url}), which only pods can read: progress is that of the Jobs"
        return None, [what]
    try:
        with storage_of(release):
            return answer_in_time(lambda: _read_progress(release, options)), []
    except AnnotateError as exc:
        return None, [f"the output {release.output_url} cannot be read from here: {exc}"]


def answer_in_time(ask: Callable[[], _T]) -> _T:
    """What the storage says, for somebody who looks.

    Raises:
        StorageError: It says nothing for 30 s.
        AnnotateError: What `ask` raises.
    """
    answers: list[_T] = []
    errors: list[AnnotateError] = []

    def run() -> None:
        try:
            answers.append(ask())
        except AnnotateError as exc:
            errors.append(exc)

    asking = threading.Thread(target=run, name="storage", daemon=True)
    asking.start()
    asking.join(STORAGE_WAIT_S)
    if errors:
        raise errors[0]
    if not answers:
        raise StorageError(f"no answer for {STORAGE_WAIT_S:.0f} s")
    return answers[0]


def _read_progress(release: Release, options: Mapping[str, object]) -> RunProgress | None:
    """None before the run has begun."""
    store = Address(release.output_url, dict(options)).open(new_attempt())
    try:
        return read_progress(store, release.run)
    except UsageError:
        return None
    finally:
        store.close()


@contextmanager
def storage_of(release: Release) -> Iterator[None]:
    """Where the workers find their storage, for what this machine's environment leaves unsaid."""
    before = dict(os.environ)
    if "AWS_ENDPOINT_URL" not in before:
        for variable, value in release.environment.items():
            os.environ.setdefault(variable, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _events(cluster: Cluster) -> list[Event]:
    """Who may not see events goes without."""
    try:
        return list(cluster.warnings())
    except ConfigurationError:
        return []


def _node(cluster: Cluster, name: str) -> Node | None:
    try:
        return cluster.node(name)
    except ConfigurationError:
        return None
