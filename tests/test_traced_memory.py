"""The instrument of the tests of memory."""

from threading import Thread

import numpy as np
from traced_memory import traced_memory


def test_peak_and_what_is_left_are_those_of_arrays():
    def run():
        np.ones(1_000_000, "u1")
        return np.ones(300_000, "u1")

    found, peak, left = traced_memory(run)
    assert found.nbytes == 300_000
    assert 1_000_000 <= peak < 1_002_000
    assert 300_000 <= left < 302_000


def test_what_another_thread_allocates_in_one_run_is_not_counted():
    others, kept = [Thread(target=lambda: kept.append(np.ones(1_000_000, "u1")))], []

    def run():
        while others:
            other = others.pop()
            other.start()
            other.join()
        return np.ones(300_000, "u1")

    _, peak, left = traced_memory(run)
    assert kept
    assert 300_000 <= left <= peak < 302_000
