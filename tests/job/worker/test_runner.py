"""Runs from start to end in one process, with a session that answers at once."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

import job.worker.runner
from job.errors import HungImageError, InterruptedRunError, ModelError, RunConflictError, TooManyFailedError
from job.plan.plan import shard_name
from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.plan.takeover import refuse_if_others_work, supersede_older
from job.run.heartbeat import Beat
from job.run.journal import ResultRow, ShardJournal
from job.run.options import WorkerOptions
from job.run.run import Run, list_runs, open_run
from job.run.spec import RunEnd
from job.storage.local.store import LocalStore
from job.storage.open import new_process_id
from job.telemetry.progress_bar import Tally
from job.tools.progress import read_progress
from job.worker.runner import annotate, list_planned
from job.worker.shards import KILLS_BEFORE_SERIAL
from tests.fakes import FakeSession, JumpingClock, request_of, spec_of, write_inputs
from tests.job.worker.conftest import UseSession
from tests.processes import results

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_every_input_gets_image_mask_and_annotation(source: Path, target: Path) -> None:
    tally = Tally()
    end = annotate(request_of(source, target), tally)
    assert end == RunEnd(outcome="succeeded", by=end.by if end else "", inputs_listed=5, annotated=5)
    assert sorted(results(target)) == sorted(f"{n:05d}{s}" for n in range(5) for s in (".jpg", ".json", ".npz"))
    assert (target / "00003.jpg").read_bytes() == (source / "00003.jpg").read_bytes()
    entry = json.loads((target / "00003.json").read_text())["annotation"]["segmentation"][0]
    assert entry["labels"]["properties"] == {"car": [255]}
    assert entry["labels"]["confidences"] == {"car": [0.9]}
    with np.load(target / "00003.npz") as arrays:
        assert arrays["mask"].shape == (30, 40)
    assert (tally.annotated, tally.failed, tally.skipped) == (5, 0, 0)


def test_rows_of_the_journal_name_what_made_the_output(source: Path, target: Path) -> None:
    annotate(request_of(source, target, run_name="r"), Tally())
    parts = (target / "_sam3/runs/r").rglob("journal/**/*.jsonl")
    rows = [row for part in parts for row in map(json.loads, part.read_text().splitlines()) if row["row"] == "result"]
    assert len(rows) == 5
    assert {(row["runtime"], row["provider"]) for row in rows} == {("fake", "FakeProvider/1")}


def test_results_of_other_options_are_kept_with_a_warning(
    source: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def planned(name: str, **options: object) -> tuple[str, ...]:
        annotate(request_of(source, target, run_name=name, **options), Tally())
        return read_progress(LocalStore(target, "x"), name).other_options

    assert planned("first", annotation_date="2026-02-01") == ()
    assert planned("same", limit=3) == ()
    assert "another" not in caplog.text
    assert planned("other", confidence_threshold=0.5, prompts=("car",)) == ("prompts", "confidence_threshold")
    assert "5 inputs are annotated already and kept, though earlier runs had another prompts and" in caplog.text
    assert planned("everything", confidence_threshold=0.5, override=True) == (), "nothing is kept"
    assert planned("part", confidence_threshold=0.6, override=True, limit=1) == ()
    assert planned("last", confidence_threshold=0.5) == ("confidence_threshold",), "of the part; all others are gone"


def test_a_second_run_does_only_what_is_new(source: Path, target: Path, session: FakeSession) -> None:
    annotate(request_of(source, target), Tally())
    write_inputs(source, 7)
    (target / "00002.npz").unlink()
    tally = Tally()
    annotate(request_of(source, target), tally)
    assert session.images == 5 + 3
    assert (tally.annotated, tally.skipped) == (3, 4)


def test_run_without_inputs_to_process_has_an_end_and_no_shards(source: Path, target: Path) -> None:
    annotate(request_of(source, target), Tally())
    end = annotate(request_of(source, target), Tally())
    assert end is not None
    assert (end.outcome, end.annotated, end.inputs_listed) == ("succeeded", 0, 5)


def test_input_is_done_with_mask_and_json_when_images_are_not_copied(source: Path, target: Path) -> None:
    annotate(request_of(source, target, image_mode="none"), Tally())
    assert not list(target.glob("*.jpg"))
    assert list(list_planned(request_of(source, target, image_mode="none"))) == []
    assert len(list(list_planned(request_of(source, target)))) == 5


def test_limit_takes_the_first_pending_inputs(source: Path, target: Path) -> None:
    annotate(request_of(source, target, limit=2), Tally())
    annotate(request_of(source, target, limit=2), Tally())
    assert sorted(path.stem for path in target.glob("*.npz")) == ["00000", "00001", "00002", "00003"]


def test_a_dry_run_changes_nothing(source: Path, target: Path) -> None:
    assert list(list_planned(request_of(source, target))) == [f"{n:05d}.json" for n in range(5)]
    assert not target.exists()


def test_more_failures_than_allowed_end_the_run_with_65_and_again(source: Path, target: Path) -> None:
    (source / "00001.jpg").unlink()
    with pytest.raises(TooManyFailedError, match="1 of 5 inputs failed"):
        annotate(request_of(source, target, run_name="r"), Tally())
    with pytest.raises(TooManyFailedError, match="has ended with 1 failed of 5"):
        annotate(request_of(source, target, run_name="r"), Tally())


def test_failures_within_the_fraction_of_all_inputs_listed_are_a_success(source: Path, target: Path) -> None:
    (source / "00001.jpg").unlink()
    end = annotate(request_of(source, target, options=WorkerOptions(device="cpu", max_failed_fraction=0.2)), Tally())
    assert end is not None
    assert (end.outcome, end.failed) == ("succeeded", 1)


def test_a_named_run_with_other_options_is_refused_with_both_shown(source: Path, target: Path) -> None:
    annotate(request_of(source, target, run_name="r"), Tally())
    with pytest.raises(RunConflictError, match=r"confidence_threshold: the run has 0\.4, asked for is 0\.5"):
        annotate(request_of(source, target, run_name="r", confidence_threshold=0.5), Tally())


def test_a_named_run_that_was_followed_by_another_is_refused(source: Path, target: Path) -> None:
    annotate(request_of(source, target, run_name="first"), Tally())
    assert annotate(request_of(source, target, run_name="first"), Tally()) is not None
    write_inputs(source, 6)
    annotate(request_of(source, target, run_name="second"), Tally())
    with pytest.raises(RunConflictError, match="followed by run second"):
        annotate(request_of(source, target, run_name="first"), Tally())


def test_image_fails_alone_when_the_model_is_not_finite_twice(
    source: Path, target: Path, use_session: UseSession
) -> None:
    def fail(pixels: NDArray[np.uint8]) -> None:
        if pixels[0, 0, 0, 0] == 3:
            raise ModelError("the model returned numbers that are not finite")

    use_session(FakeSession(before_image=fail))
    options = WorkerOptions(device="cpu", max_failed_fraction=1)
    end = annotate(request_of(source, target, options=options), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (4, 1)


def test_worker_stops_when_the_model_fails_on_every_image(
    tmp_path: Path, target: Path, use_session: UseSession
) -> None:
    write_inputs(tmp_path / "many", 30)

    def fail(pixels: NDArray[np.uint8]) -> None:
        raise ModelError("broken")

    use_session(FakeSession(before_image=fail))
    with pytest.raises(ModelError, match="20 images in a row"):
        annotate(request_of(tmp_path / "many", target), Tally())


def test_unexpected_error_is_not_recorded_as_a_failed_input(
    source: Path, target: Path, use_session: UseSession
) -> None:
    def fail(pixels: NDArray[np.uint8]) -> None:
        raise ZeroDivisionError

    use_session(FakeSession(before_image=fail))
    with pytest.raises(ZeroDivisionError):
        annotate(request_of(source, target), Tally())
    use_session(FakeSession())
    end = annotate(request_of(source, target), Tally())
    assert end is not None
    assert end.annotated == 5


def killed_run(source: Path, target: Path, *, override: bool, intents: int) -> Run:
    """A run whose only shard was taken up by workers that died on its second image."""
    store = LocalStore(target, "dead")
    run = open_run(store, spec_of(source, override=override), name="r", is_date_given=False, process_id="dead")
    plan = make_plan(run, Selection(run, LocalStore(source, "dead")), Sizing())
    for number in range(max(intents, KILLS_BEFORE_SERIAL)):
        for name in plan.shard_names():
            journal = ShardJournal(run, name, f"dead{number}")
            journal.start()
            if name == shard_name(1) and number < intents:
                journal.intend("00001.json")
    return run


def test_image_that_crashed_two_workers_fails(source: Path, target: Path) -> None:
    killed_run(source, target, override=False, intents=2)
    options = WorkerOptions(device="cpu", max_failed_fraction=0.2, image_timeout_s=0.5)
    end = annotate(request_of(source, target, run_name="r", options=options), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (4, 1)
    row = json.loads((target / "_sam3/runs/r/failures.jsonl").read_text())
    assert row == {"json": "00001.json", "reason": "ended the worker twice"}


def test_image_that_crashed_one_worker_is_retried(source: Path, target: Path) -> None:
    killed_run(source, target, override=False, intents=1)
    end = annotate(request_of(source, target, run_name="r"), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (5, 0)


def test_input_with_a_row_is_not_repeated(source: Path, target: Path, session: FakeSession) -> None:
    run = killed_run(source, target, override=True, intents=0)
    journal = ShardJournal(run, shard_name(2), "earlier")
    journal.add(ResultRow(json="00002.json", result="annotated"))
    journal.write()
    tally = Tally()
    annotate(request_of(source, target, run_name="r", override=True), tally)
    assert session.images == 4
    assert tally.annotated == 5


def test_newer_run_supersedes_an_unfinished_one_and_redoes_its_override(source: Path, target: Path) -> None:
    annotate(request_of(source, target, run_name="done"), Tally())
    old = killed_run(source, target, override=True, intents=0)
    new = open_run(
        old.store, spec_of(source, confidence_threshold=0.5), name="new", is_date_given=False, process_id="x"
    )
    must_redo = supersede_older(new, process_id="x", sleep=lambda seconds: None)
    assert must_redo == {f"{n:05d}.json" for n in range(5)}
    end = old.end()
    assert end is not None
    assert (end.outcome, end.superseded_by) == ("superseded", "new")
    with pytest.raises(RunConflictError, match="superseded by run new"):
        annotate(request_of(source, target, run_name="r", override=True), Tally())


def test_older_run_with_a_changing_heartbeat_is_superseded_only_on_request(source: Path, target: Path) -> None:
    old = killed_run(source, target, override=False, intents=0)
    beat = Beat(attempt="alive", activity="working")
    key = old.key("workers", "local-00000-alive.json")
    old.store.put(key, msgspec.json.encode(beat))
    watched = []

    def sleep(seconds: float) -> None:
        watched.append(seconds)
        beat.number += 1
        old.store.put(key, msgspec.json.encode(beat))

    with pytest.raises(RunConflictError, match=r"run r of .* is still running"):
        refuse_if_others_work(old.store, sleep)
    assert 60 < watched[0] <= 70
    assert old.end() is None
    new = open_run(old.store, spec_of(source, limit=3), name="new", is_date_given=False, process_id="x")
    supersede_older(new, process_id="x", sleep=watched.append)
    assert 50 < watched[-1] <= 60, "the last puts of a worker that may live are waited for"


def test_refused_run_is_not_created(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = killed_run(source, target, override=False, intents=0)
    old.store.put(old.key("workers", "gpu-00003-alive.json"), msgspec.json.encode(Beat(attempt="alive")))
    clock = JumpingClock()

    def sleep(seconds: float) -> None:
        old.store.put(old.key("workers", "gpu-00004-new.json"), msgspec.json.encode(Beat(attempt="new")))

    monkeypatch.setattr(clock, "sleep", sleep)
    request = request_of(source, target, limit=3, options=WorkerOptions(device="cpu", clock=clock))
    with pytest.raises(RunConflictError, match="is still running"):
        annotate(request, Tally())
    assert list_runs(old.store) == ["r"]


def test_runs_are_listed_oldest_first(source: Path, target: Path) -> None:
    for name in ("b", "a"):
        annotate(request_of(source, target, run_name=name), Tally())
        write_inputs(source, 6)
    assert list_runs(LocalStore(target, "x")) == ["b", "a"]


def test_reviewed_annotation_is_kept(source: Path, target: Path) -> None:
    annotate(request_of(source, target), Tally())
    path = target / "00002.json"
    fields = json.loads(path.read_text())
    fields["annotation"]["segmentation"][0]["review"] = {"by": "a person"}
    path.write_text(json.dumps(fields))
    before = path.read_bytes()
    tally = Tally()
    annotate(request_of(source, target, override=True), tally)
    assert path.read_bytes() == before
    assert (tally.annotated, tally.reviewed) == (4, 1)
    annotate(request_of(source, target, override=True, override_reviewed=True), Tally())
    assert path.read_bytes() != before


def test_next_process_resumes_after_the_stop_event(
    tmp_path: Path, target: Path, use_session: UseSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path / "many", 40)
    workers = []
    build = job.worker.runner.build_worker
    monkeypatch.setattr(job.worker.runner, "build_worker", lambda *a: workers.append(build(*a)) or workers[-1])

    def stop_at_twenty(pixels: NDArray[np.uint8]) -> None:
        if pixels[0, 0, 0, 0] == 20:
            workers[-1].stop.set()

    use_session(FakeSession(before_image=stop_at_twenty))
    with pytest.raises(InterruptedRunError, match="rerun the same command to resume"):
        annotate(request_of(tmp_path / "many", target), Tally())
    beat = json.loads(next(target.rglob("local-00000-*.json")).read_text())
    assert beat["activity"] == "left"
    session = use_session(FakeSession())
    end = annotate(request_of(tmp_path / "many", target), Tally())
    assert end is not None
    assert end.annotated == 40
    assert 0 < session.images <= 25, "what was stored was journalled"


def test_image_that_hangs_counts_as_a_crash(source: Path, target: Path, use_session: UseSession) -> None:
    release = threading.Event()

    def hang(pixels: NDArray[np.uint8]) -> None:
        if pixels[0, 0, 0, 0] == 2:
            release.wait(30)

    options = WorkerOptions(device="cpu", max_failed_fraction=0.2, image_timeout_s=1, batch_size=1)
    for _ in range(4):
        use_session(FakeSession(before_image=hang))
        with pytest.raises(HungImageError, match=r"00002\.json: stage infer has not ended after 1 s"):
            annotate(
                request_of(source, target, run_name="r", options=replace(options, process_id=new_process_id())), Tally()
            )
    end = annotate(request_of(source, target, run_name="r", options=options), Tally())
    release.set()
    assert end is not None
    assert (end.annotated, end.failed) == (4, 1)


def test_orderly_stop_during_an_image_is_not_a_crash(source: Path, target: Path) -> None:
    run = killed_run(source, target, override=False, intents=0)
    for number in range(2):
        journal = ShardJournal(run, shard_name(1), f"stopped{number}")
        journal.start()
        journal.intend("00001.json")
        journal.leave()
    end = annotate(request_of(source, target, run_name="r"), Tally())
    assert end is not None
    assert (end.annotated, end.failed) == (5, 0)
