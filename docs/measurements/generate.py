"""Writes the measured part of docs/performance.md from the JSON files in this folder.

python docs/measurements/generate.py           writes the part between the two marks
python docs/measurements/generate.py --check   exits with 1 if it is out of date

A JSON file is one of `sam3-annotate bench --json`, `make bench` (build/bench) or `make bench-gpu` (build/bench-gpu),
copied here under the name of its machine; NAME.turns.json is one of `python -m export.bench.turns`, and
NAME.concurrency.json one of `python -m export.bench.concurrency`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from job.tools.bench.concurrency import ConcurrencyReport, is_concurrency_file, render_concurrency
from job.tools.bench.figures import BenchReport
from job.tools.bench.table import render
from job.tools.bench.turns import TurnsReport, is_turns_file, render_turns

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "performance.md"
BEGIN = "<!-- Measured figures, written by docs/measurements/generate.py. Do not edit. -->"
END = "<!-- End of the measured figures. -->"


def measured_part() -> str:
    """A section for each file, in the order of their names."""
    parts = []
    for path in sorted(FOLDER.glob("*.json")):
        if is_turns_file(path.name):
            turns = msgspec.json.decode(path.read_bytes(), type=TurnsReport)
            parts.append(f"### Beside eager sam3, in turns ({path.name})\n\n{render_turns(turns)}")
            continue
        if is_concurrency_file(path.name):
            runs = msgspec.json.decode(path.read_bytes(), type=ConcurrencyReport)
            parts.append(f"### Workers and images in flight ({path.name})\n\n{render_concurrency(runs)}")
            continue
        report = msgspec.json.decode(path.read_bytes(), type=BenchReport)
        title = f"{report.setting.model_id}, {report.setting.precision}, {path.stem.partition('-')[0]}"
        parts.append(f"### {title} ({path.name})\n\n{render(report)}")
    return "\n".join(parts) or "No figures are stored yet: docs/measurements has no JSON file.\n"


def with_measured_part(page: str) -> str:
    """The page with its measured part written again.

    Raises:
        ValueError: It lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured_part()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    written = with_measured_part(page)
    if arguments == ["--check"]:
        if page != written:
            sys.stderr.write(f"{PAGE} is out of date: run python docs/measurements/generate.py\n")
        return int(page != written)
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
