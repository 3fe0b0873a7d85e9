"""Times in the answers of S3: the fast parser gives what botocore's parser gives."""

from __future__ import annotations

import pytest
from botocore.utils import parse_timestamp

from job.storage.s3 import S3Driver
from job.storage.s3_session import parse_time


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T20:15:01.000Z",
        "2026-01-31T20:15:01.123456Z",
        "2026-01-31T20:15:01Z",
        "2026-01-31T22:15:01+02:00",
        "2026-01-31T20:15:01",
        "Sat, 31 Jan 2026 20:15:01 GMT",
        "1769890501",
        1769890501,
        1769890501.5,
    ],
)
def test_a_time_is_parsed_as_botocore_parses_it(value: object) -> None:
    assert parse_time(value) == parse_timestamp(value)


@pytest.mark.parametrize("value", ["", "yesterday at eight o'clock", "2026-01-31Txx:yy:zzZ and more"])
def test_what_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid timestamp"):
        parse_time(value)


def test_clients_of_the_driver_parse_times_fast() -> None:
    account = {"key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}}
    driver = S3Driver("s3://bucket/folder", account)
    factory = driver._fs.s3._endpoint._response_parser_factory
    assert factory.create_parser("rest-xml")._timestamp_parser is parse_time
