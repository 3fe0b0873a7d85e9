"""moto's server with an exclusive create: moto checks `If-None-Match` and writes without a lock between the two."""

from __future__ import annotations

import threading
from typing import Any

from moto.s3.responses import S3Response
from moto.server import main

_LOCK = threading.Lock()
_put = S3Response._key_response_put


def _put_with_lock(self: S3Response, *arguments: Any, **more: Any) -> Any:
    with _LOCK:
        return _put(self, *arguments, **more)


if __name__ == "__main__":
    S3Response._key_response_put = _put_with_lock  # type: ignore[method-assign]
    main()
