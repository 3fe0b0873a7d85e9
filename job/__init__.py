"""The annotator: one machine, or one index of a job, over local folders or object stores.

Importing this package turns the telemetry of dependencies off, before any of them is imported and for child processes
too. A value that the user has set stays.
"""

import os
import sys

for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")
# OpenVINO has no variable for it: its import reports to a server unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
