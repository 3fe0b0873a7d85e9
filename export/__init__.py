"""Exports SAM 3 to an artifact that the worker runs, and verifies that both agree."""

import job as job  # before onnxruntime and huggingface_hub: it turns their telemetry off
