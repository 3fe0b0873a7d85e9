"""The OpenVINO session on the embedded model: the answers of the original and of ONNX Runtime, the same bits again."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from job.errors import ArtifactError, ConfigurationError, DeviceError
from job.model.artifact import Artifact, open_artifact
from job.model.loader import check_session, open_session
from job.model.prompts import text_features_for
from job.model.self_check import self_check
from job.model.session import Session, TextFeatures
from job.postprocess.masks import full_mask
from tests.fakes import DEMO_ARTIFACT, write_inputs
from tests.job.model.groundings import assert_equal, ground
from tests.processes import annotate, results

pytest.importorskip("openvino")
from job.model.openvino_runtime.compiled_graphs import _SIZE_FACTOR, _STRUCTURE_BYTES
from job.model.openvino_runtime.session import OpenVinoSession


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return open_artifact(DEMO_ARTIFACT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def session(artifact: Artifact, cache: Path) -> Session:
    return open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=cache)


def test_info_names_runtime_version_and_instruction_sets(session: Session) -> None:
    assert session.info.runtime.startswith("openvino 2026.")
    assert "-" not in session.info.runtime
    assert session.info.provider.split()[0] == "CPU"
    assert (session.info.batch_size, session.info.threads) == (1, 1)


def test_it_reproduces_the_answers_of_the_original(artifact: Artifact, session: Session) -> None:
    check = self_check(artifact, session, full_mask, mode="always")
    assert check is not None
    assert check.figures.passed
    assert check.figures.score_max < 1e-4
    assert sum(check.figures.instances.values()) == 13
    assert check.key.runtime == session.info.runtime


def test_it_agrees_with_onnx_runtime_to_the_rounding_of_float32(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    other = open_session(artifact, device="cpu", threads=1)
    for image in range(len(pixels)):
        ours, theirs = (ground(one, pixels[image : image + 1], text) for one in (session, other))
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-5)  # bfloat16 gives 1e-2
        np.testing.assert_array_equal(ours.selected, theirs.selected)
        np.testing.assert_allclose(ours.mask_logits, theirs.mask_logits, atol=2e-3)


def test_two_sessions_give_the_same_bits_whatever_ran_before(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    compiled = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    loaded = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=tmp_path)
    first = ground(session, pixels[:1], text)
    ground(session, pixels[1:2], text, 0.1)
    for other in (session, compiled, loaded):
        assert_equal(first, ground(other, pixels[:1], text))


def test_features_stay_valid_while_other_images_are_encoded(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    alone = ground(session, pixels[:1], text)
    features = session.encode_images(pixels[:1])
    session.encode_images(pixels[1:2])
    assert_equal(alone, session.ground(features, text, 0.4)[0])


def test_another_number_of_threads_gives_the_same_instances(
    artifact: Artifact, session: Session, text: TextFeatures, pixels: NDArray[np.uint8], cache: Path
) -> None:
    other = open_session(artifact, device="cpu", threads=2, runtime="openvino", cache=cache)
    one, two = (ground(each, pixels[:1], text) for each in (session, other))
    np.testing.assert_array_equal(one.selected, two.selected)
    np.testing.assert_allclose(one.scores, two.scores, atol=2e-5)
    np.testing.assert_allclose(one.mask_logits, two.mask_logits, atol=2e-3)


def test_other_prompts_and_queries_change_no_byte_of_a_mask(
    session: Session, text: TextFeatures, pixels: NDArray[np.uint8]
) -> None:
    features = session.encode_images(pixels[:1])
    (together,) = session.ground(features, text, 0.4)
    (every,) = session.ground(features, text, -1.0)
    prompts, queries = together.selected.T
    np.testing.assert_array_equal(together.mask_logits, every.mask_logits[prompts * together.scores.shape[1] + queries])
    for i in range(len(text.mask)):
        (alone,) = session.ground(features, TextFeatures(text.features[i : i + 1], text.mask[i : i + 1]), 0.4)
        np.testing.assert_array_equal(alone.scores[0], together.scores[i])
        np.testing.assert_array_equal(alone.mask_logits, together.mask_logits[together.selected[:, 0] == i])


def test_a_prompt_that_is_not_stored_is_encoded(artifact: Artifact, session: Session) -> None:
    ours = text_features_for(artifact, session, ("bus",))
    theirs = text_features_for(artifact, open_session(artifact, device="cpu", threads=1), ("bus",))
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-4)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    assert ours.mask.dtype == np.bool_


def test_the_second_session_loads_what_the_first_compiled(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = OpenVinoSession(artifact, threads=1, cache=tmp_path)
    second = OpenVinoSession(artifact, threads=1, cache=tmp_path)
    for one, is_loaded in ((first, False), (second, True)):
        for graph in (one._image_part, *one._prompt_parts, one._mask_head):
            assert graph.get_property("LOADED_FROM_CACHE") == is_loaded
    (folder,) = (tmp_path / "openvino").iterdir()
    assert len(list(folder.glob("*.blob"))) == 3
    size = sum(path.stat().st_size for path in folder.glob("*.blob"))
    graphs = sum(artifact.path(f"{name}.onnx").stat().st_size for name in ("grounding", "mask_head"))
    assert size < _SIZE_FACTOR * graphs + _STRUCTURE_BYTES


def test_a_compiled_graph_with_other_bytes_is_not_used(
    artifact: Artifact, text: TextFeatures, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    right = ground(OpenVinoSession(artifact, threads=1, cache=tmp_path), pixels[:1], text)
    (folder,) = (tmp_path / "openvino").iterdir()
    for blob in folder.glob("*.blob"):
        data = bytearray(blob.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 4000] = b"\x55" * 4000
        blob.write_bytes(data)
    assert_equal(right, ground(OpenVinoSession(artifact, threads=1, cache=tmp_path), pixels[:1], text))


def test_a_disk_that_fills_up_while_graphs_are_stored_costs_the_cache_only(artifact: Artifact, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from job.model.artifact import open_artifact; "
        "from job.model.openvino_runtime.session import OpenVinoSession; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY)); "
        "OpenVinoSession(open_artifact(Path(sys.argv[1])), threads=1, cache=Path(sys.argv[2])); print('open')"
    )
    command = [sys.executable, "-c", code, str(DEMO_ARTIFACT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "open\n", done.stderr
    assert list((tmp_path / "openvino").iterdir()) == []


def test_a_graph_that_openvino_cannot_read_is_a_device_error(tmp_path: Path, artifact: Artifact) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    (folder / "grounding.onnx").write_bytes(b"no graph")
    with pytest.raises(DeviceError, match="OpenVINO failed"):
        OpenVinoSession(Artifact(folder, artifact.manifest, artifact.digest), threads=1, cache=tmp_path)
    assert list((tmp_path / "openvino").iterdir()) == []


def test_a_model_without_text_encoder_accepts_stored_prompts_only(
    artifact: Artifact, session: Session, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(DEMO_ARTIFACT, tmp_path / "model"))
    (folder / "text_encoder.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"came without its text encoder text_encoder\.onnx"):
        OpenVinoSession(Artifact(folder, artifact.manifest, artifact.digest), threads=1, cache=tmp_path).encode_text(
            np.zeros((1, 32), np.int64)
        )


def test_a_gpu_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ConfigurationError, match="OpenVINO is used on CPUs only"):
        check_session(artifact, "cuda", "openvino")


def test_a_run_repeats_its_bytes_and_its_rows_name_the_runtime(session: Session, cache: Path, tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 2)
    flags = ("--runtime", "openvino", "--threads", "1", "--model_cache", str(cache), "--annotation_date", "2026-01-01")
    outputs = []
    for name in ("one", "two"):
        done = annotate(tmp_path / "in", tmp_path / name, "--run", "run", *flags)
        assert done.returncode == 0, done.stderr
        assert "Runtime: openvino, because --runtime asks for it" in done.stderr
        outputs.append(results(tmp_path / name))
        rows = journal_rows(tmp_path / name)
        assert {row["runtime"] for row in rows} == {session.info.runtime}
        assert {row["provider"] for row in rows} == {f"{session.info.provider}/1"}
    assert outputs[0] == outputs[1]


def journal_rows(target: Path) -> list[dict[str, str]]:
    """Result rows of the only run of an output."""
    parts = sorted((target / "_sam3/runs/run").rglob("journal/**/*.jsonl*"))
    lines = chain.from_iterable(part.read_text().splitlines() for part in parts)
    rows = [json.loads(line) for line in lines]
    found = [row for row in rows if row["row"] == "result"]
    assert found
    return found
