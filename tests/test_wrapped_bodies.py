"""While someone measures, every body is the wrapped one, and before and after none is, whatever other threads do."""

from contextlib import ExitStack

import numpy as np
import pytest

import pullback as pb
from pullback.core.op import ARRAYS, OPS, wrapped_bodies


@pytest.mark.parametrize("on_arrays", [False, True], ids=["by its door", "by a rule"])
@pytest.mark.parametrize("begins", [True, False], ids=["begins", "ends"])
def test_a_body_that_is_bound_while_another_thread_begins_or_ends_is_not_kept(monkeypatch, begins, on_arrays):
    op, plain, x = OPS["tanh"], OPS["tanh"].body_on, np.ones(3)
    runs, waiting = [], []

    def wrap(wrapped, backend, run):
        return lambda *args: (runs.append(wrapped.name), run(*args))[1]

    def interrupted(*args):
        body = plain(*args)
        if waiting:
            waiting.pop()()  # what another thread does before this one has stored the body
        return body

    call = (lambda: ARRAYS[np.ndarray].tanh(x)) if on_arrays else (lambda: pb.tanh(x))
    monkeypatch.setattr(op, "body_on", interrupted)
    with ExitStack() as stack:
        if begins:
            op.bodies.clear()
            vars(ARRAYS[np.ndarray]).pop("tanh", None)
            waiting.append(lambda: stack.enter_context(wrapped_bodies(wrap)))
        else:
            stack.enter_context(wrapped_bodies(wrap))
            waiting.append(stack.close)
        call()
        runs.clear()
        call()
        assert len(runs) == begins
