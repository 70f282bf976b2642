"""Device "meta" lays arrays out as NumPy does: strides, and what is a view, for arrays of every order of axes."""

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from pullback.backends import backend_for

SHAPES = [(2, 3, 2), (2, 1, 3)]
MATRICES = [(2, 2, 2), (2, 3, 3)]


def layouts(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Arrays of ones of every order of axes, axes forwards, backwards or broadcast."""
    for order in permutations(range(len(shape))):
        for steps in [*product((1, 0), repeat=len(shape)), (-1, 1, -1)]:
            base = np.eye(max(shape), dtype="float32")[: shape[order[-2]], : shape[order[-1]]] + np.ones(
                [shape[axis] for axis in order], "float32"
            )
            turned = base.transpose(np.argsort(order))
            yield np.broadcast_to(turned[tuple([slice(None, None, s) if s else slice(0, 1) for s in steps])], shape)


def layout(x: Any) -> Any:
    """The shape, the strides of axes that have several numbers, and whether it is a view."""
    ghost = getattr(x, "ghost", x)
    return ghost.shape, [s for n, s in zip(ghost.shape, ghost.strides, strict=True) if n > 1], x.base is None


Z, Y, F = np.array([0, 1, 0]), np.array([[0, 1], [1, 0]]), np.zeros((2, 3), int).T
INDICES: list[Any] = [
    Z, Y, F, (slice(None), Z % 1), (..., Z), (Z, Z % 1), (Z, slice(None), Z), (0, slice(None), Z),
    (None, slice(None), Z % 1), (slice(None), Y % 1), (..., Z % 1, Z), np.array([True, False]), (..., None, Z),
    (slice(None), 0, Z), (slice(None, None, -1), Z % 1, slice(0, 1)), (..., 0), (0, 0, slice(None)), (None, 1, ...),
]  # fmt: skip
ONE: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda xp, x: xp.exp(x),
    "product": lambda xp, x: x * x[0],
    "where": lambda xp, x: xp.where(x > 0, x, 0.0),
    "astype": lambda xp, x: xp.astype(x, np.dtype("float64")),
    "copy": lambda xp, x: xp.asarray(x, copy=True),
    "zeros_like": lambda xp, x: xp.zeros_like(x),
    "roll": lambda xp, x: xp.roll(x, 1, axis=0),
    "roll of all": lambda xp, x: xp.roll(x, 1),
    "repeat": lambda xp, x: xp.repeat(x, 2, axis=1),
    "tile": lambda xp, x: xp.tile(x, (2, 1)),
    "tile once": lambda xp, x: xp.tile(x, (1, 1, 1, 1)),
    "tril": lambda xp, x: xp.tril(x),
    "take": lambda xp, x: xp.take(x, xp.asarray([0, 1]), axis=-1),
    "reshape": lambda xp, x: xp.reshape(x, (-1,)),
    "reshape of two axes": lambda xp, x: xp.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])),
    "concat": lambda xp, x: xp.concat([x, x], axis=1),
    "concat of turned": lambda xp, x: xp.concat([x, xp.flip(xp.asarray(x, copy=True), axis=0)], axis=2),
    "stack": lambda xp, x: xp.stack([x, x], axis=1),
    "stacks of matrices": lambda xp, x: xp.matmul(x, x.mT),
    "vecdot": lambda xp, x: xp.vecdot(x, x, axis=0),
}
FUNCTIONS = ONE | {f"index {i}": (lambda xp, x, i=i: x[i]) for i in INDICES}
FUNCTIONS |= {
    f"{name} over {axis}{' kept' if kept else ''}": (
        lambda xp, x, name=name, axis=axis, kept=kept: getattr(xp, name)(x, axis=axis, keepdims=kept)
    )
    for name in ("sum", "max", "mean", "any")
    for axis in (0, 1, 2, (0, 1), (0, 2), (1, 2))
    for kept in (False, True)
}
FUNCTIONS |= {
    f"{name} along {axis}": (lambda xp, x, name=name, axis=axis: getattr(xp, name)(x, axis=axis))
    for name in ("sort", "argsort", "argmax", "cumulative_sum")
    for axis in (0, 1, 2)
}
FUNCTIONS["cumulative_sum from 0"] = lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_is_laid_out_as_by_numpy(name: str):
    f, meta = FUNCTIONS[name], backend_for("meta")
    for shape in SHAPES:
        for x in layouts(shape):
            assert layout(f(meta.xp, meta.asarray(x))) == layout(np.asanyarray(f(np, x))), (x.shape, x.strides)


@pytest.mark.parametrize("name", ["inv", "cholesky", "svd", "qr", "eigh", "det", "slogdet", "solve"])
def test_a_decomposition_is_laid_out_as_by_numpy(name: str):
    meta = backend_for("meta")
    for shape in MATRICES:
        for layout_of_x in layouts(shape):
            x = np.empty_like(layout_of_x)  # regular numbers in the same order of axes
            x[...] = np.eye(shape[-1]) * 2
            arguments = (x, x) if name == "solve" else (x,)
            found = getattr(meta.xp.linalg, name)(*map(meta.asarray, arguments))
            expected = getattr(np.linalg, name)(*arguments)
            pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (found, expected)), strict=True)
            assert all(layout(a)[:2] == layout(b)[:2] for a, b in pairs), x.strides
