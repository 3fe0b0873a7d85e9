"""Weights that a bf16 artifact stores in two bytes: the same answers bit by bit, and the right ones are stored so."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir import convenience

from export.graphs.onnx_writer import PRODUCTS, halve_lossless, round_weights
from job.model.artifact import MANIFEST_NAME, Artifact, encode_manifest, file_entry, open_artifact
from job.model.loader import open_session
from job.model.processor import computes_bfloat16
from tests.fakes import DEMO_ARTIFACT

pytestmark = pytest.mark.torch


def restored(model: ir.Model) -> ir.Model:
    """The graph with weights in float32, as the exporter writes it before it stores some as float16."""
    for node in list(model.graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or stored.const_value is None or stored.const_value.dtype != ir.DataType.FLOAT16:
            continue
        full = ir.Tensor(stored.const_value.numpy().astype(np.float32))
        value = ir.Value(
            name=f"{stored.name}.full", type=ir.TensorType(ir.DataType.FLOAT), shape=stored.shape, const_value=full
        )
        convenience.replace_all_uses_with(node.outputs[0], value)
        model.graph.register_initializer(value)
        model.graph.remove(node)
        model.graph.initializers.pop(str(stored.name))
    return model


def encoder(*, is_rounded: bool) -> ir.Model:
    model = restored(ir.load(DEMO_ARTIFACT / "image_encoder.onnx"))
    if is_rounded:
        round_weights(model)
    halve_lossless(model)
    return model


def as_bf16(folder: Path, *, is_rounded: bool) -> Artifact:
    """The demo model as bf16."""
    shutil.copytree(DEMO_ARTIFACT, folder)
    ir.save(encoder(is_rounded=is_rounded), folder / "image_encoder.onnx")
    entries = {each.name: file_entry(each) for each in sorted(folder.iterdir()) if each.name != MANIFEST_NAME}
    manifest = msgspec.structs.replace(
        open_artifact(DEMO_ARTIFACT).manifest, precision="bf16", files=entries, parity=()
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return open_artifact(folder)


def features(artifact: Artifact, cache: Path) -> dict[str, NDArray[np.float32]]:
    session = open_session(artifact, device="cpu", threads=1, runtime="openvino", cache=cache)
    with np.load(artifact.path("reference.npz")) as arrays:
        maps: dict[str, NDArray[np.float32]] = session.encode_images(arrays["pixels"][:1]).maps
    return maps


@pytest.mark.skipif(not computes_bfloat16(), reason="no AVX512-BF16 and no AMX")
def test_stored_weights_change_no_bit(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    float32, rounded = (as_bf16(tmp_path / str(each), is_rounded=each) for each in (False, True))
    ours, theirs = (features(each, tmp_path / "cache") for each in (rounded, float32))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_weights_of_products_are_rounded_to_nearest_and_others_are_not() -> None:
    before, after = restored(ir.load(DEMO_ARTIFACT / "image_encoder.onnx")), encoder(is_rounded=True)
    stored = {name for name, x in after.graph.initializers.items() if x.const_value.dtype == ir.DataType.BFLOAT16}
    assert len(stored) > 30
    for name in stored:
        weight = before.graph.initializers[name.removesuffix(".bfloat16")]
        assert {(use.node.op_type in PRODUCTS, use.idx) for use in weight.uses()} == {(True, 1)}
        full = weight.const_value.numpy()
        found = after.graph.initializers[name].const_value.numpy().astype(np.float32)
        assert np.all(np.abs(found - full) <= np.abs(full) * np.float32(2**-8))
    left = sum(x.const_value.nbytes for name, x in after.graph.initializers.items() if name not in stored)
    assert left < 0.25 * sum(x.const_value.nbytes for x in before.graph.initializers.values())
