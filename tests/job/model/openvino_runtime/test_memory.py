"""The memory of the OpenVINO session on the embedded model with 96 MB of further weights: each weight is held once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from job.model import processor
from job.model.artifact import MANIFEST_NAME, Precision, encode_manifest, file_entry, open_artifact
from tests.fakes import DEMO_ARTIFACT

pytest.importorskip("openvino")

LAYERS, WIDTH = 24, 1024
FLOAT32_BYTES = 4 * LAYERS * WIDTH * WIDTH
OUTPUT = "feature_2"
needs_bfloat16 = pytest.mark.skipif(not processor.computes_bfloat16(), reason="no AVX512-BF16 and no AMX")

MEASURE = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
from job.model.artifact import open_artifact
from job.model.loader import open_session
from job.system.resources import return_freed_memory

def status(*names):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [1024 * int(fields[name].split()[0]) for name in names]

return_freed_memory()
artifact = open_artifact(Path(sys.argv[1]))
session = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=Path(sys.argv[2]))
session.encode_images(np.zeros((1, *[artifact.manifest.image_side] * 2, 3), np.uint8))
ctypes.CDLL(None).malloc_trim(0)
print(json.dumps(status("VmHWM", "RssAnon", "RssFile")))
"""


def with_weights(folder: Path, precision: Precision, *, is_rounded: bool = False) -> Path:
    """The embedded model; its coarsest map depends on products with large weights, stored beside the graph."""
    shutil.copytree(DEMO_ARTIFACT, folder)
    manifest = open_artifact(DEMO_ARTIFACT).manifest
    path = folder / manifest.image_encoder.file
    model = onnx.load(path)
    graph = model.graph
    producer = next(node for node in graph.node if OUTPUT in node.output)
    producer.output[list(producer.output).index(OUTPUT)] = "before"
    nodes = [
        helper.make_node("ReduceMean", ["before"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["row_0"]),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array([1, WIDTH], np.int64), "shape"))
    random = np.random.default_rng(5)
    for i in range(LAYERS):
        weight = random.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        if is_rounded:
            raw = weight.astype(ml_dtypes.bfloat16).tobytes()
            graph.initializer.append(helper.make_tensor(f"s_{i}", TensorProto.BFLOAT16, weight.shape, raw, raw=True))
            nodes.append(helper.make_node("Cast", [f"s_{i}"], [f"w_{i}"], to=TensorProto.FLOAT))
        else:
            graph.initializer.append(numpy_helper.from_array(weight, f"w_{i}"))
        nodes.append(helper.make_node("MatMul", [f"row_{i}", f"w_{i}"], [f"row_{i + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"row_{LAYERS}"], ["end"], keepdims=0),
        helper.make_node("Add", ["before", "end"], [OUTPUT]),
    ]
    graph.node.extend(nodes)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1 << 20)
    files = {each.name: file_entry(each) for each in sorted(folder.iterdir()) if each.name != MANIFEST_NAME}
    manifest = msgspec.structs.replace(manifest, precision=precision, files=files, parity=())
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return folder


def measured(folder: Path, cache: Path) -> tuple[int, int, int]:
    """Peak, anonymous and file memory of a process that opens a model and encodes an image, in bytes."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    peak, anonymous, of_files = json.loads(done.stdout)
    return peak, anonymous, of_files


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int, int]:
    return measured(DEMO_ARTIFACT, tmp_path_factory.mktemp("plain"))


def more_than(plain: tuple[int, int, int], found: tuple[int, int, int]) -> list[float]:
    """Differences as multiples of the further weights in float32."""
    return [(a - b) / FLOAT32_BYTES for a, b in zip(found, plain, strict=True)]


def test_a_second_start_holds_the_weights_of_fp32_once(plain: tuple[int, int, int], tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "model", "fp32")
    measured(folder, tmp_path / "cache")
    peak, anonymous, of_files = more_than(plain, measured(folder, tmp_path / "cache"))
    assert 0.9 < anonymous < 1.25, "packed"
    assert of_files < 0.15, "the file that they were read from"
    assert peak < 2.3


@needs_bfloat16
def test_weights_stored_in_two_bytes_stay_in_two_bytes(plain: tuple[int, int, int], tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "model", "bf16", is_rounded=True)
    peak, anonymous, of_files = more_than(plain, measured(folder, tmp_path / "cache"))
    assert 0.45 < anonymous < 0.75, "packed"
    assert of_files < 0.15, "the file that they were read from"
    assert peak < 1.3, "both; 1.8 if they become float32 on the way"
