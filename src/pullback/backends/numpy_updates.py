"""The optimizers' updates on NumPy: the formulas of `Backend.update_sgd` and `Backend.update_adam`, chunk by chunk.

A pass over memory costs as much as the arithmetic in it. A textbook Adam makes sixteen passes over arrays that fit no
cache and allocates in most of them. Here each array is read and written once, in chunks that stay in the cache, and
every result goes into a buffer that is there already.
"""

from collections.abc import Iterator
from threading import local
from typing import Any

import numpy as np

__all__ = ["update_adam", "update_sgd"]

CHUNK = 1 << 17  # numbers: five arrays of them in float32 are 2.6 MB
_scratch = local()  # ufuncs let other threads run, so each thread has buffers of its own


def update_sgd(
    p: Any, g: Any, velocity: Any, *, rate: float, momentum: float, dampening: float, nesterov: bool, decay: float
) -> None:
    """See `Backend.update_sgd`."""
    for w, d, s, t, u in _chunks(p, g, p if velocity is None else velocity):
        if decay:
            np.multiply(w, decay, u)
            u += d
            d = u
        if velocity is not None:
            s *= momentum
            if dampening:
                np.multiply(d, 1.0 - dampening, t)
                s += t
            else:
                s += d
            if nesterov:
                np.multiply(s, momentum, t)
                t += d
                d = t
            else:
                d = s
        np.multiply(d, rate, t)
        w -= t


def update_adam(
    p: Any, g: Any, m: Any, v: Any, *, rate: float, betas: tuple[float, float], eps: float, decay: float, shrink: float
) -> None:
    """See `Backend.update_adam`."""
    beta1, beta2 = betas
    for w, d, first, second, t, u in _chunks(p, g, m, v):
        if decay:
            np.multiply(w, decay, u)
            u += d
            d = u
        if shrink != 1.0:
            w *= shrink
        first *= beta1
        first += d
        second *= beta2
        np.multiply(d, d, t)
        second += t
        np.sqrt(second, t)
        t += eps
        np.divide(first, t, t)
        t *= rate
        w -= t


def _chunks(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Pieces of flat arrays of one length and dtype, with two scratch buffers as long as each piece."""
    size, dtype = arrays[0].size, arrays[0].dtype
    buffers = _scratch.__dict__.get(dtype.char)
    if buffers is None:
        buffers = _scratch.__dict__[dtype.char] = np.empty(CHUNK, dtype), np.empty(CHUNK, dtype)
    t, u = buffers
    if size <= CHUNK:
        yield *arrays, t[:size], u[:size]
        return
    for start in range(0, size, CHUNK):
        part = slice(start, start + CHUNK)
        count = min(CHUNK, size - start)
        yield *(a[part] for a in arrays), t[:count], u[:count]
