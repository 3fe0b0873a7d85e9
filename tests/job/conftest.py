"""What tests of the worker share."""

from __future__ import annotations

import pytest

import job.worker.factory
from tests.fakes import FakeSession


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Let `annotate` open a session that answers at once instead of loading a model."""
    session = FakeSession()
    monkeypatch.setattr(job.worker.factory, "open_session", lambda artifact, **options: session)
    return session
