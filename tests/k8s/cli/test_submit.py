"""Decisions of `submit` before it changes anything: rendered by the real chart, counted in a real folder."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from job.cli.main import run as run_cli
from job.errors import UsageError
from k8s.api_objects import Job
from k8s.cli.submit import PerPool, Submission, _chart, _check_cost, _lines, _prepare
from k8s.cluster import Cluster
from k8s.helm import CHECKOUT_CHART
from k8s.release import Release
from k8s.sizing import PoolSize, Sizes
from k8s.submission import Chart, Work, check_jobs_can_resume, render
from tests.chart.rendering import EXPORT, Values, merged
from tests.fakes import write_ended_run, write_inputs
from tests.k8s.api import Api
from tests.k8s.charts import LibraryHelm
from tests.k8s.objects import condition, job, release

HELM = LibraryHelm("garage")
NOTHING_GIVEN: dict[str, Any] = {
    "images_per_s": (),
    "price_per_hour": (),
    "hours": None,
    "max_cost": None,
    "images": None,
    "input_storage_options": None,
    "output_storage_options": None,
    "dry_run": False,
}
RATES = (("gpu", 60.0), ("cpu", 0.5))


def prepared(locations: dict[str, str], *single: str, **flags: Any) -> tuple[Submission, Chart, Work | None]:
    """Result of `submit night --set …`."""
    given = [f"--set={key}={value}" for key, value in locations.items()] + [f"--set={one}" for one in single]
    return _prepare(HELM, Chart("night", str(CHECKOUT_CHART), tuple(given)), NOTHING_GIVEN | flags)


@pytest.fixture
def locations(tmp_path: Path) -> dict[str, str]:
    """Twelve inputs, and a missing output."""
    write_inputs(tmp_path / "in", 12)
    return {"input.url": f"file://{tmp_path}/in", "output.url": f"file://{tmp_path}/out"}


VOLUMES = {"input.pvc.claimName": "pictures", "output.pvc.claimName": "results"}


def end(locations: dict[str, str], run: str) -> None:
    write_ended_run(Path(locations["output.url"].removeprefix("file://")), run)


def test_counting_work_changes_nothing(locations: dict[str, str], tmp_path: Path) -> None:
    shown, chart, work = prepared(locations)
    assert work == Work(images=12, is_planned=False)
    assert (shown.release, shown.namespace, shown.images) == ("night", "garage", 12)
    assert shown.run.startswith("night-")
    assert {name: (pool.completions, pool.parallelism) for name, pool in shown.sizes.pools.items()} == {
        "gpu": (8, 2), "cpu": (8, 2),
    }  # fmt: skip
    assert not any("--set-json" in argument for argument in chart.arguments), "the values are unchanged"
    assert not (tmp_path / "out").exists()


def test_sizes_go_into_the_chart(locations: dict[str, str]) -> None:
    shown, chart, _ = prepared(locations, images_per_s=RATES, images=100_000_000, hours=10.0)
    pools = {name: (pool.completions, pool.parallelism) for name, pool in shown.sizes.pools.items()}
    assert pools == {"gpu": (925, 47), "cpu": (39, 2)}
    assert shown.sizes.hours == pytest.approx(9.847, abs=0.001)
    jobs = render(HELM, chart).jobs
    assert {name: (one.spec.completions, one.spec.parallelism) for name, one in jobs.items()} == pools


def test_a_run_that_has_ended_is_followed_by_another_pass(locations: dict[str, str]) -> None:
    first = prepared(locations)[0].run
    end(locations, first)
    second, chart, work = prepared(locations)
    assert second.run == first.replace("night-", "night-2-")
    assert render(HELM, chart).run == second.run
    assert work == Work(images=12, is_planned=False, follows_end=True)
    assert not work.is_nothing


def test_another_pass_in_which_nothing_is_left(locations: dict[str, str], tmp_path: Path) -> None:
    empty = locations | {"input.url": f"file://{tmp_path}/empty"}
    write_inputs(tmp_path / "empty", 0)
    first, _, work = prepared(empty)
    assert work == Work(images=0, is_planned=False, is_empty=True)
    assert not work.is_nothing, "a first pass is installed"
    end(empty, first.run)
    _, _, work = prepared(empty)
    assert work is not None
    assert work.is_nothing


def submit_to(api: Api, monkeypatch: pytest.MonkeyPatch, *single: str) -> int:
    """Exit code of `submit --dry_run`, with Helm as a library."""
    monkeypatch.setattr("k8s.cli.submit.Helm", lambda namespace, context: LibraryHelm(namespace, context))
    return run_cli(["submit", "night", "--dry_run", *(f"--set={one}" for one in single)])


def test_an_input_without_a_json_file_is_refused(
    api: Api,
    locations: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"{key}={value}" for key, value in (locations | {"input.url": f"file://{tmp_path}/empty"}).items()]
    write_inputs(tmp_path / "empty", 0)
    assert submit_to(api, monkeypatch, *given) == 65
    assert f"no JSON file in file://{tmp_path}/empty fits the selection" in capsys.readouterr().err
    assert submit_to(api, monkeypatch, *given, "worker.failIfEmpty=false") == 0


def test_an_input_whose_work_is_done_is_not_empty(
    api: Api, scenes: Path, quiet_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(quiet_run, tmp_path / "out", ignore=shutil.ignore_patterns("_sam3"))
    given = (f"input.url=file://{scenes}", f"output.url=file://{tmp_path}/out")
    assert prepared(dict(one.split("=", 1) for one in given))[2] == Work(images=0, is_planned=False)
    assert submit_to(api, monkeypatch, *given) == 0


def test_an_ended_run_is_found_with_images_given(locations: dict[str, str]) -> None:
    end(locations, prepared(locations)[0].run)
    shown, _, work = prepared(locations, images=5)
    assert (shown.run.startswith("night-2-"), shown.images, work) == (True, 5, None)


def test_a_given_run_name_conflicts_with_the_next_pass(locations: dict[str, str]) -> None:
    end(locations, prepared(locations, "run.name=spring")[0].run)
    with pytest.raises(UsageError, match=r"run spring-\w+ has ended: give another --set run.name, or leave it out"):
        prepared(locations, "run.name=spring")
    assert prepared(locations, "run.name=summer")[0].run.startswith("summer-")


def test_images_given_need_no_storage(
    locations: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    first, released = prepared(locations)[0].run, threading.Event()
    monkeypatch.setattr("k8s.storage_access.STORAGE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("k8s.submission.list_runs", lambda store: [released.wait(30)][:0])
    end(locations, first)
    try:
        shown, _, work = prepared(locations, images=5)
    finally:
        released.set()
    assert (shown.run, shown.images, work) == (first, 5, None)
    assert f"cannot be read from here (no answer for 0 s): continuing with run {first}" in caplog.text


def test_other_options_are_another_run(locations: dict[str, str]) -> None:
    first = prepared(locations)[0].run
    end(locations, first)
    shown, _, work = prepared(locations, "selection.limit=5")
    assert re.fullmatch(r"night-[0-9a-f]{8}", shown.run)
    assert shown.run != first
    assert work == Work(images=5, is_planned=False)


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "a rate of a pool that is off": (
        ["pools.gpu.enabled=false"],
        {"images_per_s": RATES},
        "pool gpu is disabled in these",
    ),
    "a rate of one pool of two": ([], {"images_per_s": RATES[:1]}, "the rate of a pod of cpu: give it for each pool"),
    "a rate of nothing": ([], {"images_per_s": (("gpu", 60.0), ("cpu", 0.0))}, "the rate of a pod of cpu: give it"),
    "a price of a pool that is off": (["pools.cpu.enabled=false"], {"price_per_hour": (("cpu", 1.0),)}, "pool cpu is"),
    "hours without a rate": ([], {"hours": 1.0, "images_per_s": RATES[:1]}, "the rate of a pod of cpu"),
    "indexes given and computed": (
        ["pools.gpu.completions=9"],
        {"images_per_s": RATES},
        "pools.gpu was set to 9 completions and 2 pods, --images_per_s and --hours give 2 and 2: leave one of them",
    ),
}


@pytest.mark.parametrize(("single", "flags", "words"), REFUSED.values(), ids=REFUSED)
def test_invalid_combinations(locations: dict[str, str], single: list[str], flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepared(locations, *single, **flags)


def test_a_release_without_pools_is_not_submitted(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_bytes(msgspec.json.encode(EXPORT))
    with pytest.raises(UsageError, match="release night has no pool: set"):
        _prepare(HELM, Chart("night", str(CHECKOUT_CHART), (f"--values={file}",)), NOTHING_GIVEN)


def test_volumes_are_not_read() -> None:
    shown, _, work = prepared(VOLUMES)
    assert (shown.images, work, shown.sizes.hours) == (None, None, None)
    shown, _, work = prepared(VOLUMES, images=1000, images_per_s=RATES)
    assert (shown.images, work) == (1000, None)
    assert shown.sizes.hours is not None


@pytest.mark.parametrize(
    "flags", [{"images_per_s": RATES}, {"hours": 1.0}, {"max_cost": 5.0}], ids=lambda flags: next(iter(flags))
)
def test_rates_need_the_number_of_inputs(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"are on a volume, .* give the number of inputs by --images"):
        prepared(VOLUMES, **flags)


PER_POOL = {"gpu=20": ("gpu", 20.0), "cpu=0.8": ("cpu", 0.8), "gpu=1e3": ("gpu", 1000.0), "cpu=0": ("cpu", 0.0)}


@pytest.mark.parametrize(("text", "found"), PER_POOL.items(), ids=PER_POOL)
def test_a_number_of_a_pool(text: str, found: tuple[str, float]) -> None:
    assert PerPool().convert(text, None, None) == found


@pytest.mark.parametrize("text", ["60", "gpu", "gpu=", "tpu=60", "gpu=many", "gpu=-1", "gpu=inf", "gpu=nan", "gpu=1=2"])
def test_invalid_numbers_of_a_pool(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a pool and a number, such as gpu=20 or cpu=0\.8"):
        PerPool().convert(text, None, None)


def submission(cost: float | None, images: int | None = 1_000_000) -> Submission:
    gpu = PoolSize(completions=925, parallelism=47, images=images, pod_hours=462.8, cost=cost)
    sizes = Sizes(pools={"gpu": gpu}, hours=None if images is None else 9.85, cost=cost)
    return Submission(release="night", namespace="garage", run="night-1a2b3c4d", images=images, sizes=sizes)


def test_max_cost() -> None:
    _check_cost(submission(100.0), 100.0)
    _check_cost(submission(0.0), 0.0)
    with pytest.raises(UsageError, match=r"1,000,000 images cost 100\.01, --max_cost is 100\.00: nothing was changed"):
        _check_cost(submission(100.01), 100.0)
    with pytest.raises(UsageError, match="give --images_per_s and --price_per_hour for gpu"):
        _check_cost(submission(None), 100.0)


def test_the_table() -> None:
    assert list(_lines(submission(1851.2))) == [
        "Release night in namespace garage, run night-1a2b3c4d; inputs to do: 1,000,000",
        "POOL    INDEXES   PODS          IMAGES    POD-HOURS         COST",
        "gpu         925     47       1,000,000        462.8     1,851.20",
        "Estimated time 9:51:00, 1,851.20 without storage",
    ]


def test_the_table_without_rates() -> None:
    pools = {"cpu": PoolSize(completions=8, parallelism=2)}
    shown = msgspec.structs.replace(submission(None, None), sizes=Sizes(pools=pools))
    assert list(_lines(shown)) == [
        "Release night in namespace garage, run night-1a2b3c4d; inputs to do: not counted",
        "POOL    INDEXES   PODS          IMAGES    POD-HOURS         COST",
        "cpu           8      2               -            -            -",
        "Hours and cost are unknown: give rates and prices by --images_per_s POOL=N and --price_per_hour POOL=N",
    ]


def test_given_values_take_precedence_over_installed_ones(locations: dict[str, str], tmp_path: Path) -> None:
    installed: Values = {"run": {"name": "night-2"}, "selection": {"limit": 7}}
    file = tmp_path / "values.yaml"
    file.write_text("selection: {limit: 5}")
    single = tuple(f"{key}={value}" for key, value in locations.items())
    helm = LibraryHelm("garage", installed=installed)
    with _chart(helm, "night", {"files": (str(file),), "single": single, "texts": (), "chart": None}) as chart:
        shown, _, work = _prepare(helm, chart, NOTHING_GIVEN)
        assert shown.run.startswith("night-2-")
        assert work == Work(images=5, is_planned=False)
        assert chart.installed == chart.arguments[:1]
        end(locations, "night-1a2b3c4d")
        end(locations, shown.run)
        assert _prepare(helm, chart, NOTHING_GIVEN)[0].run.startswith("night-3-")
    assert not Path(chart.arguments[0].removeprefix("--values=")).exists(), "values may hold secrets"


def test_a_running_run_keeps_its_indexes(locations: dict[str, str]) -> None:
    nested = {"input": {"url": locations["input.url"]}, "output": {"url": locations["output.url"]}}
    helm = LibraryHelm("garage", installed=merged(nested, {"pools": {"gpu": {"completions": 40}}}))
    flags = NOTHING_GIVEN | {"images_per_s": RATES, "images": 100_000_000, "hours": 10.0}
    with _chart(helm, "night", {"files": (), "single": (), "texts": (), "chart": None}) as chart:
        pools = _prepare(helm, chart, flags)[0].sizes.pools
    assert {name: (one.completions, one.parallelism) for name, one in pools.items()} == {"gpu": (40, 40), "cpu": (8, 2)}
    single = ("annotation.confidenceThreshold=0.5",)
    with _chart(helm, "night", {"files": (), "single": single, "texts": (), "chart": None}) as chart:
        pools = _prepare(helm, chart, flags)[0].sizes.pools
    assert (pools["gpu"].completions, pools["gpu"].parallelism) == (925, 47), "another run has other Jobs"


def test_text_that_looks_like_a_number() -> None:
    texts = ("run.name=20260131", "input.url=s3://pictures/in", "output.url=s3://pictures/out")
    with _chart(HELM, "night", {"files": (), "single": (), "texts": texts, "chart": None}) as chart:
        assert render(HELM, chart).run.startswith("20260131-")


SUBMITTED = release(gpu=job("gpu"), cpu=job("cpu"))
ON_VOLUME = release(cpu=job("cpu", args=["annotate", "--out_top_dir=/volumes/results", "--run=night-1a2b3c4d"]))
DONE, FAILED = (condition("Complete"),), (condition("Failed"),)
GOES_ON: dict[str, tuple[Release, list[Job]]] = {
    "nothing is installed": (SUBMITTED, []),
    "at work": (SUBMITTED, [job("gpu", ready=1), job("cpu")]),
    "one pool has failed": (SUBMITTED, [job("gpu", ready=1), job("cpu", conditions=FAILED)]),
    "one pool has failed, one is new": (SUBMITTED, [job("cpu", conditions=FAILED)]),
    "suspended": (ON_VOLUME, [job("cpu", suspend=True)]),
}
STUCK: dict[str, tuple[Release, list[Job], str]] = {
    "both have failed": (
        SUBMITTED,
        [job("gpu", conditions=FAILED), job("cpu", conditions=FAILED)],
        r"night-gpu-0a1b2c3d, night-cpu-0a1b2c3d have ended, and run .*: nothing would start.*`sam3-annotate cancel n",
    ),
    "done, and suspended by the janitor": (SUBMITTED, [job("gpu", suspend=True), job("cpu", conditions=DONE)], "would"),
    "done on a volume": (ON_VOLUME, [job("cpu", conditions=DONE)], r"another pass give another name, --set run\.name"),
}


@pytest.mark.parametrize(("submitted", "jobs"), GOES_ON.values(), ids=GOES_ON)
def test_jobs_that_can_resume(api: Api, submitted: Release, jobs: list[Job]) -> None:
    api.jobs = jobs
    check_jobs_can_resume(Cluster(), submitted)


@pytest.mark.parametrize(("submitted", "jobs", "words"), STUCK.values(), ids=STUCK)
def test_jobs_that_cannot_resume(api: Api, submitted: Release, jobs: list[Job], words: str) -> None:
    api.jobs = jobs
    with pytest.raises(UsageError, match=words):
        check_jobs_can_resume(Cluster(), submitted)


def test_a_missing_values_file() -> None:
    flags = {"files": ("/nowhere/values.yaml",), "single": (), "texts": (), "chart": None}
    with pytest.raises(UsageError, match="no such values file: /nowhere"), _chart(HELM, "night", flags):
        pass


@pytest.mark.parametrize("flags", [["--images_per_s=60"], ["--hours=0"], ["--max_cost=-1"], ["--images=-1"]])
def test_invalid_flags(flags: list[str]) -> None:
    assert run_cli(["submit", "night", "-n", "garage", *flags]) == 2


def test_without_a_namespace_there_must_be_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert run_cli(["submit", "night", "--dry_run"]) == 78
