"""Secrets that a user puts into a URL or an options file appear in no output of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.system.redaction import redact
from tests.fakes import write_inputs

CANARY = "c4n4ry"
USER_URL = f"http://me:{CANARY}@127.0.0.1:9/model"
SIGNED_URL = f"http://127.0.0.1:9/keys.txt?X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}&token={CANARY}"


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", f"http://me:{CANARY}@[bad/model"),
        ("--model", f"nope://me:{CANARY}@host/model"),
        ("--input_list", f"nope://me:{CANARY}@host/keys.txt?sig={CANARY}"),
        ("--classes", f"nope://me:{CANARY}@host/classes.yaml"),
        ("--out_top_dir", f"nope://me:{CANARY}@host/out"),
        ("--input_top_dir", f"nope://me:{CANARY}@host/in"),
        ("--output_storage_options", "{options}"),
    ],
    ids=["model", "protocol of the model", "list", "classes", "output", "input", "options"],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_shown(tmp_path: Path, flags: tuple[str, str], log_format: str) -> None:
    write_inputs(tmp_path / "in", 1)
    options, message = tmp_path / "options.json", tmp_path / "message"
    options.write_text(f'{{"secret": "{CANARY}"')
    given = ["--input_top_dir", str(tmp_path / "in"), "--out_top_dir", str(tmp_path / "out"), "--log_level", "DEBUG"]
    given += ["--log_format", log_format, *(flag.format(options=options) for flag in flags)]
    environment = {"AWS_SECRET_ACCESS_KEY": CANARY, "HF_TOKEN": CANARY, "SAM3_TERMINATION_LOG": str(message)}
    ended = subprocess.run(
        [sys.executable, "-m", "job", "annotate", *given],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert message.read_text()
    assert CANARY not in ended.stdout + ended.stderr + message.read_text()


@pytest.mark.parametrize("url", [USER_URL, SIGNED_URL])
def test_redaction_keeps_the_host(url: str) -> None:
    shown = redact(f"no model at {url!r}: 404")
    assert "***" in shown
    assert "127.0.0.1:9" in shown
    assert CANARY not in shown
    assert shown.startswith("no model at ")
    assert shown.endswith(": 404")


def test_other_text_is_kept() -> None:
    for text in ("a:b@c", "https://host/a?n=1", "s3://bucket/k:e@y.json".replace(":e@", "-")):
        assert redact(text) == text
