"""The pool: memory comes back, is lent again, and waiting ends."""

import threading

import numpy as np
import pytest

from forge.memory import Pool

MIB = 1 << 20


@pytest.fixture
def pool():
    return Pool(limit=4 * MIB)


def test_what_comes_back_is_lent_again(pool):
    memory = pool.lend(2 * MIB)
    pool.expect([memory])
    pool.give_back([memory])

    assert pool.lend(MIB + 1) is memory


def test_memory_is_not_wasted_on_the_small(pool):
    """Nothing gets memory of more than twice its size, but for the smallest."""
    memory = pool.lend(2 * MIB)
    pool.expect([memory])
    pool.give_back([memory])

    assert pool.lend(MIB - 1) is not memory


def test_results_are_views_whose_memory_comes_back(pool):
    codes = pool.allocate(3 * 1024).reshape(3, 1024)
    assert codes.nbytes == 3 * 1024
    owner = codes.base
    pool.give_back([], [codes])

    assert pool.allocate(100).base is owner


def test_a_result_that_came_from_elsewhere_is_left_alone(pool):
    pool.give_back([], [np.zeros((4, 4), dtype=np.uint8)])

    assert pool.allocate(16).base.nbytes > 16


def test_lending_waits_for_room(pool):
    """It goes on as soon as enough came back, not before."""
    first = pool.lend(3 * MIB)
    pool.expect([first])
    lent = []
    waiting = threading.Thread(target=lambda: lent.append(pool.lend(2 * MIB)))
    waiting.start()
    waiting.join(timeout=0.05)
    assert not lent

    pool.give_back([first])
    waiting.join()
    assert lent[0].nbytes >= 2 * MIB


def test_what_nothing_can_make_room_for_passes_the_limit(pool):
    """A group that is larger than the limit, and members of a group that is still incomplete."""
    assert pool.lend(8 * MIB).nbytes == 8 * MIB
    assert pool.lend(MIB).nbytes == MIB


def test_free_memory_makes_room_for_another_size(pool):
    memory = pool.lend(3 * MIB)
    pool.expect([memory])
    pool.give_back([memory])
    pool.lend(MIB + 1)

    assert not pool._free
