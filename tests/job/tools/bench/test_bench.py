"""`bench` on the embedded model: the work is real, the selection is fixed, and every figure is there."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from job.cli.model import bench as command
from job.errors import ConfigurationError, DeviceMemoryError, UsageError, WorkerError
from job.model.loader import open_session
from job.model.prompts import text_features_for
from job.model.session import Session, SessionInfo
from job.postprocess.annotate import annotate_grounding
from job.rules.rules import rules_of_prompts
from job.run.options import WorkerOptions
from job.tools.bench import bench, end_to_end, model_stages
from job.tools.bench.figures import BenchReport, OriginalFigures, Roofline, encode_report
from job.tools.bench.model_stages import MIN_REPEATS, paired_ms
from job.tools.bench.pictures import INSTANCES, draw_picture, fixed_grounding, write_pictures
from job.tools.bench.sessions import fixed_selection
from job.tools.bench.table import render
from job.worker.factory import LoadedModel
from tests.fakes import FakeSession, demo_artifact

PROMPTS = ("car", "license plate", "person")
SIZE_WH = (320, 240)


def request(**changes: Any) -> bench.BenchRequest:
    fields: dict[str, Any] = {
        "artifact": demo_artifact(),
        "options": WorkerOptions(device="cpu", threads=1),
        "prompts": PROMPTS,
        "picture_wh": SIZE_WH,
        "batch_sizes": (1,),
        "images": 3,
    }
    return bench.BenchRequest(**(fields | changes))


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_stages, "BUDGET_S", 0.1)
        yield


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench.run_bench(request())


def test_every_figure_of_the_embedded_model_is_measured(report: BenchReport) -> None:
    (figures,) = report.batches
    assert min(figures.encoder_ms, figures.prompt_ms, figures.images_per_s, figures.load_s) > 0
    assert figures.prompt_ms < figures.grounding_ms
    assert (figures.batch_size, figures.images, figures.device_bytes) == (1, 3, None)
    assert list(report.host_ms) == ["fetch", "decode", "resize", "postprocess", "rle", "encode", "write"]
    assert min(report.host_ms[stage] for stage in ("resize", "postprocess", "encode")) > 0
    assert report.resident_bytes > 50 << 20
    assert report.machine.processor
    assert (report.setting.instances, report.setting.prompts, report.setting.picture_wh) == (7, 3, SIZE_WH)
    assert report.best is figures


def test_the_report_is_read_back_from_its_json(report: BenchReport) -> None:
    assert msgspec.json.decode(encode_report(report), type=BenchReport) == report


def test_the_tables_show_original_prediction_and_limits(report: BenchReport) -> None:
    model_ms = report.batches[0].model_ms
    shown = render(
        msgspec.structs.replace(
            report,
            original=OriginalFigures(
                library="sam3 0.1.4", device="cpu", threads=1, encoder_ms=model_ms, grounding_ms=model_ms
            ),
            roofline=Roofline(card="H100", predicted_ms=12.5, share=0.5),
            largest_batch_error="a batch of 16 images does not fit into the memory of the GPU",
            machine=msgspec.structs.replace(report.machine, gpu="NVIDIA H100", driver="580.65.06"),
        )
    )
    for part in (
        "2.00 times as fast as eager sam3",
        "predicts 12.5 ms an image on H100: 50% of that speed were reached",
        "a batch of 16 images does not fit",
        "NVIDIA H100 (driver 580.65.06)",
        "320 x 240, 3 prompts, 7 instances",
    ):
        assert part in shown
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[:4]}) == 1, "the rows of a table have one width"


def test_the_fixed_instances_all_survive_the_rules() -> None:
    found = annotate_grounding(fixed_grounding((3, 40), (84, 84)), rules_of_prompts(PROMPTS, 0.4), (1080, 1920), 1)
    assert len(found.instances) == INSTANCES
    assert [each.class_name for each in found.instances].count("car") == 3
    assert (found.hidden, found.dropped_empty, found.dropped_overlap) == (0, 0, 0)
    assert 0 < len(np.unique(found.mask)) - 1 == INSTANCES


def test_the_real_session_makes_the_masks_of_the_fixed_number_of_queries() -> None:
    artifact = demo_artifact()
    session = open_session(artifact, device="cpu", threads=1)
    text = text_features_for(artifact, session, PROMPTS)
    pixels = np.asarray(draw_picture((336, 336)))[None]
    selecting = fixed_selection(session, text, pixels)
    (real,) = session.ground(session.encode_images(pixels), text, selecting.threshold)
    assert len(real.mask_logits) == INSTANCES
    (answer,) = selecting.ground(selecting.encode_images(pixels), text, 0.4)
    assert answer.mask_logits.shape == real.mask_logits.shape
    assert answer.scores.shape == real.scores.shape
    (stub,) = selecting.without_model().ground(selecting.without_model().encode_images(pixels), text, 0.4)
    assert stub is answer


def test_images_are_annotated_from_files_to_files(tmp_path: Path) -> None:
    fake: Any = FakeSession()
    write_pictures(tmp_path / "in", 5, SIZE_WH)
    rate = end_to_end.images_per_s(
        tmp_path, LoadedModel(demo_artifact(), fake), WorkerOptions(device="cpu"), PROMPTS, in_flight=2
    )
    assert rate > 0
    assert fake.images == 5
    with Image.open(tmp_path / "in" / "00003.jpg") as picture:
        assert picture.size == SIZE_WH
    assert len(list((tmp_path / "out-b1").glob("*.npz"))) == 5


def test_a_picture_that_fails_is_an_error_and_no_figure(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2, SIZE_WH)
    (tmp_path / "in" / "00001.jpg").write_bytes(b"no picture")
    fake: Any = FakeSession()
    with pytest.raises(WorkerError, match="1 of 2 synthetic pictures were annotated"):
        end_to_end.images_per_s(
            tmp_path, LoadedModel(demo_artifact(), fake), WorkerOptions(device="cpu"), PROMPTS, in_flight=1
        )


class FakeGpu:
    """Opens fake sessions as a GPU with room for so many images would; one session at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.session: Callable[[], object] = lambda: None

    def open(self, artifact: Any, options: WorkerOptions, prompts: int) -> Session:
        deadline_s = time.monotonic() + 10
        while self.session() is not None and time.monotonic() < deadline_s:
            time.sleep(0.01)  # threads of the last pipeline end
        assert self.session() is None, "the session of the last batch size still holds memory"
        wanted = options.batch_size or 4
        if not self.room:
            raise DeviceMemoryError("no room")
        batch_size = wanted
        while batch_size > self.room:
            batch_size //= 2
        info = SessionInfo(runtime="fake", provider="FakeProvider", image_side=32, batch_size=batch_size, threads=0)
        session: Any = FakeSession(info=info)
        self.session = weakref.ref(session)
        return session


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    fake = FakeGpu(room=4)
    monkeypatch.setattr(bench, "open_device", fake.open)
    monkeypatch.setattr(bench, "check_session", lambda *arguments: None)
    monkeypatch.setattr(bench, "device_memory_used", lambda: 6 << 30)
    return fake


