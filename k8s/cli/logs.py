"""`sam3-annotate logs`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click

from job.cli.terminal import one_line
from job.errors import AnnotateError, UsageError
from job.telemetry.logs import set_up_logging
from k8s.api_objects import INDEX_LABEL, Pod
from k8s.cli.flags import pool_flag, release_flags
from k8s.cluster import Cluster
from k8s.release import find_release, labels_of

MAX_FOLLOWED = 50


@click.command()
@release_flags
@pool_flag
@click.option("--index", type=click.IntRange(0), help="Only this index.")
@click.option("--all", "is_all", is_flag=True, help="Replaced pods too. Default: the newest pod of each index.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they arrive.")
@click.option("--tail", type=click.IntRange(0), help="Only the last N lines of each pod.")
def logs(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Show the logs of the pods of RELEASE, each line with its pool and index."""
    set_up_logging("ERROR", "text")
    cluster = Cluster(namespace, kube_context)
    find_release(cluster, release)
    index, pools = flags["index"], flags["pools"]
    more = () if index is None else (f"{INDEX_LABEL}={index}",)
    pods = [pod for pod in cluster.pods(labels_of(release, "worker", *more)) if not pools or pod.pool in pools]
    chosen = sorted(pods if flags["is_all"] else _newest(pods), key=_order)
    if not chosen:
        raise UsageError(f"release {release} has no such pods: see `sam3-annotate status {release}`")
    if not flags["follow"]:
        for pod in chosen:
            _print(cluster, pod, follow=False, tail=flags["tail"])
        return
    if len(chosen) > MAX_FOLLOWED:
        raise UsageError(f"{len(chosen)} pods match, --follow takes at most {MAX_FOLLOWED}: give --index or --pool")
    with suppress(KeyboardInterrupt):
        _follow(cluster, chosen, flags["tail"])


def _newest(pods: Iterable[Pod]) -> list[Pod]:
    oldest_first = sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
    return list({(pod.pool, pod.index): pod for pod in oldest_first}.values())


def _order(pod: Pod) -> tuple[str, int, str]:
    return pod.pool, pod.index or 0, pod.metadata.name


def _print(cluster: Cluster, pod: Pod, *, follow: bool, tail: int | None) -> None:
    for line in cluster.log(pod.metadata.name, follow=follow, tail=tail):
        click.echo(f"{pod.pool}-{pod.index} {one_line(line)}")


def _follow(cluster: Cluster, pods: Iterable[Pod], tail: int | None) -> None:
    def follow(pod: Pod) -> None:
        try:
            _print(cluster, pod, follow=True, tail=tail)
        except AnnotateError as exc:
            click.echo(f"{pod.pool}-{pod.index} Warning: {exc}", err=True)

    threads = [threading.Thread(target=follow, args=(pod,), daemon=True) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
