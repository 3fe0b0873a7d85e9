"""The corpus that fuzzing left is replayed: every target keeps its laws, and raises its own errors only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutation import mutate_json
from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
LARGEST_CORPUS_BYTES = 300_000
MUTATIONS = 60
# Pillow warns of odd metadata; `job.telemetry.logs` ignores that too.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

FOUND = {
    "instance_rows": [b'{"json":"a.\xff","image":"a.jpg","width":4,"height":3}\n', b'{"json":' + b"[" * 100_000],
    "run_files": [b'{"row":"lea\x91\xba","attempt":"a"}\n', b'{"row":' + b"[" * 100_000],
    "manifest": [b'{"format_version":2,"model_id":"\xff"}', b'{"format_version":' + b"[" * 100_000],
    "key_list": [
        b"a.json\n.//c.json\n",
        b"key\0key\n" + b"a" * 200_000 + b"\n",
        "\xb2\0a,b\n".encode(),
        b"9" * 8 + b"\0a\n",
    ],
}
"""What fuzzing and review have found: bytes that are not UTF-8 in a string, deep nesting, long CSV fields."""


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_of_a_target_raises_its_own_errors_only(name: str) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    assert kept
    for data in (*seeds_of(name), *FOUND.get(name, ()), *kept):
        TARGETS[name].check(data)


VALID = {
    "classes": 2, "image": 9, "instance_part": 2, "instance_rows": 2, "json_merge": 5, "key_list": 4, "manifest": 1,
    "mask_npz": 1, "rle": 4, "run_files": 6,
}  # fmt: skip
"""Seeds of each target, from the first, that its parser accepts: fuzzing reaches what lies behind it."""


@pytest.mark.parametrize("name", TARGETS)
def test_the_parser_of_a_target_accepts_its_valid_seeds(name: str) -> None:
    seeds = seeds_of(name)
    for data in seeds[: VALID[name]]:
        TARGETS[name].call(data)
    for data in seeds[VALID[name] :]:
        with pytest.raises(TARGETS[name].errors):
            TARGETS[name].call(data)


@pytest.mark.parametrize("name", ["json_merge", "manifest", "instance_rows", "run_files"])
def test_mutated_trees_raise_their_own_errors_only(name: str) -> None:
    for data in seeds_of(name):
        for seed in range(MUTATIONS):
            TARGETS[name].check(mutate_json(data, seed) or b"")


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_CORPUS_BYTES
