"""sam3 runs in the arithmetic that artifacts are held to."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from export import sam3_runtime
from export.sam3_runtime import require_sam3
from job.errors import ConfigurationError

AMPERE = """
import types, warnings
from unittest.mock import patch
import torch
import triton

warnings.simplefilter("ignore")
properties = types.SimpleNamespace(major=9, minor=0)
with (
    patch("torch.cuda.is_available", lambda: True),
    patch("torch.cuda.current_device", lambda: 0),
    patch("torch.cuda.get_device_properties", lambda *arguments: properties),
):
    import sam3.model_builder

from export.sam3_runtime import running_on

backends = torch.backends.cuda.matmul, torch.backends.cudnn
print([backend.allow_tf32 for backend in backends])
with running_on("cpu"):
    print([backend.allow_tf32 for backend in backends])
print([backend.allow_tf32 for backend in backends])
"""


def test_the_original_runs_without_tensorfloat_32_on_an_ampere_gpu() -> None:
    """Importing sam3 turns it on, shown with the properties of such a GPU."""
    done = subprocess.run([sys.executable, "-c", AMPERE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["[True, True]", "[False, False]", "[True, True]"]


def test_a_package_of_another_version_with_the_same_classes_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed from git calls itself 0.1.0."""
    monkeypatch.setattr(sam3_runtime, "version", lambda _: "0.1.0")
    assert require_sam3() == "0.1.0"


def test_a_package_without_a_needed_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sam3.model.vitdet

    monkeypatch.delattr(sam3.model.vitdet, "Attention")
    with pytest.raises(ConfigurationError, match=r"lacks sam3\.model\.vitdet\.Attention.*pip install"):
        require_sam3()


def test_a_package_without_a_needed_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sam3.model_builder

    monkeypatch.setattr(sam3.model_builder, "build_sam3_image_model", lambda bpe_path, device: None)
    with pytest.raises(ConfigurationError, match=r"lacks the parameter checkpoint_path of sam3\.model_builder"):
        require_sam3()


def test_a_package_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam3.model.necks", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"sam3\.model\.necks .* cannot be imported"):
        require_sam3()


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    none = types.SimpleNamespace(find_spec=lambda _: None)
    monkeypatch.setattr(sam3_runtime.importlib, "util", none)
    with pytest.raises(ConfigurationError, match="sam3 is not installed: pip install"):
        require_sam3()
