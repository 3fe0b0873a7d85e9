"""Access to the storage of a release from outside its pods."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fsspec.utils import get_protocol

from job.errors import StorageError
from job.storage.open import Address
from job.system.threads import call_aside
from k8s.release import Release

STORAGE_TIMEOUT_S = 30.0
"""The storage layer retries for minutes; an interactive command does not wait that long."""

_T = TypeVar("_T")


def call_with_timeout(call: Callable[[], _T]) -> _T:
    """Result of a call that reads storage.

    Raises:
        StorageError: No result after `STORAGE_TIMEOUT_S`.
        AnnotateError: What `call` raises.
    """
    try:
        return call_aside(call, STORAGE_TIMEOUT_S)
    except TimeoutError as exc:
        raise StorageError(f"no answer for {STORAGE_TIMEOUT_S:.0f} s") from exc


def output_address(release: Release, given: Mapping[str, Any]) -> Address:
    """Address of the results of a release; `given` as for `storage_options`."""
    return Address(release.output_url, storage_options(release, release.output_url, given))


def storage_options(release: Release, url: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Storage options for a URL of a release.

    S3 endpoint and region are those of the workers, unless this machine has an endpoint of its own (in `given`,
    `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`). Credentials are always those of this machine. The environment of
    this process is read and never changed: other threads read it too.

    Args:
        release: Whose workers.
        url: Path or URL; only S3 URLs get options.
        given: Options of the user, which take precedence.
    """
    options = dict(given)
    client = options.get("client_kwargs", {})
    if get_protocol(url) not in {"s3", "s3a"} or not isinstance(client, dict) or _has_own_endpoint(options):
        return options
    workers = release.environment
    endpoint = workers.get("AWS_ENDPOINT_URL_S3") or workers.get("AWS_ENDPOINT_URL")
    region = workers.get("AWS_DEFAULT_REGION") or workers.get("AWS_REGION")
    if endpoint:
        options["endpoint_url"] = endpoint
    if region and "region_name" not in client and not os.environ.get("AWS_DEFAULT_REGION"):
        options["client_kwargs"] = {**client, "region_name": region}
    return options


def _has_own_endpoint(options: Mapping[str, Any]) -> bool:
    """As s3fs and botocore find it."""
    return bool(
        options.get("endpoint_url")
        or options.get("client_kwargs", {}).get("endpoint_url")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
