"""Folders of a run, and a fake session in the place of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import FakeSession, use_fake_session, write_inputs

UseSession = Callable[[FakeSession], FakeSession]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "in", 5)
    return tmp_path / "in"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def use_session(monkeypatch: pytest.MonkeyPatch) -> UseSession:
    """Let `annotate` open a fake session instead of loading a model."""

    def use(session: FakeSession) -> FakeSession:
        use_fake_session(monkeypatch, session)
        return session

    return use


@pytest.fixture(autouse=True)
def session(use_session: UseSession) -> FakeSession:
    return use_session(FakeSession())
