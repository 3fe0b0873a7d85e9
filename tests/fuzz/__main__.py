"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz TARGET [--seconds N] [--work FOLDER]`.

Atheris is not a dependency of this project: `make fuzz` installs it into an environment of its own. What a target finds
is written to `FOLDER/TARGET/findings`, and its corpus to `FOLDER/TARGET/corpus`; a part of that is kept beside the
sources, and `test_replay.py` replays it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["job", "PIL", "yaml", "zipfile", "csv", "json"]):
    from tests.fuzz.mutation import mutate_json
    from tests.fuzz.seeds import seeds_of
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 6144
MAX_RESIDENT_MB = 8000
"""Atheris 3 never frees an array that traced code compares: `instance_rows` grows by 0.3 kB an execution. One input is
limited by MAX_ALLOCATION_MB."""
MAX_ALLOCATION_MB = 1000


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate the tree of a JSON every other time, else the bytes."""
    changed = mutate_json(data, seed) if seed % 2 else None
    if changed is None or len(changed) > max_size:
        return bytes(atheris.Mutate(data, max_size))
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    name, folder = arguments.target, arguments.work / arguments.target
    found, findings, seeds = folder / "corpus", folder / "findings", folder / "seeds"
    for one in (found, findings, seeds, CORPUS / name):
        one.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(name)):
        (seeds / f"{number:03d}").write_bytes(seed)
    flags = [f"-max_len={MAX_BYTES}", "-timeout=20"]
    flags += [f"-rss_limit_mb={MAX_RESIDENT_MB}", f"-malloc_limit_mb={MAX_ALLOCATION_MB}"]
    flags += [f"-artifact_prefix={findings}/", f"-max_total_time={arguments.seconds}", "-print_final_stats=1"]
    flags += [str(found), str(CORPUS / name), str(seeds)]
    atheris.Setup([sys.argv[0], *flags], TARGETS[name].check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
