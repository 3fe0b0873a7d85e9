"""The comparison of S3 clients at its smallest size."""

from __future__ import annotations

from tests.bench.s3.clients import measure
from tests.s3.servers import moto_server


def test_each_request_is_measured() -> None:
    with moto_server() as server:
        found = measure(server, requests=4, turns=1)
        kept = server.files().cat_file("clients/bench/2000/3")
    assert set(found["s3fs"]) == {
        "PUT 200 kB", "GET 200 kB", "PUT 2 kB", "GET 2 kB", "HEAD", "create, refused",
    }  # fmt: skip
    assert all(milliseconds > 0 for times in found.values() for milliseconds in times.values())
    assert kept == bytes(2000)
