"""Processor time of a plan and of a bare listing over recorded pages of S3: `… tests.bench.recorded IMAGES DONE`.

The pages are answers of ListObjectsV2 as S3 sends them; the real driver parses them. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import botocore.session
from botocore.parsers import ResponseParserFactory

from job.plan.planner import make_plan
from job.plan.selection import Selection
from job.plan.sharding import Sizing
from job.run.run import open_run
from job.storage.object_store import ObjectStore
from job.storage.s3 import S3Driver
from job.storage.s3_session import parse_time
from tests.bench.scale import SyntheticOutput
from tests.fakes import spec_of

PAGE_KEYS = 1000
_ENTRY = (
    "<Contents><Key>night/{key}</Key><LastModified>2026-01-31T20:15:01.000Z</LastModified>"
    "<ETag>&quot;9e107d9d372bb6826bd81d3542a419d6&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>2203144</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def record(images: int, suffixes: tuple[str, ...]) -> list[bytes]:
    """Pages of images in folders of 10,000."""
    keys = [f"camera{number // 10_000:06d}/{number:010d}{suffix}" for number in range(images) for suffix in suffixes]
    pages = [keys[start : start + PAGE_KEYS] for start in range(0, len(keys), PAGE_KEYS)] or [[]]
    return [
        (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><Prefix>night/</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>{'true' if number + 1 < len(pages) else 'false'}</IsTruncated>"
            f"<NextContinuationToken>{number + 1}</NextContinuationToken>"
            f"{''.join(_ENTRY.format(key=key) for key in page)}</ListBucketResult>"
        ).encode()
        for number, page in enumerate(pages)
    ]


class RecordedDriver(S3Driver):
    """The S3 driver with recorded answers in place of a connection."""

    def __init__(self, pages: list[bytes]) -> None:
        self._bucket, self._prefix = "bucket", "night/"
        self._recorded = pages
        factory = ResponseParserFactory()
        factory.set_parser_defaults(timestamp_parser=parse_time)
        self._parser = factory.create_parser("rest-xml")
        service = botocore.session.get_session().get_service_model("s3")
        self._shape = service.operation_model("ListObjectsV2").output_shape

    def _call(self, method: str, key: str | None = None, **arguments: Any) -> dict[str, Any]:
        body = self._recorded[int(arguments.get("ContinuationToken", "0"))]
        answer: dict[str, Any] = self._parser.parse({"body": body, "headers": {}, "status_code": 200}, self._shape)
        return answer


def recorded_store(pages: list[bytes]) -> ObjectStore:
    """A store whose pages are listed one after the other, by their tokens."""
    store = ObjectStore(RecordedDriver(pages), "recorded")
    store._pages.can_start_anywhere = False
    return store


def main(images: int, done: int) -> dict[str, float]:
    """Processor seconds of a bare listing of both sides and of a plan, twice in turn; `done` images have outputs."""
    outputs = recorded_store(record(done, (".jpg", ".json", ".npz")))
    source = recorded_store(record(images, (".jpg", ".json")))
    found = dict[str, list[float]](listing=[], plan=[])
    for turn in range(2):
        begun = time.process_time()
        listed = sum(1 for store in (source, outputs) for _ in store.list(skip="_sam3"))
        found["listing"].append(time.process_time() - begun)
        with tempfile.TemporaryDirectory() as folder:
            target = SyntheticOutput(Path(folder), outputs)
            run = open_run(target, spec_of(Path("in")), name=f"r{turn}", is_date_given=False, process_id="x")
            begun = time.process_time()
            plan = make_plan(run, Selection(run, source), Sizing(shard_size=1000))
            found["plan"].append(time.process_time() - begun)
        assert (listed, plan.inputs_planned) == (2 * images + 3 * done, images - done)
    return {"images": images, "listing": min(found["listing"]), "plan": min(found["plan"])}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
