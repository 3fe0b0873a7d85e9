"""Name of the processor or GPU that figures were measured on."""

from __future__ import annotations

from job.model.processor import processor_name


def machine_name(provider: str) -> str:
    """Name the processor or GPU that a provider runs on."""
    if "CUDA" in provider.upper():
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name())
    return processor_name()
