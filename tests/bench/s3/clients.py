"""Processor time of a request to S3: the project's store on s3fs, and obstore if it is installed, in turns.

    python -m tests.bench.s3.clients [--requests 200] [--turns 5]

Both talk to the same server on the loopback: MinIO if there is a binary, else moto's. Obstore is not a dependency; for
the comparison `pip install obstore` into a folder of its own and name that in PYTHONPATH. The time is that of this
process, all threads, the server's left out; eight requests are under way at once, as in a worker. The store's figures
contain its retries, checks and errors; obstore's are those of the bare client.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from job.model.processor import instruction_names, processor_name
from job.storage.object_store import ObjectStore
from job.storage.s3 import S3Driver
from tests.s3.fixtures import Bucket
from tests.s3.servers import S3Server, find_minio, make_bucket, minio_server, moto_server

THREADS = 8
SIZES = {"200 kB": 200_000, "2 kB": 2_000}


class Client(Protocol):
    """What a worker asks of a bucket."""

    def get(self, key: str) -> int:
        """Number of bytes of an object."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""

    def head(self, key: str) -> int:
        """Size of an object, without its bytes."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one of this key; whether it was written."""


class OfS3fs:
    """The project's store."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self._store = ObjectStore(S3Driver(Bucket(server, bucket).url("bench"), server.options()), "bench")

    def get(self, key: str) -> int:
        return len(self._store.read(key))

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)

    def head(self, key: str) -> int:
        found = self._store.stat(key)
        assert found is not None
        return found.size

    def create(self, key: str, data: bytes) -> bool:
        return self._store.create(key, data)


class OfObstore:
    """The client of the Rust crate object_store."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        import obstore
        from obstore.store import S3Store

        self._obstore: Any = obstore
        self._store = S3Store(
            bucket,
            endpoint=server.endpoint_url,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            region=server.region,
            client_options={"allow_http": True},
        )

    def get(self, key: str) -> int:
        return len(bytes(self._obstore.get(self._store, key).bytes()))

    def put(self, key: str, data: bytes) -> None:
        self._obstore.put(self._store, key, data)

    def head(self, key: str) -> int:
        return int(self._obstore.head(self._store, key)["size"])

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._obstore.put(self._store, key, data, mode="create")
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        return True


def cases(client: Client) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Names of requests, and functions that send the request of a number."""
    for name, size in SIZES.items():
        data = bytes(size)
        yield f"PUT {name}", lambda number, data=data, size=size: client.put(f"{size}/{number}", data)
        yield f"GET {name}", lambda number, size=size: client.get(f"{size}/{number}")
    yield "HEAD", lambda number: client.head(f"{SIZES['2 kB']}/{number}")
    yield "create, refused", lambda number: client.create(f"{SIZES['2 kB']}/{number}", b"other")


def turn(client: Client, requests: int) -> dict[str, float]:
    """Milliseconds of processor time a request."""
    taken = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, call in cases(client):
            begun_s = time.process_time()
            list(pool.map(call, range(requests)))
            taken[name] = (time.process_time() - begun_s) / requests * 1e3
    return taken


@contextmanager
def any_server() -> Iterator[tuple[str, S3Server]]:
    """MinIO, else moto's server, by name."""
    binary = find_minio()
    with minio_server(binary) if binary else moto_server() as server:
        yield "MinIO" if binary else "moto's server", server


def measure(server: S3Server, requests: int, turns: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a request by client, turn by turn after one that does not count."""
    make_bucket(server, "clients")
    clients: dict[str, Client] = {"s3fs": OfS3fs(server, "clients")}
    if importlib.util.find_spec("obstore"):
        clients["obstore"] = OfObstore(server, "clients")
    measured = [{name: turn(client, requests) for name, client in clients.items()} for _ in range(turns + 1)][1:]
    return {
        name: {case: statistics.median(one[name][case] for one in measured) for case in measured[0][name]}
        for name in clients
    }


def main(arguments: list[str]) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.s3.clients", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    flags = parser.parse_args(arguments)
    with any_server() as (kind, server):
        found = measure(server, flags.requests, flags.turns)
    print(f"{kind}, {THREADS} threads; {processor_name()}, {', '.join(instruction_names())}")  # noqa: T201
    for case in found["s3fs"]:
        shown = ", ".join(f"{name} {times[case]:.2f} ms" for name, times in found.items())
        print(f"{case}: {shown}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
