from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.checkpoint import demo_checkpoint_path
from export.demo_model.__main__ import main


def test_scenes_are_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["scenes", str(tmp_path / "in"), "--count", "2"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(list((tmp_path / "in").rglob("*.jpg"))) == 2


def test_evaluation_prints_a_table_and_a_line_of_json() -> None:
    arguments = ["evaluate", str(demo_checkpoint_path()), "--count", "1"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    *table, last = result.stdout.splitlines()
    assert table[0].startswith("| class |")
    assert set(json.loads(last)["classes"]) == {"car", "license plate", "person"}


@pytest.mark.parametrize("command", ["scenes", "train", "evaluate"])
def test_help_needs_no_network(command: str) -> None:
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
