"""A race of several stores for the same keys."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from job.storage.store import Store


def race_to_create(stores: Sequence[Store], keys: int) -> None:
    """Let every store create each key at the same moment; exactly one must win, and its bytes must be read back."""
    for key in (f"folder/{number}" for number in range(keys)):
        barrier, won = threading.Barrier(len(stores)), list[int]()

        def race(number: int, key: str = key, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            barrier.wait()
            if stores[number].create(key, str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert stores[0].read(key) == str(won[0]).encode()
