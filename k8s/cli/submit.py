"""`sam3-annotate submit`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from job.cli.flags import FILE
from job.errors import AnnotateError, NoInputsError, UsageError
from job.telemetry.logs import set_up_logging
from k8s.capacity import capacity_warnings
from k8s.cli.flags import chart_flag, release_flags
from k8s.cluster import Cluster
from k8s.helm import Helm, find_chart
from k8s.release import Release
from k8s.sizing import PoolRate, Sizes, size
from k8s.submission import (
    PLAN_FIRST_INPUTS,
    Chart,
    StorageOptions,
    Work,
    check_jobs_can_resume,
    find_work,
    has_no_volumes,
    installed_run,
    make_plan,
    next_pass,
    render,
)

logger = logging.getLogger(__name__)


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `submit` installs, or would install.

    Attributes:
        release: Name of the release.
        namespace: Namespace of the release.
        run: Name of the run.
        images: Inputs to do; None if they were not counted.
        sizes: Sizes of the pools, with hours and cost.
        warnings: What keeps pods from running on this cluster, one sentence each.
    """

    release: str
    namespace: str
    run: str
    images: int | None
    sizes: Sizes
    warnings: tuple[str, ...] = ()


class PerPool(click.ParamType[tuple[str, float]]):
    """A number for a pool, such as `gpu=20`."""

    name = "pool=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """`gpu=20` to ("gpu", 20.0)."""
        pool, _, number = str(value).partition("=")
        try:
            found = float(number)
        except ValueError:
            found = -1.0
        if pool not in {"gpu", "cpu"} or not 0 <= found < float("inf"):
            self.fail(f"{value!r} is not a pool and a number, such as gpu=20 or cpu=0.8", param, ctx)
        return pool, found


@click.command()
@release_flags
@chart_flag
@click.option(
    "-f", "--values", "files", type=FILE, multiple=True, help="File of chart values; repeatable, the last one wins."
)
@click.option("--set", "single", multiple=True, metavar="KEY=VALUE", help="One chart value; repeatable.")
@click.option("--set_string", "texts", multiple=True, metavar="KEY=VALUE", help="One string value, as in run.name=1.")
@click.option("--images_per_s", type=PerPool(), multiple=True, help="Measured rate of one pod, images/s: gpu=20.")
@click.option("--price_per_hour", type=PerPool(), multiple=True, help="Price of one pod, in any currency: gpu=4.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Size the first pool for this time.")
@click.option("--max_cost", type=click.FloatRange(0), help="Refuse a higher cost.")
@click.option("--images", type=click.IntRange(0), help="Inputs to do, if they cannot be counted from here.")
@click.option(
    "--input_storage_options", type=FILE, help="JSON file of fsspec options for the input, as seen from here."
)
@click.option(
    "--output_storage_options", type=FILE, help="JSON file of fsspec options for the output, as seen from here."
)
@click.option("--dry_run", is_flag=True, help="Show sizes, hours and cost; change nothing.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
def submit(release: str, namespace: str | None, kube_context: str | None, **flags: Any) -> None:
    """Install RELEASE, or upgrade it to other values.

    Counts the inputs to do, sizes the pools by the rates of their pods, plans a long listing before any GPU is
    requested, and calls helm. After a run that has ended it starts another pass.
    """
    set_up_logging("WARNING", "text")
    cluster = Cluster(namespace, kube_context)
    helm = Helm(cluster.namespace, kube_context)
    with _chart(helm, release, flags) as chart:
        shown, final, work = _prepare(helm, chart, flags)
        rendered = render(helm, final)
        _check_not_empty(rendered, work)
        _check_cost(shown, flags["max_cost"])
        shown = msgspec.structs.replace(shown, warnings=capacity_warnings(cluster, rendered))
        if flags["output"] == "text":
            click.echo("\n".join(_lines(shown)))
        for warning in shown.warnings:
            click.echo(f"Warning: {warning}", err=True)
        if work is not None and work.is_nothing:
            click.echo("Nothing to do: every input is annotated. Nothing was installed", err=True)
        else:
            check_jobs_can_resume(cluster, rendered)
            if not flags["dry_run"]:
                _install(helm, final, work, _options(flags), flags["output"])
        if flags["output"] == "json":
            click.echo(msgspec.json.encode(shown))


def _prepare(helm: Helm, chart: Chart, flags: Mapping[str, Any]) -> tuple[Submission, Chart, Work | None]:
    """Read everything and size the pools; change nothing."""
    rendered, options = render(helm, chart), _options(flags)
    following = _next_pass(rendered, options, is_needed=flags["images"] is None)
    if following is not None:
        chart = chart.with_values({"run.name": following})
        rendered = render(helm, chart)
        _check_pass(rendered, following)
    work = None
    if flags["images"] is None and has_no_volumes(rendered):
        work = replace(
            find_work(rendered, options, keeps_listing=not flags["dry_run"]), follows_end=following is not None
        )
    images = flags["images"] if work is None else work.images
    sizes = _sizes(rendered, images, flags, has_jobs=installed_run(helm, chart) == rendered.run)
    computed = {
        f"pools.{name}.{what}": getattr(pool, what)
        for name, pool in sizes.pools.items()
        for what in ("completions", "parallelism")
        if pool.images is not None
    }
    if computed:
        chart = chart.with_values(computed)
        _check_sizes(render(helm, chart), sizes)
    shown = Submission(release=chart.release, namespace=helm.namespace, run=rendered.run, images=images, sizes=sizes)
    return shown, chart, work


def _next_pass(rendered: Release, options: StorageOptions, *, is_needed: bool) -> str | None:
    """With --images given, an unreachable storage is only a warning."""
    if is_needed:
        return next_pass(rendered, options)
    try:
        return next_pass(rendered, options, is_patient=False)
    except AnnotateError as exc:
        logger.warning("The output cannot be read from here (%s): continuing with run %s", exc, rendered.run)
        return None


def _sizes(rendered: Release, images: int | None, flags: Mapping[str, Any], *, has_jobs: bool) -> Sizes:
    speeds, prices = dict(flags["images_per_s"]), dict(flags["price_per_hour"])
    unknown = sorted((set(speeds) | set(prices)) - set(rendered.jobs))
    if unknown:
        raise UsageError(f"pool {', '.join(unknown)} is disabled in these values: leave it out, or enable it")
    missing = [name for name in rendered.jobs if not speeds.get(name)]
    if speeds and missing:
        raise UsageError(
            f"--images_per_s lacks the rate of a pod of {', '.join(missing)}: give it for each pool, such as "
            f"{missing[0]}=0.8, or disable the pool (--set pools.{missing[0]}.enabled=false)"
        )
    is_counted = images is not None
    if not is_counted and (speeds or flags["hours"] is not None or flags["max_cost"] is not None):
        raise UsageError(
            "inputs, results or model are on a volume, which only pods can read: give the number of inputs by --images"
        )
    rates = {
        name: PoolRate(
            parallelism=rendered.jobs[name].spec.parallelism,
            completions=rendered.jobs[name].spec.completions,
            images_per_s=speeds.get(name) or None,
            price_per_hour=prices.get(name),
            has_job=has_jobs,
        )
        for name in ("gpu", "cpu")
        if name in rendered.jobs
    }
    return size(images or 0, rates, flags["hours"])


def _check_pass(rendered: Release, following: str) -> None:
    """A name given by --set takes precedence over the numbered one."""
    if not rendered.run.startswith(f"{following}-"):
        raise UsageError(
            f"run {rendered.run} has ended: give another --set run.name, or leave it out for the next number"
        )


def _check_sizes(rendered: Release, sizes: Sizes) -> None:
    """Sizes given by --set take precedence over computed ones."""
    for name, pool in sizes.pools.items():
        spec = rendered.jobs[name].spec
        if (spec.completions, spec.parallelism) != (pool.completions, pool.parallelism):
            raise UsageError(
                f"pools.{name} was set to {spec.completions} completions and {spec.parallelism} pods, --images_per_s "
                f"and --hours give {pool.completions} and {pool.parallelism}: leave one of them out"
            )


def _check_not_empty(rendered: Release, work: Work | None) -> None:
    """Refuse an input in which the pods would find nothing.

    Raises:
        NoInputsError: No JSON file, where `worker.failIfEmpty` is on.
    """
    if work is not None and work.is_empty and rendered.fails_if_empty:
        raise NoInputsError(
            f"no JSON file in {rendered.input_url} fits the selection: nothing was changed. Correct input.url or "
            "`selection`, or accept an empty input by --set worker.failIfEmpty=false"
        )


def _check_cost(shown: Submission, most: float | None) -> None:
    """Refuse a cost that is too high or unknown."""
    if most is None:
        return
    cost = shown.sizes.cost
    if cost is None:
        raise UsageError(
            "--max_cost needs the rate and price of a pod of each pool: give --images_per_s and "
            f"--price_per_hour for {', '.join(shown.sizes.pools)}"
        )
    if not cost <= most:  # also refuses NaN
        raise UsageError(
            f"{shown.images:,} images cost {_money(cost)}, --max_cost is {_money(most)}: nothing was changed. Allow "
            "more, select fewer images (--set selection.limit), or use cheaper pods"
        )


def _install(helm: Helm, chart: Chart, work: Work | None, options: StorageOptions, output: str) -> None:
    rendered = render(helm, chart)
    if work is not None and not work.is_planned and work.images >= PLAN_FIRST_INPUTS:
        if output == "text":
            click.echo("Planning …")
        largest = max(job.spec.completions for job in rendered.jobs.values())
        make_plan(rendered, options, largest, work.listed)
    notes = helm.install(chart.release, chart.location, chart.arguments)
    if output == "text":
        click.echo(notes)


@contextmanager
def _chart(helm: Helm, release: str, flags: Mapping[str, Any]) -> Iterator[Chart]:
    """The chart with the values of the installed release, overlaid by those of the flags."""
    files: Sequence[str] = flags["files"]
    missing = [file for file in files if "://" not in file and not Path(file).is_file()]
    if missing:
        raise UsageError(f"no such values file: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="sam3-annotate-") as folder:
        given = helm.given_values(release)
        if given:
            path = Path(folder) / "values.json"
            path.write_bytes(msgspec.json.encode(given))
            files = (str(path), *files)
        arguments = [f"--values={file}" for file in files]
        installed = tuple(arguments[:1]) if given else ()
        arguments += [f"--set={one}" for one in flags["single"]] + [f"--set-string={one}" for one in flags["texts"]]
        yield Chart(release, find_chart(flags["chart"]), tuple(arguments), installed)


def _options(flags: Mapping[str, Any]) -> StorageOptions:
    return StorageOptions(flags["input_storage_options"], flags["output_storage_options"])


def _lines(shown: Submission) -> Iterator[str]:
    """The table that `submit` prints."""
    work = "inputs to do: not counted" if shown.images is None else f"inputs to do: {shown.images:,}"
    yield f"Release {shown.release} in namespace {shown.namespace}, run {shown.run}; {work}"
    yield f"{'POOL':<6}{'INDEXES':>9}{'PODS':>7}{'IMAGES':>16}{'POD-HOURS':>13}{'COST':>13}"
    for name, pool in shown.sizes.pools.items():
        images, hours = _number(pool.images, ",d"), _number(pool.pod_hours, ",.1f")
        cost = "-" if pool.cost is None else _money(pool.cost)
        yield f"{name:<6}{pool.completions:>9,}{pool.parallelism:>7,}{images:>16}{hours:>13}{cost:>13}"
    if shown.sizes.hours is None:
        yield "Hours and cost are unknown: give rates and prices by --images_per_s POOL=N and --price_per_hour POOL=N"
        return
    lasts = timedelta(seconds=round(shown.sizes.hours * 3600))
    cost = "" if shown.sizes.cost is None else f", {_money(shown.sizes.cost)} without storage"
    yield f"Estimated time {lasts}{cost}"


def _money(value: float) -> str:
    return f"{value:,.2f}" if value == 0 or value >= 1 else f"{value:.2g}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
