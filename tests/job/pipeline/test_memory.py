from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.pipeline.memory import ByteBudget, ResidentBudget

PATIENCE_S = 10


def started(target: threading.Thread) -> threading.Thread:
    target.start()
    return target


@pytest.mark.parametrize(
    ("held", "asked", "fits"),
    [
        pytest.param([], 100, True, id="the whole limit"),
        pytest.param([], 1000, True, id="more than the limit, alone"),
        pytest.param([60], 40, True, id="up to the limit"),
        pytest.param([60], 41, False, id="a byte too many"),
        pytest.param([1], 1000, False, id="more than the limit, not alone"),
        pytest.param([1000], 1, False, id="beside one that is more than the limit"),
        pytest.param([100], 0, True, id="nothing"),
    ],
)
def test_bytes_are_held_when_they_fit_or_are_alone(held: list[int], asked: int, fits: bool) -> None:
    budget = ByteBudget(100)
    for size in held:
        assert budget.try_acquire(size)
    assert budget.try_acquire(asked) is fits


@given(st.lists(st.integers(1, 150), max_size=30))
def test_limit_holds_and_all_bytes_are_released(sizes: list[int]) -> None:
    budget, held = ByteBudget(100), list[int]()
    for size in sizes:
        if budget.try_acquire(size):
            held.append(size)
        else:
            assert held
            budget.release(held.pop(0))
        assert sum(held) <= 100 or len(held) == 1
    for size in held:
        budget.release(size)
    assert budget.try_acquire(100)
    assert not budget.try_acquire(1)


def test_a_refused_request_holds_nothing() -> None:
    budget = ByteBudget(100)
    assert budget.try_acquire(90)
    assert not budget.try_acquire(20)
    assert budget.try_acquire(10)


def test_negative_size_holds_more_without_waiting() -> None:
    budget = ByteBudget(100)
    assert budget.try_acquire(90)
    budget.release(-50)
    assert not budget.try_acquire(1)
    budget.release(140)
    assert budget.try_acquire(100)


def test_a_block_waits_for_room() -> None:
    budget, inside = ByteBudget(100), threading.Event()

    def work() -> None:
        with budget.hold(50):
            inside.set()

    assert budget.try_acquire(60)
    worker = started(threading.Thread(target=work))
    assert not inside.wait(0.05)
    budget.release(60)
    assert inside.wait(PATIENCE_S)
    worker.join(PATIENCE_S)
    assert budget.try_acquire(100)


def test_block_releases_bytes_when_it_fails() -> None:
    budget = ByteBudget(100)
    with pytest.raises(RuntimeError, match="broken"), budget.hold(100):
        raise RuntimeError("broken")
    assert budget.try_acquire(100)


def test_many_threads_never_hold_more_than_the_limit() -> None:
    budget, lock, held, most = ByteBudget(100), threading.Lock(), [0], [0]

    def work(size: int) -> None:
        for _ in range(40):
            with budget.hold(size):
                with lock:
                    held[0] += size
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= size

    workers = [started(threading.Thread(target=work, args=(size,))) for size in (20, 30, 40, 50, 70, 100)]
    for worker in workers:
        worker.join(PATIENCE_S)
    assert not any(worker.is_alive() for worker in workers)
    assert held == [0]
    assert 0 < most[0] <= 100


def test_request_larger_than_the_limit_is_admitted_among_small_ones() -> None:
    budget, done = ByteBudget(10), list[int]()

    def work(size: int) -> None:
        for _ in range(20):
            with budget.hold(size):
                done.append(size)

    workers = [started(threading.Thread(target=work, args=(size,))) for size in (5, 5, 25)]
    for worker in workers:
        worker.join(PATIENCE_S)
    assert sorted(done) == [5] * 40 + [25] * 20


def test_images_are_admitted_by_the_size_of_the_largest_so_far() -> None:
    room = ResidentBudget(limit_bytes=1000, fixed_bytes=100)
    first = room.try_admit()
    assert first == 100
    room.record_file(300)
    room.record_file(200)
    assert room.try_admit() == 400
    assert room.try_admit() == 400
    assert room.try_admit() is None
    room.release(first)
    room.release(400)
    assert room.try_admit() == 400


def test_one_image_is_admitted_however_large() -> None:
    room = ResidentBudget(limit_bytes=1000, fixed_bytes=100)
    room.record_file(10_000)
    assert room.try_admit() == 10_100
    assert room.try_admit() is None
    room.release(10_100)
    assert room.try_admit() == 10_100
