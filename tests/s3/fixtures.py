"""Buckets on real S3 servers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.s3.servers import S3Server, find_minio, make_bucket, minio_server, moto_server


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket."""

    server: S3Server
    name: str

    def url(self, folder: str) -> str:
        return f"s3://{self.name}/{folder}"


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    binary = find_minio()
    if binary is None:
        pytest.skip("no MinIO: set MINIO_BINARY")
    with minio_server(binary) as server:
        yield server


@pytest.fixture
def new_bucket() -> Callable[[S3Server], Bucket]:
    def make(server: S3Server) -> Bucket:
        name = f"test-{secrets.token_hex(6)}"
        make_bucket(server, name)
        return Bucket(server, name)

    return make


@pytest.fixture(params=["moto", "minio"])
def bucket(request: pytest.FixtureRequest, new_bucket: Callable[[S3Server], Bucket]) -> Bucket:
    return new_bucket(request.getfixturevalue(request.param))


@pytest.fixture
def fast_bucket(request: pytest.FixtureRequest, new_bucket: Callable[[S3Server], Bucket]) -> Bucket:
    """On MinIO if there is one, because moto needs milliseconds of processor time for each request."""
    return new_bucket(request.getfixturevalue("minio" if find_minio() else "moto"))
