"""How long a pod waits for valid credentials."""

from __future__ import annotations

import pytest

from job.errors import CredentialsRefusedError, StorageError
from job.storage.patience import FAILURES_VARIABLE, call_with_patience, index_failures, patience_s
from tests.fakes import JumpingClock


def test_the_first_two_tries_leave_at_once_and_twenty_last_for_more_than_eight_hours() -> None:
    waits = [patience_s(failures) for failures in range(20)]

    assert waits[:5] == [0, 0, 120, 240, 480]
    assert waits == sorted(waits)
    assert max(waits) == 3600
    assert sum(waits) > 8 * 3600


@pytest.mark.parametrize(("text", "failures"), [("3", 3), ("", 0), ("many", 0), (None, 0)])
def test_failures_come_from_the_pod(text: str | None, failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is None:
        monkeypatch.delenv(FAILURES_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(FAILURES_VARIABLE, text)

    assert index_failures() == failures


def refused_until(clock: JumpingClock, end_s: float) -> str:
    clock.sleep(60)  # what a call takes to give up
    if clock.now_s < end_s:
        raise CredentialsRefusedError("InvalidAccessKeyId")
    return "annotated"


def test_a_later_try_goes_on_when_the_secret_is_right() -> None:
    clock, beats = JumpingClock(), []

    found = call_with_patience(lambda: refused_until(clock, 200), 3, lambda: beats.append(clock.now_s), clock)

    assert found == "annotated"
    assert max(later - earlier for earlier, later in zip([0, *beats], beats, strict=False)) <= 65


@pytest.mark.parametrize(("failures", "longest_s"), [(0, 61), (1, 61), (2, 200)])
def test_patience_ends(failures: int, longest_s: float) -> None:
    clock = JumpingClock()

    with pytest.raises(CredentialsRefusedError):
        call_with_patience(lambda: refused_until(clock, 1e9), failures, lambda: None, clock)
    assert clock.now_s <= longest_s


def test_other_errors_are_not_waited_for() -> None:
    def unreachable() -> str:
        raise StorageError("no route to host")

    clock = JumpingClock()
    with pytest.raises(StorageError):
        call_with_patience(unreachable, 5, lambda: None, clock)
    assert clock.waits == []
