"""Runs sam3 on this machine: its vocabulary, its warnings, and its hard-coded CUDA device."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

from job.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_VERSION = "0.1.4"
_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "sam3.model_builder": {"build_sam3_image_model": ("bpe_path", "device", "checkpoint_path", "load_from_HF")},
    "sam3.model.sam3_image_processor": {"Sam3Processor": ("model", "resolution", "device", "confidence_threshold")},
    "sam3.model.sam3_image": {"Sam3Image": ("backbone", "transformer", "segmentation_head", "dot_prod_scoring")},
    "sam3.model.vl_combiner": {"SAM3VLBackbone": ("visual", "text", "scalp")},
    "sam3.model.necks": {"Sam3DualViTDetNeck": ("trunk", "scale_factors", "add_sam2_neck")},
    "sam3.model.vitdet": {"ViT": ("use_rope",), "Attention": ("num_heads", "input_size", "use_rope")},
    "sam3.model.text_encoder_ve": {"VETextEncoder": ("tokenizer",)},
    "sam3.model.tokenizer_ve": {"SimpleTokenizer": ("bpe_path",)},
    "sam3.model.model_misc": {"gen_sineembed_for_position": (), "inverse_sigmoid": (), "DotProductScoring": ()},
}
"""What `export.graphs` and `export.parity` use of sam3: classes and functions by module, with parameters."""


def require_sam3() -> str:
    """Return the version of the sam3 package, which must have the classes that `export.graphs` mirrors.

    Its version does not decide: a package installed from git calls itself 0.1.0. That the classes compute what the
    graphs compute is proved by the comparison at the end of each export.

    Raises:
        ConfigurationError: It is not installed, cannot be imported, or lacks a class or parameter.
    """
    if importlib.util.find_spec("sam3") is None:
        raise ConfigurationError("sam3 is not installed: pip install 'sam3-annotate[export]'")
    with quiet():
        lacking = list(_lacking())
    found = _version()
    if lacking:
        raise ConfigurationError(
            f"sam3 {found} is installed and lacks {', '.join(lacking[:3])}, which the exporter needs: "
            f"pip install 'sam3-annotate[export]' (sam3 {TESTED_VERSION}), or a git version that has them"
        )
    return found


def _lacking() -> Iterator[str]:
    for module_name, members in _NEEDED.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as exc:
            raise ConfigurationError(
                f"{module_name} of sam3 {_version()} cannot be imported ({exc}): install what it lacks, "
                "or the tested version with pip install 'sam3-annotate[export]'"
            ) from exc
        for name, parameters in members.items():
            member = getattr(module, name, None)
            if member is None:
                yield f"{module_name}.{name}"
                continue
            known = inspect.signature(member).parameters
            yield from (f"the parameter {x} of {module_name}.{name}" for x in parameters if x not in known)


def _version() -> str:
    try:
        return version("sam3")
    except PackageNotFoundError:
        return str(getattr(sys.modules.get("sam3"), "__version__", "of an unknown version"))


def vocabulary_path() -> str:
    """Return the path of the text encoder's vocabulary, which open_clip_torch contains and sam3's wheel lacks.

    Raises:
        ConfigurationError: open_clip_torch is not installed, or lacks the file.
    """
    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin).parent / _VOCABULARY if package and package.origin else None
    if path is None or not path.is_file():
        raise ConfigurationError("open_clip_torch is missing: pip install 'sam3-annotate[export]'")
    return str(path)


@contextmanager
def running_on(device: str) -> Iterator[None]:
    """Run sam3 on a device, in true float32; on a CPU, its hard-coded CUDA calls are redirected to the CPU.

    On Ampere GPUs and newer ones, importing sam3 (`sam3/model_builder.py`, `_setup_tf32`) turns TensorFloat-32 on,
    which moves scores by up to 4.5e-4. An artifact runs without it, so the original that it is compared with must too.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
        for backend in backends:
            stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
            backend.allow_tf32 = False
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        if device == "cpu":
            stack.enter_context(_CudaMeansCpu())
            stack.enter_context(patch.object(torch.Tensor, "pin_memory", _unpinned))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of sam3 and of torch's exporters; none of them needs an action of the caller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call with `device="cuda"` replaced by the CPU."""
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _unpinned(self: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return self
