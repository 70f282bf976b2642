"""The optimizers' updates on NumPy: the formulas of `Backend.update_sgd` and `Backend.update_adam`, chunk by chunk.

A pass over memory costs as much as the arithmetic in it. A textbook Adam makes sixteen passes over arrays that fit no
cache and allocates in most of them. Here each array is read and written once, in chunks that stay in the cache, and
every result goes into a buffer that is there already.
"""

from collections.abc import Callable, Sequence
from contextvars import Context
from threading import local
from typing import Any

import numpy as np

__all__ = ["update_adam", "update_sgd"]

CHUNK = 1 << 17  # numbers: five arrays of them in float32 are 2.6 MB
_scratch = local()  # ufuncs let other threads run, so each thread has buffers of its own


def update_sgd(rows: Sequence[Sequence[Any]], skip: Any = None, **options: Any) -> None:
    """See `Backend.update_sgd`."""
    if not skip:
        _quietly(_in_chunks, _descend, rows, options)


def update_adam(rows: Sequence[Sequence[Any]], skip: Any = None, **options: Any) -> None:
    """See `Backend.update_adam`."""
    if not skip:
        _quietly(_in_chunks, _adapt, rows, options)


def _quietly(f: Callable[..., None], *args: Any) -> None:
    """`f(*args)` in a context where NumPy reports no floating-point exceptions.

    It is made once for each thread: `np.errstate` takes a tenth of a step of a small net.
    """
    try:
        context = _scratch.context
    except AttributeError:
        context = _scratch.context = Context()
        context.run(np.seterr, all="ignore")
    context.run(f, *args)


def _descend(
    w: Any, g: Any, velocity: Any, t: Any, u: Any, _: Any,
    rate: float, momentum: float, dampening: float, nesterov: bool, decay: float,
) -> None:  # fmt: skip
    if decay:
        np.multiply(w, decay, u)
        u += g
        g = u
    if velocity is not None:
        velocity *= momentum
        if dampening:
            np.multiply(g, 1.0 - dampening, t)
            velocity += t
        else:
            velocity += g
        if nesterov:
            np.multiply(velocity, momentum, t)
            t += g
            g = t
        else:
            g = velocity
    np.multiply(g, rate, t)
    w -= t


def _adapt(
    w: Any, g: Any, m: Any, v: Any, t: Any, u: Any, numbers: Sequence[Any],
    rate: float, betas: tuple[float, float], eps: float, decay: float, shrink: float,
) -> None:  # fmt: skip
    beta1, beta2, epsilon, scale = numbers
    beta1[()], beta2[()], epsilon[()], scale[()] = *betas, eps, rate
    if decay:
        np.multiply(w, decay, u)
        u += g
        g = u
    if shrink != 1.0:
        w *= shrink
    m *= beta1
    m += g
    v *= beta2
    np.multiply(g, g, t)
    v += t
    np.sqrt(v, t)
    t += epsilon
    np.divide(m, t, t)
    t *= scale
    w -= t


def _in_chunks(update: Callable[..., None], rows: Sequence[Sequence[Any]], options: dict[str, Any]) -> None:
    """Call `update` on pieces of each row, with two scratch buffers as long as the piece, and scratch numbers."""
    for p, *arrays, master in rows:
        w = p
        if master is not None:
            w, arrays[0] = master, arrays[0].astype(master.dtype)
        t, u, numbers = _scratch_of(w.dtype)
        size = w.size
        if size <= CHUNK:
            update(w, *arrays, t[:size], u[:size], numbers, **options)
        else:
            for start in range(0, size, CHUNK):
                part, count = slice(start, start + CHUNK), min(CHUNK, size - start)
                pieces = [a if a is None else a[part] for a in (w, *arrays)]
                update(*pieces, t[:count], u[:count], numbers, **options)
        if master is not None:
            p[...] = master


def _scratch_of(dtype: Any) -> Any:
    """Two buffers, and arrays of no dimension: a product with one takes two thirds of that with a Python number."""
    try:
        return _scratch.__dict__[dtype]
    except KeyError:
        numbers = [np.empty((), dtype) for _ in range(4)]
        return _scratch.__dict__.setdefault(dtype, (np.empty(CHUNK, dtype), np.empty(CHUNK, dtype), numbers))
