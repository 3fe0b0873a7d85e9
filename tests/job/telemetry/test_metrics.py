"""`--metrics_port`: a real process scraped while it works, and asked whether it gets on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from job.errors import WorkerError
from job.system.watchdog import Watchdog
from job.telemetry.metrics import Metrics, max_idle_s, served
from job.telemetry.observer import Load
from tests.fakes import DEMO_ARTIFACT
from tests.processes import running, wait_until
from tests.web import served as web_served

TROUBLED = str(Path(__file__).parents[2] / "e2e" / "troubled.py")
COUNT = 16
STAGES = {"read", "decode", "infer", "postprocess", "encode", "write"}

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(scope="module")
def source(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    pairs = sorted(scenes.rglob("*.json"))
    for number in range(COUNT):
        for suffix in (".json", ".jpg"):
            os.link(pairs[number % len(pairs)].with_suffix(suffix), folder / f"{number:03d}{suffix}")
    return folder


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, page: str) -> tuple[int, str]:
    """Status and text, or (0, "") while no server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
    except OSError:
        return 0, ""


def scrape(port: int) -> Samples:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(port, "/metrics")[1])
        for sample in family.samples
    }


def flags_of(source: Path, target: Path, port: int, *more: str) -> tuple[str, ...]:
    folders = ("--input_top_dir", str(source), "--out_top_dir", str(target))
    return (*folders, "--metrics_port", str(port), "--threads", "1", *more)


def scraped_at_work(port: int, process: subprocess.Popen[str]) -> list[Samples]:
    """Scrapes of a process, until it has ended."""
    scrapes: list[Samples] = []

    def is_at_an_end() -> bool:
        scrapes.append(scrape(port))
        return process.poll() is not None

    wait_until(is_at_an_end, 60)
    return [one for one in scrapes if one]


def test_a_process_is_scraped_while_it_works(source: Path, tmp_path: Path, port: int) -> None:
    flags = flags_of(source, tmp_path / "out", port, "--run", "r1", "--pool", "cpu")
    with running("-m", "job", *flags) as process:
        scrapes = scraped_at_work(port, process)
        assert process.returncode == 0
    seen = scrapes[-1]

    assert 0 < seen["sam3_annotate_images_total", ("annotated",)] <= COUNT
    assert seen["sam3_annotate_images_total", ("failed",)] == 0
    for stage in STAGES:
        assert seen["sam3_annotate_stage_seconds_count", (stage,)] > 0
        assert seen["sam3_annotate_stage_seconds_sum", (stage,)] > 0
        assert ("sam3_annotate_queued_images", (stage,)) in seen
    assert max(one.get(("sam3_annotate_resident_bytes", ()), 0) for one in scrapes) > 0
    assert seen["sam3_annotate_model_load_seconds", ()] > 0
    run = next(labels for name, labels in seen if name == "sam3_annotate_run_info")
    assert set(run) == {"r1", "cpu", "0"}


def test_of_several_workers_the_parent_tells_the_sums(source: Path, tmp_path: Path, port: int) -> None:
    flags = flags_of(source, tmp_path / "out", port, "--workers", "2", "--shard_size", "5")
    with running("-m", "job", *flags) as process:
        scrapes = scraped_at_work(port, process)
        assert process.returncode == 0
    seen = scrapes[-1]

    assert 0 < seen["sam3_annotate_images_total", ("annotated",)] <= COUNT
    assert seen["sam3_annotate_stage_seconds_count", ("infer",)] > 0
    assert seen["sam3_annotate_model_load_seconds", ()] > 0
    assert ("sam3_annotate_resident_bytes", ()) not in seen


def test_it_answers_before_there_is_a_model(source: Path, tmp_path: Path, port: int) -> None:
    with web_served(DEMO_ARTIFACT) as web:
        web.hold_after = ("grounding.onnx", 0)
        flags = flags_of(source, tmp_path / "out", port, "--model", web.url, "--model_cache", str(tmp_path / "cache"))
        with running("-m", "job", *flags, "--limit", "1") as process:
            assert web.held.wait(30)
            assert get(port, "/livez") == (200, "ok\n")
            assert scrape(port)["sam3_annotate_images_total", ("annotated",)] == 0
            web.go_on.set()
            assert process.wait(30) == 0


def test_a_process_that_is_stuck_is_not_alive_though_its_heart_beats(source: Path, tmp_path: Path, port: int) -> None:
    flags = flags_of(source, tmp_path / "out", port, "--limit", "2", "--image_timeout_s", "2", "--shard_size", "1")
    with running(TROUBLED, "stuck", *flags) as process:
        wait_until(lambda: get(port, "/livez")[0] == 200)
        wait_until(lambda: get(port, "/livez")[0] == 503)
        assert re.fullmatch(r"No progress for \d+ s, allowed are 3 s\n", get(port, "/livez")[1])
        beat = next((tmp_path / "out").rglob("workers/*.json"))
        before = beat.read_bytes()
        wait_until(lambda: beat.read_bytes() != before)
        process.kill()
        log = process.communicate()[1]
    assert log.count("ERROR - No progress") == 1


def test_pages_and_names() -> None:
    """Names are public: dashboards and alerts are made of them."""
    metrics, watchdog = Metrics("gpu", 3), Watchdog()
    metrics.run_opened("r")
    metrics.model_checked("0123456789abcdef")
    metrics.worker_ready(lambda: Load({"read": 2}, 5))
    metrics.image_finished("annotated", {"read": 0.5})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(port, metrics, watchdog, 60.0):
        groups = {family.name: family.type for family in text_string_to_metric_families(get(port, "/metrics")[1])}
        assert get(port, "/livez?verbose") == (200, "ok\n")
        assert get(port, "/")[0] == 404
    assert {name: kind for name, kind in groups.items() if name.startswith("sam3")} == {
        "sam3_annotate_run_info": "gauge",
        "sam3_annotate_images": "counter",
        "sam3_annotate_stage_seconds": "summary",
        "sam3_annotate_model_load_seconds": "gauge",
        "sam3_annotate_self_check_info": "gauge",
        "sam3_annotate_queued_images": "gauge",
        "sam3_annotate_resident_bytes": "gauge",
    }


def test_the_bound_is_above_all_that_may_take_its_time() -> None:
    assert max_idle_s(600) == 960


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with (
            pytest.raises(WorkerError, match="Give a free port"),
            served(number, Metrics("a", 0), Watchdog(), 1),
        ):
            pass


def test_without_the_extra_it_is_one_sentence(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None; from job.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    flags = flags_of(source, tmp_path / "out", 0)
    completed = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=False)
    assert completed.returncode == 78
    assert completed.stderr == (
        "Error: this needs prometheus_client, which is not installed: pip install 'sam3-annotate[metrics]'\n"
    )
