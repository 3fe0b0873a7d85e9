"""What tests of the worker share."""

from __future__ import annotations

import pytest

from tests.fakes import FakeSession, use_fake_session


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Let `annotate` open a session that answers at once instead of loading a model."""
    session = FakeSession()
    use_fake_session(monkeypatch, session)
    return session
