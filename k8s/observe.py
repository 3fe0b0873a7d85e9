"""Everything about a release in a few requests: its Jobs, one paged list of pods, warnings, and the storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from job.errors import AnnotateError, ConfigurationError, UsageError
from job.storage.open import new_process_id
from job.tools.progress import RunProgress, read_progress
from k8s.api_objects import Event, Node
from k8s.cluster import Cluster
from k8s.diagnostics import find_hindrances
from k8s.release import Release, find_release, labels_of
from k8s.status import ReleaseStatus, judge
from k8s.storage_access import call_with_timeout, output_address


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
    diagnostics = find_hindrances(pods, _events(cluster), lacking, lambda node: _node(cluster, node), datetime.now(UTC))
    return judge(release, pods, progress, [*trouble, *diagnostics])


def _ask_storage(release: Release, options: Mapping[str, object]) -> tuple[RunProgress | None, list[str]]:
    if release.has_output_on_volume:
        what = f"the output is a volume ({release.output_url}), which only pods can read: progress is that of the Jobs"
        return None, [what]
    try:
        return call_with_timeout(lambda: _read_progress(release, options)), []
    except AnnotateError as exc:
        return None, [f"the output {release.output_url} cannot be read from here: {exc}"]


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
