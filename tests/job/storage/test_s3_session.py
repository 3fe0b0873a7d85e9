"""Times in the answers of S3: the fast parser gives what botocore's parser gives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.utils import parse_timestamp

from job.storage import s3_session
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
        "Saturday, 31-Jan-26 20:15:01 GMT",
        "2026-01-31 20:15:01 GMT",
        "1769890501",
        1769890501,
        1769890501.5,
    ],
)
def test_a_time_is_parsed_as_botocore_parses_it(value: object) -> None:
    assert parse_time(value) == parse_timestamp(value)


@pytest.mark.parametrize(
    "value", ["", "yesterday at eight o'clock", "2026-01-31Txx:yy:zzZ and more", "not a date at all GMT"]
)
def test_what_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid timestamp"):
        parse_time(value)


def test_clients_of_the_driver_parse_times_fast() -> None:
    account = {"key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}}
    driver = S3Driver("s3://bucket/folder", account)
    factory = driver._fs.s3._endpoint._response_parser_factory
    assert factory.create_parser("rest-xml")._timestamp_parser is parse_time


def test_dates_of_headers_and_listings_are_not_left_to_the_slow_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_session, "parse_timestamp", None)
    expected = datetime(2026, 1, 31, 20, 15, 1, tzinfo=UTC)
    assert parse_time("Sat, 31 Jan 2026 20:15:01 GMT") == parse_time("2026-01-31T20:15:01.000Z") == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, "sam3-annotate botocore/"), ({"user_agent_extra": "pod-7"}, " pod-7"), ({"user_agent": "mine"}, "mine")],
)
def test_the_user_agent_is_fixed_and_options_can_change_it(config: dict[str, str], expected: str) -> None:
    account = {"key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}, "config_kwargs": config}
    agent = S3Driver("s3://bucket/folder", account)._fs.s3._user_agent_creator.to_string()
    assert expected in agent
    assert "lang/" not in agent
