"""What all tests share: drawn scenes to annotate, and the command line as a process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from export.demo_model.scenes.scenes import write_scenes
from job.system.leaving import LEAVING
from tests.processes import DATE, annotate

pytest.register_assert_rewrite(
    "tests.job.storage.racing", "tests.s3.data", "tests.cluster.locations", "tests.cluster.release"
)

# What a shell runs in the background ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines are slow at times. CI draws the same examples every time; at a desk they differ.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


LONGEST_FIRST = ("tests/s3/test_storms.py", "tests/export/parity/", "tests/s3/", "tests/export/", "tests/e2e/")
"""Files and folders that take minutes: of several test processes none should begin with them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        places = [number for number, prefix in enumerate(LONGEST_FIRST) if item.nodeid.startswith(prefix)]
        return min(places, default=len(LONGEST_FIRST))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a test process ended that ended by itself: xdist says that it did, not whether a signal did it."""
    if error is not None:
        status = node.gateway._io.popen.wait(timeout=60)
        sys.stderr.write(f"\ntest process {node.gateway.id} ended: exit status {status} (-N: signal N)\n")


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    """A command line that runs in this process sets the root logger's level; the next test must not depend on it."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _process_stays() -> Iterator[None]:
    """A test in which this process begins to leave would end it 45 s later, in another test."""
    yield
    was_leaving = LEAVING.has_begun
    LEAVING.end()
    assert not was_leaving


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten small garage scenes with several instances each."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, seed=7100, count=10, sizes_wh=((480, 270), (270, 480), (400, 300)))
    return folder


@pytest.fixture(scope="session")
def quiet_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one uninterrupted run over `scenes`."""
    target = tmp_path_factory.mktemp("quiet") / "out"
    annotate(scenes, target, "--annotation_date", DATE).check_returncode()
    return target
