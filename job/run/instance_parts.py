"""Parts of the instance table: their keys and their compression. `job.formats.instance_table` has the rows.

`instances/<shard>/<attempt>-<n>.jsonl.gz` belongs to the journal part `<attempt>-<n>` of the same shard and is stored
before it. A part without a journal part of the same name has no valid rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from job.run.run import Run

INSTANCES_FOLDER = "instances"
PART_SUFFIX = ".jsonl.gz"
_GZIP = 31
"""zlib's code for its largest window and a gzip header; zlib writes no time there, so equal rows give equal bytes."""
_LEVEL = 6


def part_key(run: Run, shard: str, part: str) -> str:
    """Key of a part by the name that a result row gives."""
    return run.key(INSTANCES_FOLDER, shard, part + PART_SUFFIX)


def journal_key(run: Run, key: str) -> str:
    """Key of the journal part that names a part of the instance table, by the key of the latter."""
    shard_and_part = key.removeprefix(run.key(INSTANCES_FOLDER, "")).removesuffix(PART_SUFFIX)
    return run.key("journal", f"{shard_and_part}.jsonl")


def pack_part(lines: Iterable[bytes]) -> bytes:
    """Compress blocks of lines to a part; equal lines give equal bytes."""
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    packed = [compressor.compress(block) for block in lines]
    return b"".join((*packed, compressor.flush()))
