"""The law of candidates: the rules, applied to stored rows at another threshold, give the rows of a run with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.demo_model.scenes.scenes import write_scenes
from job.cli.main import run as run_cli
from job.errors import InputError
from job.formats.gva import Origin
from job.formats.image_decode import decode_for_model, read_header
from job.formats.instance_rows import ImageFacts, rows_of
from job.formats.instance_table import InstanceRow, Rle, decode_part
from job.formats.rethreshold import Rethresholded, Thresholds, rethreshold
from job.model.loader import open_session
from job.model.prompts import text_features_for
from job.model.session import Grounding
from job.postprocess.annotate import Annotation, annotate_grounding
from job.postprocess.candidates import CandidateLimits
from job.postprocess.masks import iou
from job.rules.rules import ClassRule, OverlapRule, PassengerRule, Rules, rules_of_prompts
from tests.fakes import demo_artifact
from tests.processes import results

if TYPE_CHECKING:
    pass

PROMPTS = ("car", "license plate", "person")
DEFAULTS = rules_of_prompts(PROMPTS, 0.4)
BEST = msgspec.structs.replace(DEFAULTS, overlap=OverlapRule(keep="best"))
OWN = Rules(
    classes=(
        ClassRule(name="vehicle", prompts=("car", "license plate"), min_score=0.5),
        ClassRule(name="human", prompts=("person",), min_score=0.3),
    ),
    passengers=PassengerRule(occupant="human", container="vehicle", name="occupant"),
    overlap=OverlapRule(max_iou=0.3, keep="best", across="class"),
)
FACTS = ImageFacts("a/b.json", "a/b.jpg", Origin("entry1", "cen005", 17), 6)
LOWEST = 0.05
BELOW = "below_threshold"
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7)
SCORES = (0.06, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.9)


def selected_above(grounding: Grounding, threshold: float) -> Grounding:
    """What the model gives at a higher threshold."""
    found = grounding.selected
    kept = grounding.scores[found[:, 0], found[:, 1]] > np.float32(threshold)
    return replace(grounding, selected=found[kept], mask_logits=grounding.mask_logits[kept])


@st.composite
def groundings(draw: st.DrawFn) -> Grounding:
    """Rectangles on a grid, so that many overlap; some are empty."""
    pairs = st.tuples(st.integers(0, len(PROMPTS) - 1), st.integers(0, 11))
    at = sorted(draw(st.lists(pairs, max_size=14, unique=True)))
    scores = np.zeros((len(PROMPTS), 12), np.float32)
    logits = np.full((len(at), 16, 16), -1, np.float32)
    for mask, pair in zip(logits, at, strict=True):
        x, y, width, height = (draw(st.integers(0, 9)) for _ in range(4))
        mask[y : y + height, x : x + width] = 1
        scores[pair] = draw(st.sampled_from(SCORES))
    return Grounding(scores, np.array(at, np.int64).reshape(-1, 2), logits)


@settings(deadline=None, max_examples=150)
@given(groundings(), st.sampled_from([DEFAULTS, BEST, OWN]), st.sampled_from([1, 3, 100]), st.integers(1, 8))
def test_the_rules_on_candidates_give_the_rows_of_a_run(
    grounding: Grounding, rules: Rules, max_candidates: int, orientation: int
) -> None:
    def run(wanted: Rules, limits: CandidateLimits | None = None) -> list[InstanceRow]:
        threshold = LOWEST if limits is not None else wanted.min_score
        found = selected_above(grounding, threshold)
        return rows_of(annotate_grounding(found, wanted, (32, 48), orientation, limits), FACTS)

    stored = run(rules, CandidateLimits(LOWEST, max_candidates))
    assert [row for row in uncut(stored) if row.candidate is None] == run(rules), "candidates change no other row"
    for threshold in THRESHOLDS:
        wanted = rules.with_min_scores(threshold, {"person": 0.2, "human": 0.35})
        result = rethreshold(stored, Thresholds(rules, wanted, LOWEST))
        assert result.is_exact or max_candidates < 100
        if result.is_exact:
            assert list(result.rows) == run(wanted)


def uncut(rows: list[InstanceRow]) -> list[InstanceRow]:
    return [msgspec.structs.replace(row, cut=False) for row in rows]


def candidate_rows(max_candidates: int) -> list[InstanceRow]:
    """One car in the output, a duplicate of it, and three cars with lower scores."""
    logits = np.full((5, 16, 16), -1, np.float32)
    for number, x in enumerate((0, 0, 4, 8, 12)):
        logits[number, :8, x : x + 3] = 1
    scores = np.zeros((3, 5), np.float32)
    scores[0] = (0.9, 0.8, 0.1, 0.3, 0.2)
    grounding = Grounding(scores, np.array([(0, query) for query in range(5)], np.int64), logits)
    limits = CandidateLimits(LOWEST, max_candidates)
    return rows_of(annotate_grounding(grounding, DEFAULTS, (32, 32), 1, limits), FACTS)


@pytest.mark.parametrize(
    ("max_candidates", "expected", "is_cut"),
    [
        (
            100,
            [(0, None), (1, "overlap"), (3, "below_threshold"), (4, "below_threshold"), (2, "below_threshold")],
            False,
        ),
        (4, [(0, None), (1, "overlap"), (3, "below_threshold"), (4, "below_threshold"), (2, "below_threshold")], False),
        (2, [(0, None), (1, "overlap"), (3, "below_threshold")], True),
        (1, [(0, None), (1, "overlap")], True),
    ],
)
def test_candidates_are_listed_by_score_and_a_cut_is_marked(
    max_candidates: int, expected: list[tuple[int, str | None]], is_cut: bool
) -> None:
    rows = candidate_rows(max_candidates)
    assert [(row.query, row.candidate) for row in rows] == expected
    assert {row.cut for row in rows} == {is_cut}
    assert all(row.rle is not None and (row.value is None) == (row.candidate is not None) for row in rows)


@pytest.mark.parametrize(
    ("max_candidates", "min_score", "is_exact"),
    [(100, 0.05, True), (100, 0.04, False), (2, 0.3, True), (2, 0.29, False), (1, 0.8, True), (1, 0.5, False)],
)
def test_what_a_cut_leaves_out_is_said(max_candidates: int, min_score: float, is_exact: bool) -> None:
    wanted = DEFAULTS.with_min_scores(min_score)
    result = rethreshold(candidate_rows(max_candidates), Thresholds(DEFAULTS, wanted, LOWEST))
    assert result.is_exact is is_exact


def test_an_image_without_instances_keeps_its_row_and_may_get_some() -> None:
    rows = [row for row in candidate_rows(100) if row.candidate == "below_threshold"]
    negative = InstanceRow(json=rows[0].json, image=rows[0].image, width=32, height=32)
    at = [
        rethreshold([negative, *rows], Thresholds(DEFAULTS, DEFAULTS.with_min_scores(t), LOWEST)) for t in (0.15, 0.4)
    ]
    assert [row.query for row in at[0].rows] == [3, 4]
    assert [row.class_name for row in at[1].rows] == [None]


@pytest.mark.parametrize("field", ["prompt", "score", "rle", "query"])
def test_a_row_that_lacks_what_is_needed_is_an_input_error(field: str) -> None:
    rows = [msgspec.structs.replace(candidate_rows(100)[0], **{field: None})]
    with pytest.raises(InputError, match=r"instance table: a/b\.json: "):
        rethreshold(rows, Thresholds(DEFAULTS, DEFAULTS, LOWEST))


def test_an_empty_mask_is_an_input_error() -> None:
    row = msgspec.structs.replace(candidate_rows(100)[0], rle=Rle((32, 32), "PP1"))
    with pytest.raises(InputError, match="the mask of a row is empty"):
        rethreshold([row], Thresholds(DEFAULTS, DEFAULTS, LOWEST))


# --- with the model ------------------------------------------------------------------------------------------------


def stored_rows(output: Path) -> dict[str, list[InstanceRow]]:
    rows: dict[str, list[InstanceRow]] = {}
    for part in sorted((output / "_sam3").rglob("instances/*/*.jsonl.gz")):
        for row in decode_part(part.read_bytes()):
            rows.setdefault(row.json, []).append(row)
    return rows


def test_a_run_with_candidates_stores_what_a_run_with_a_lower_threshold_finds(
    scenes: Path, quiet_run: Path, tmp_path: Path
) -> None:
    def run(name: str, *flags: str) -> Path:
        folders = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / name)]
        assert run_cli([*folders, "--annotation_date", "2026-01-31", *flags]) == 0
        return tmp_path / name

    with_candidates = run("candidates", "--candidates_threshold", "0.1")
    assert results(with_candidates) == results(quiet_run), "candidates change no byte of NPZ and JSON"
    wanted = DEFAULTS.with_min_scores(0.2)
    found = stored_rows(with_candidates)
    assert {row.candidate for rows in found.values() for row in rows} >= {None, "below_threshold", "overlap"}
    again = {key: list(rethreshold(rows, Thresholds(DEFAULTS, wanted, 0.1)).rows) for key, rows in found.items()}
    assert again == stored_rows(run("lower", "--confidence_threshold", "0.2"))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--candidates_threshold", "0.5"], "is above the threshold 0.4 of the output"),
        (["--candidates_threshold", "0.1", "--instances", "none"], "candidates are rows of the table"),
        (["--max_candidates", "5"], "--max_candidates 5 without --candidates_threshold: no candidates are stored"),
    ],
)
def test_invalid_thresholds_are_refused(
    scenes: Path, tmp_path: Path, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--input_top_dir", str(scenes), "--out_top_dir", str(tmp_path / "out")]
    assert run_cli([*folders, *flags]) == 2
    assert problem in capsys.readouterr().err


Run = Callable[[Rules], Annotation]


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes of `make demo`."""
    folder = tmp_path_factory.mktemp("demo")
    write_scenes(folder, seed=9_000_042, count=24)
    return folder


