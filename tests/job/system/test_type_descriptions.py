"""No thread is the first that decodes a type: two at once crash in msgspec (see `late_decoders` in tests/house.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import late_decoders
from tests.job.system import profiled
from tests.processes import DATE, link_scenes, running

LATE = """
import threading
import msgspec
from {} import tell_descriptions
class Late(msgspec.Struct):
    number: int
tell_descriptions()
thread = threading.Thread(target=lambda: msgspec.json.decode(b'{{"number": 1}}', type=Late))
thread.start()
thread.join()
"""


def test_no_type_is_described_in_a_thread(scenes: Path, tmp_path: Path) -> None:
    source, target = link_scenes(scenes, tmp_path / "in", 20), str(tmp_path / "out")
    commands = [
        ["--input_top_dir", str(source), "--out_top_dir", target, "--annotation_date", DATE, "--shard_size", "2"],
        ["progress", target],
        ["audit", target],
        ["convert", target, str(tmp_path / "coco"), "--to", "coco"],
    ]
    for command in commands:
        with running("-m", profiled.__name__, *command) as process:
            _, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr
        assert [line for line in stderr.splitlines() if profiled.DESCRIBED in line] == [], command


def test_a_description_in_a_thread_is_told() -> None:
    with running("-c", LATE.format(profiled.__name__)) as process:
        _, stderr = process.communicate(timeout=60)
    assert stderr == f"{profiled.DESCRIBED}Late\n"


@pytest.mark.parametrize(
    ("line", "is_late"),
    [
        ("plan = msgspec.json.decode(raw, type=Plan)", True),
        ("plan = msgspec.convert(raw, Plan)", True),
        ("plan = msgspec.json.Decoder(Plan).decode(raw)", True),
        ("plan = (lambda: msgspec.json.Decoder(Plan))()", True),
        ("plan = msgspec.json.Decoder[Plan](Plan).decode(raw)", True),
        ("plan = msgspec.msgpack.decode(raw, type=Plan)", True),
        ("decode = msgspec.json.decode", True),
        ("plan = partial(msgspec.json.decode, type=Plan)(raw)", True),
        ("plan = msgspec.json.decode(raw, **options)", True),
        ("from msgspec.json import decode", True),
        ("from msgspec import json", True),
        ("import msgspec as fast", True),
        ("from msgspec import Meta", False),
        ("plan = msgspec.json.decode(raw)", False),
        ("plan = _PLAN.decode(raw)", False),
    ],
)
def test_the_house_rule_finds_late_decoders(tmp_path: Path, line: str, is_late: bool) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"_PLAN = msgspec.json.Decoder(Plan)\n\n\ndef read(raw):\n    {line}\n")
    assert bool(list(late_decoders(path))) == is_late
