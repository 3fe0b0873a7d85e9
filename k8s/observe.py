"""Observe a release: reads its Jobs, pods and warning events, and the progress in storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from job.errors import AnnotateError, ConfigurationError, UsageError
from job.redaction import public_url
from job.storage.open import new_process_id
from job.tools.progress import RunProgress, read_progress
from k8s.api_objects import Event, Node
from k8s.cluster import Cluster
from k8s.diagnostics import find_diagnostics
from k8s.release import Release, find_release, labels_of
from k8s.status import ReleaseStatus, release_status
from k8s.storage_access import call_with_timeout, output_address


def observe(cluster: Cluster, name: str, storage_options: Mapping[str, object]) -> ReleaseStatus:
    """Status of a release.

    Args:
        cluster: Cluster of the release.
        name: Name of the release.
        storage_options: fsspec options for the output.

    Raises:
        UsageError: There is no such release.
        ClusterError: The API server is unreachable.
        ConfigurationError: The API server refuses to show the release.
    """
    release = find_release(cluster, name)
    pods = list(cluster.pods(labels_of(name)))
    progress, problems = _progress_in_storage(release, storage_options)
    # Events are kept for an hour, so they count only for Jobs that still lack pods.
    lacking = frozenset(job.metadata.name for job in release.jobs.values() if job.lacks_pods)
    diagnostics = find_diagnostics(
        pods, _events(cluster), lacking, lambda node: _node(cluster, node), datetime.now(UTC)
    )
    return release_status(release, pods, progress, [*problems, *diagnostics])


def _progress_in_storage(release: Release, options: Mapping[str, object]) -> tuple[RunProgress | None, list[str]]:
    if release.has_output_on_volume:
        problem = (
            f"the output is a volume ({release.output_url}), which only pods can read: progress is that of the Jobs"
        )
        return None, [problem]
    try:
        return call_with_timeout(lambda: _read_progress(release, options)), []
    except AnnotateError as exc:
        return None, [f"the output {public_url(release.output_url)} cannot be read from here: {exc}"]


def _read_progress(release: Release, options: Mapping[str, object]) -> RunProgress | None:
    """None before the run has begun."""
    store = output_address(release, options).open(new_process_id())
    try:
        return read_progress(store, release.run)
    except UsageError:
        return None
    finally:
        store.close()


def _events(cluster: Cluster) -> list[Event]:
    """Warning events; none where this user may not list them."""
    try:
        return list(cluster.warnings())
    except ConfigurationError:
        return []


def _node(cluster: Cluster, name: str) -> Node | None:
    """A node; None where this user may not read it."""
    try:
        return cluster.node(name)
    except ConfigurationError:
        return None
