"""Optimises and runs one graph on stub CUDA libraries, and prints as JSON what was launched.

`tests.gpu.stubs.StubGpu.run` starts it as a process of its own, with the GPU build of ONNX Runtime first on the path.

Standard input: one JSON object with `model` and `folder` (paths) and `sizes` (values of the dynamic dimensions
`batch` and `prompts`, and `selected`, the number of masks). Standard output, last line: see `main`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from job.model.onnx_session import CUDA_OPTIONS, CUDA_PROVIDER, session_options

# cuDNN's convolutions need engines, and the rows of NonZero depend on values: an Expand of the same output shape
# takes the place of these nodes after the optimisation.
NOT_RUNNABLE = ("Conv", "ConvTranspose", "FusedConv", "NonZero")
ZEROS = "zeros.bin"
_LARGE_WEIGHT = 1024  # bytes
_DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def main() -> None:
    """Print the path of the optimised graph, the nodes of one call in order, the launches, and the arena's peak.

    A node of the answer has the index of its node in the optimised graph, or -1 where ONNX Runtime added it.
    """
    request = json.load(sys.stdin)
    folder, source = Path(request["folder"]), Path(request["model"])
    optimised, runnable = (folder / f"{source.stem}.{x}.onnx" for x in ("optimised", "runnable"))
    _session(str(source), saved_as=optimised)
    model = onnx.load(str(optimised), load_external_data=False)
    for index, node in enumerate(model.graph.node):
        node.name = f"{index}:{node.op_type}"
    _exchange(model, request["sizes"])
    _empty_weights(model, folder)
    onnx.save(model, str(runnable))
    found = _run(runnable, request["sizes"])
    sys.stdout.write(json.dumps({"optimised": str(optimised), **found}) + "\n")


def _session(path: str, *, saved_as: Path | None = None, profile: str = "") -> Any:
    """A session with the worker's options; saving and profiling change no kernel."""
    options = session_options(1)
    options.log_severity_level = 2
    if saved_as:
        # The optimised weights go to a device that stores nothing.
        sink = saved_as.with_suffix(".weights")
        sink.unlink(missing_ok=True)
        sink.symlink_to(os.devnull)
        name, size = (f"session.optimized_model_external_initializers_{x}" for x in ("file_name", "min_size_in_bytes"))
        options.optimized_model_filepath = str(saved_as)
        options.add_session_config_entry(name, sink.name)
        options.add_session_config_entry(size, str(_LARGE_WEIGHT))
    if profile:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = profile
    session = ort.InferenceSession(path, options, providers=[(CUDA_PROVIDER, CUDA_OPTIONS)])
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise SystemExit("ONNX Runtime could not load its CUDA provider; the log above has its reason")
    return session


def _exchange(model: onnx.ModelProto, sizes: dict[str, int]) -> None:
    known = {x.name: x.type.tensor_type for x in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.op_type not in NOT_RUNNABLE:
            continue
        (output,) = node.output
        kind = known[output]
        shape = [3, sizes["selected"]] if node.op_type == "NonZero" else _dims(kind.shape, sizes)
        zero = np.zeros((1,) * len(shape), onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        constants = {f"{output}.zero": zero, f"{output}.shape": np.array(shape, np.int64)}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in constants.items())
        node.op_type, node.domain = "Expand", ""
        del node.input[:], node.attribute[:]
        node.input.extend(constants)


def _dims(shape: Any, sizes: dict[str, int]) -> list[int]:
    """A shape whose dynamic dimensions are products of named sizes."""
    return [int(eval(x.dim_param, {"__builtins__": {}}, sizes)) if x.dim_param else x.dim_value for x in shape.dim]


def _empty_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Point every external weight at one sparse file of zeros."""
    largest = 1
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            length = {x.key: x.value for x in tensor.external_data}["length"]
            largest = max(largest, int(length))
            del tensor.external_data[:]
            for key, value in (("location", ZEROS), ("offset", "0"), ("length", length)):
                tensor.external_data.add(key=key, value=value)
    with (folder / ZEROS).open("ab") as stream:
        stream.truncate(max(largest, stream.tell()))


def _run(path: Path, sizes: dict[str, int]) -> dict[str, Any]:
    session = _session(str(path), profile=str(path.with_suffix("")))
    runtime = ctypes.CDLL("libcudart.so.13")
    runtime.stub_launch_kernel.restype = ctypes.c_char_p
    runtime.stub_launch_time_ns.restype = ctypes.c_int64
    runtime.stub_peak_bytes.restype = ctypes.c_size_t
    binding = session.io_binding()
    for x in session.get_inputs():
        shape = [sizes[size] if isinstance(size, str) else size for size in x.shape]
        array: Any = np.zeros(shape, _DTYPES[x.type])
        if x.type == "tensor(float16)":  # made by another graph: it is on the device
            binding.bind_ortvalue_input(x.name, ort.OrtValue.ortvalue_from_numpy(array, "cuda"))
        else:
            binding.bind_cpu_input(x.name, array)
    for x in session.get_outputs():
        binding.bind_output(x.name, "cuda")
    before = runtime.stub_launch_count()  # without the copies of inputs: in a worker most are on the device
    session.run_with_iobinding(binding)
    after = runtime.stub_launch_count()
    started_ns = session.get_profiling_start_time_ns()
    profile = Path(session.end_profiling())
    events = [x for x in json.loads(profile.read_text()) if x.get("cat") == "Node"]
    profile.unlink()
    return {
        "nodes": [_node(x) for x in events if x["name"].endswith("_kernel_time")],
        "launches": [
            {
                "us": (runtime.stub_launch_time_ns(i) - started_ns) / 1e3,
                "kernel": runtime.stub_launch_kernel(i).decode(),
            }
            for i in range(before, after)
        ],
        "peak_bytes": runtime.stub_peak_bytes(),
    }


def _node(event: dict[str, Any]) -> dict[str, Any]:
    index, _, _ = event["name"].partition(":")
    arguments = event["args"]
    return {
        "index": int(index) if index.isdecimal() else -1,
        "operator": arguments["op_name"],
        "provider": arguments["provider"],
        "us": event["ts"],
        "inputs": [_tensor(x) for x in arguments["input_type_shape"]],
        "outputs": [_tensor(x) for x in arguments["output_type_shape"]],
    }


def _tensor(described: dict[str, list[int]]) -> tuple[str, list[int]]:
    """Element type and shape; an input that is left out has no type."""
    return next(iter(described.items()), ("", []))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # ONNX Runtime's own exit frees what the stubs never made