def answers(folder: Path) -> Iterator[tuple[Run, list[InstanceRow], list[InstanceRow]]]:
    """Of each image: a run of the model by rules, and the rows of runs with candidates, by `DEFAULTS` and `BEST`."""
    artifact = demo_artifact()
    session = open_session(artifact, device="cpu", threads=1)
    text = text_features_for(artifact, session, PROMPTS)
    for path in sorted(folder.rglob("*.jpg")):
        raw = path.read_bytes()
        header = read_header(raw, 1 << 30)
        features = session.encode_images(decode_for_model(raw, session.info.image_side).pixels[None])

        def run(rules: Rules, limits: CandidateLimits | None = None, of: Any = (features, header)) -> Annotation:
            (grounding,) = session.ground(of[0], text, rules.min_score if limits is None else limits.min_score)
            return annotate_grounding(grounding, rules, of[1].upright_size_hw, of[1].orientation, limits)

        limits = CandidateLimits(LOWEST, 100)
        yield run, rows_of(run(DEFAULTS, limits), FACTS), rows_of(run(BEST, limits), FACTS)


@pytest.mark.slow
def test_demo_set(demo_set: Path) -> None:
    """The law at five thresholds; `best` keeps 0 of 11 worse duplicates and loses nothing at a lower threshold."""
    counts: Counter[str] = Counter()
    for run, *stored in answers(demo_set):
        for rules, rows in zip((DEFAULTS, BEST), stored, strict=True):
            for threshold in THRESHOLDS:
                wanted = rules.with_min_scores(threshold)
                expected = Rethresholded(tuple(rows_of(run(wanted), FACTS)), is_exact=True)
                assert rethreshold(rows, Thresholds(rules, wanted, LOWEST)) == expected
                counts["comparisons"] += 1
            annotation, lower = run(rules), run(rules.with_min_scores(0.2))
            name = rules.overlap.keep
            for dropped in annotation.overlapping:
                for kept in annotation.instances:
                    if iou(dropped.mask, kept.mask) > 0.5:
                        counts[f"duplicates {name}"] += 1
                        counts[f"worse ones kept {name}"] += kept.score < dropped.score
            counts[f"lost at 0.2 {name}"] += len(found(annotation) - found(lower))
    print(dict(counts))  # noqa: T201
    assert counts["comparisons"] == 24 * 2 * 5
    assert (counts["duplicates first"], counts["worse ones kept first"]) == (11, 9)
    assert (counts["duplicates best"], counts["worse ones kept best"]) == (11, 0)
    assert counts["lost at 0.2 first"] > 0
    assert counts["lost at 0.2 best"] == 0


def found(annotation: Annotation) -> set[tuple[str, int]]:
    return {(one.prompt, one.query) for one in annotation.instances}