def gpu_request(**changes: Any) -> bench.BenchRequest:
    fake = {"options": WorkerOptions(device="cuda"), "batch_sizes": (4, 1, 2, 8, 16)}
    return request(**(fake | changes))


def test_batch_sizes_of_a_gpu_end_where_its_memory_does(gpu: FakeGpu) -> None:
    found = bench.run_bench(gpu_request())
    assert [each.batch_size for each in found.batches] == [1, 2, 4]
    assert found.largest_batch_error == "a batch of 8 images does not fit into the memory of the GPU"
    assert {each.device_bytes for each in found.batches} == {6 << 30}
    assert {each.in_flight for each in found.batches} == {1}


def test_a_gpu_without_room_for_one_image_is_an_error(gpu: FakeGpu) -> None:
    gpu.room = 0
    with pytest.raises(DeviceMemoryError):
        bench.run_bench(gpu_request())


def test_calls_are_measured_in_turns() -> None:
    order: list[str] = []
    paired_ms(lambda: order.append("a"), lambda: order.append("b"))
    assert order[: 2 * MIN_REPEATS] == ["a", "b"] * MIN_REPEATS


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command.bench, list(arguments), catch_exceptions=False, standalone_mode=False)


def test_the_command_prints_tables_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    result = run("--device", "cpu", "--images", "2", "--picture_size", "320x240", "--threads", "1", "--json", str(path))
    assert "| batch | in flight | encoder ms |" in result.stdout
    assert json.loads(path.read_bytes())["setting"]["model_id"] == "SAM3-demo"


def test_the_command_measures_the_original_that_the_exporter_provides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(checkpoint: str, bench_request: Any) -> OriginalFigures:
        asked.append(checkpoint)
        return OriginalFigures(library="sam3", device="cpu", threads=1, encoder_ms=1.0, grounding_ms=2.0)

    monkeypatch.setattr(command, "entry_points", lambda group: [SimpleNamespace(load=lambda: measure)])
    small = ("--device", "cpu", "--images", "2", "--picture_size", "64x64", "--threads", "1")
    result = run(*small, "--original", "demo", "--json", str(tmp_path / "x.json"))
    assert asked == ["demo"]
    assert "eager sam3" in result.stdout
    assert json.loads((tmp_path / "x.json").read_bytes())["original"]["grounding_ms"] == 2.0


def test_figures_are_kept_when_the_original_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ConfigurationError("torch was built without CUDA")

    monkeypatch.setattr(command, "entry_points", lambda group: [SimpleNamespace(load=lambda: fail)])
    small = ("--device", "cpu", "--images", "2", "--picture_size", "64x64", "--threads", "1")
    with pytest.raises(ConfigurationError, match="without CUDA"):
        run(*small, "--original", "demo", "--json", str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_bytes())["original"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--device", "cpu", "--batch_size", "4"], UsageError, "on a CPU a call of the model takes one image"),
        (["--device", "cpu", "--model", "/nowhere"], ConfigurationError, "no model at /nowhere"),
        (["--device", "cpu", "--original", "demo"], ConfigurationError, r"pip install 'sam3-annotate\[export\]'"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    arguments: list[str], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "entry_points", lambda group: [])
    with pytest.raises(error, match=message):
        run(*arguments)


@pytest.mark.parametrize("text", ["1080", "0x5", "axb", "32x4000", "1x2x3"])
def test_a_picture_size_is_two_numbers(text: str) -> None:
    result = CliRunner().invoke(command.bench, ["--picture_size", text])
    assert result.exit_code == 2
    assert "is not a size of at least 64x64 pixels" in result.stderr


def test_a_json_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        command._write(tmp_path / "missing" / "x.json", b"")
