"""Runs sam3 on this machine: its vocabulary, its warnings, and its hard-coded CUDA device."""

from __future__ import annotations

import importlib.util
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

SUPPORTED_VERSION = "0.1.4"
_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def require_sam3() -> str:
    """Return the version of the sam3 package, which must be the one whose code `export.graphs` mirrors.

    Raises:
        ConfigurationError: It is not installed, or has another version.
    """
    try:
        found = version("sam3")
    except PackageNotFoundError as exc:
        raise ConfigurationError("sam3 is not installed: pip install 'sam3-annotate[export]'") from exc
    if found != SUPPORTED_VERSION:
        raise ConfigurationError(f"sam3 {found} is installed, the exporter supports only {SUPPORTED_VERSION}")
    return found


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
