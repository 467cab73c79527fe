"""The pool: memory comes back, is lent again, and waiting ends."""

import threading

import pytest

from forge.tensors.buffers import Pool

MIB = 1 << 20


@pytest.fixture
def pool():
    return Pool(block=MIB, limit=4 * MIB)


def returned(pool, memory):
    pool.expect(memory)
    pool.give_back(memory)


def test_what_comes_back_is_lent_again(pool):
    memory = pool.lend(MIB)
    returned(pool, memory)

    assert pool.lend(100) is memory


def test_what_is_larger_than_a_block_is_not_kept(pool):
    memory = pool.lend(2 * MIB)
    assert memory.nbytes == 2 * MIB
    returned(pool, memory)

    assert pool.lend(MIB).nbytes == MIB


def test_what_is_kept_stays_within_the_limit(pool):
    blocks = [pool.lend(MIB) for _ in range(10)]
    for block in blocks:
        returned(pool, block)

    assert len(pool._free) == 4


def test_lending_waits_for_room(pool):
    """It goes on as soon as enough came back, not before."""
    first = pool.lend(3 * MIB)
    pool.expect(first)
    lent = []
    waiting = threading.Thread(target=lambda: lent.append(pool.lend(2 * MIB)))
    waiting.start()
    waiting.join(timeout=0.05)
    assert not lent

    pool.give_back(first)
    waiting.join()
    assert lent[0].nbytes >= 2 * MIB


def test_what_nothing_can_make_room_for_passes_the_limit(pool):
    """A group that is larger than the limit, and members of a group that is still incomplete."""
    assert pool.lend(8 * MIB).nbytes == 8 * MIB
    assert pool.lend(MIB).nbytes == MIB
