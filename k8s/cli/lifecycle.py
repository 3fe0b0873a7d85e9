"""`sam3-annotate suspend`, `resume`, `scale` and `cancel`; all of them go through Helm, which owns these fields."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from job.errors import UsageError
from job.redaction import public_url
from job.telemetry.logs import set_up_logging
from k8s.cli.flags import chart_flag, pool_flag, release_flags
from k8s.cluster import Cluster
from k8s.helm import Helm, find_chart
from k8s.release import Release, find_release


@click.command()
@release_flags
@chart_flag
@pool_flag
def suspend(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Suspend RELEASE: its pods stop gracefully, and `resume` continues with the work left."""
    found, helm = _find(release, namespace, kube_context)
    chosen = _chosen(found, flags["pools"])
    _refuse_if_queued(found, chosen)
    helm.set(release, _chart(helm, release, flags["chart"]), {f"pools.{pool}.suspend": True for pool in chosen})
    click.echo(f"Suspended: {', '.join(chosen)} of {release}")


@click.command()
@release_flags
@chart_flag
@pool_flag
def resume(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Resume RELEASE after `suspend`."""
    found, helm = _find(release, namespace, kube_context)
    chosen = _chosen(found, flags["pools"])
    _refuse_if_queued(found, chosen)
    values = helm.values(release)
    by_janitor = [
        pool for pool in chosen if found.jobs[pool].spec.suspend and not values["pools"][pool].get("suspend", False)
    ]
    if by_janitor:
        raise UsageError(
            f"{', '.join(by_janitor)} of {release} was suspended by the janitor, because run "
            f"{found.run} has ended. For another pass: sam3-annotate submit, or helm upgrade with another run.name"
        )
    helm.set(release, _chart(helm, release, flags["chart"]), {f"pools.{pool}.suspend": False for pool in chosen})
    click.echo(f"Resumed: {', '.join(chosen)} of {release}")


@click.command()
@release_flags
@chart_flag
@pool_flag
@click.option(
    "--parallelism", type=click.IntRange(0), required=True, help="Pods at a time, at most as many as indexes."
)
def scale(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Change the number of pods of RELEASE at a time; removed pods stop gracefully."""
    found, helm = _find(release, namespace, kube_context)
    chosen = _chosen(found, flags["pools"])
    parallelism = flags["parallelism"]
    for pool in chosen:
        most = found.jobs[pool].spec.completions
        if parallelism > most:
            raise UsageError(f"pool {pool} has {most} indexes, --parallelism is {parallelism}: give at most {most}")
    changes = {f"pools.{pool}.parallelism": parallelism for pool in chosen}
    helm.set(release, _chart(helm, release, flags["chart"]), changes)
    click.echo(f"{parallelism} pods at a time: {', '.join(chosen)} of {release}")


@click.command()
@release_flags
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(release: str, namespace: str | None, kube_context: str | None, yes: bool) -> None:
    """Remove RELEASE with its Jobs and pods; keep the results and the state of the run."""
    found, helm = _find(release, namespace, kube_context)
    for pool, job in found.jobs.items():
        click.echo(f"{pool}: Job {job.metadata.name} with {job.status.active} pods")
    if not yes and not sys.stdin.isatty():
        raise UsageError("nothing was removed, because there is no terminal for the confirmation: give --yes")
    if not yes and not click.confirm(f"Remove release {release} from namespace {found.namespace}?"):
        click.echo("Nothing was removed")
        return
    helm.uninstall(release)
    click.echo(
        f"Removed. The results stay in {public_url(found.output_url)}; submit the same values again to resume run "
        f"{found.run}"
    )


def _find(release: str, namespace: str | None, context: str | None) -> tuple[Release, Helm]:
    set_up_logging("WARNING", "text")
    cluster = Cluster(namespace, context)
    return find_release(cluster, release), Helm(cluster.namespace, context)


def _chart(helm: Helm, release: str, given: str | None) -> str:
    """The chart, in the version that the release was installed from; another version would change more fields."""
    chart = find_chart(given)
    installed, here = helm.installed_version(release), helm.version_of(chart)
    if installed != here:
        raise UsageError(
            f"release {release} was installed from version {installed} of the chart, {chart} is {here}: give that "
            "version by --chart, or upgrade the release by `sam3-annotate submit`"
        )
    return chart


def _refuse_if_queued(found: Release, chosen: Iterable[str]) -> None:
    queues = sorted({found.jobs[pool].queue for pool in chosen} - {""})
    if queues:
        raise UsageError(
            f"release {found.name} is in queue {', '.join(queues)} of Kueue, which owns `suspend` of its Jobs: "
            "deactivate its workloads (spec.active: false), or run `sam3-annotate cancel`, which keeps the run too"
        )


def _chosen(found: Release, pools: Iterable[str]) -> list[str]:
    """The given pools, or all that have work left."""
    missing = sorted(set(pools) - set(found.jobs))
    if missing:
        raise UsageError(f"release {found.name} has no pool {', '.join(missing)}: it has {', '.join(found.jobs)}")
    left = [pool for pool, job in found.jobs.items() if not job.has_ended]
    return list(pools) or left or sorted(found.jobs)
