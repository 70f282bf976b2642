"""Products and decompositions of matrices, on arrays of many examples."""

from collections.abc import Callable
from math import prod
from types import SimpleNamespace
from typing import Any

from ...shapes import normalize_axis
from .array import BatchedArray, beneath, lowered, of_frame
from .functions import FUNCTIONS as SHAPING
from .functions import aligned, with_examples

__all__ = ["FUNCTIONS", "linalg"]


def _matmul(left: Any, right: Any) -> Any:
    frame, (a, b) = lowered((left, right))
    space = beneath(frame, [a, b])
    batched = a.batched or b.batched
    if not batched or (a.batched and not b.batched and a.ndim == 1 and b.ndim == 2):
        return frame.array(space.matmul(a.data, b.data), batched)
    if a.ndim == 2 and b.ndim == 1 and not a.batched:
        return frame.array(space.matmul(b.data, a.data.mT), True)
    if a.ndim == 2 and b.ndim == 2 and not b.batched:  # one product in place of many
        size, m, k = a.data.shape
        rows = space.matmul(space.reshape(a.data, (size * m, k)), b.data)
        return frame.array(space.reshape(rows, (size, m, b.data.shape[1])), True)
    rows = a if a.ndim > 1 else _with_axis(space, a, -2)
    columns = b if b.ndim > 1 else _with_axis(space, b, -1)
    if rows.shape[-1] == columns.shape[-2] == 1:  # an outer product: broadcast, it is much quicker
        found = space.multiply(*aligned(space, [rows, columns])[0])
    else:
        found = space.matmul(*aligned(space, [rows, columns])[0])
    if a.ndim == 1:
        found = space.squeeze(found, axis=-2)
    return frame.array(space.squeeze(found, axis=-1) if b.ndim == 1 else found, True)


def _with_axis(space: Any, o: BatchedArray, axis: int) -> BatchedArray:
    return o.like(space.expand_dims(o.data, axis=axis))


def _vecdot(left: Any, right: Any, axis: int = -1) -> Any:
    frame, (a, b) = lowered((left, right))
    space = beneath(frame, [a, b])
    back = axis if axis < 0 else axis - max(a.ndim, b.ndim)
    found = space.vecdot(*aligned(space, [a, b])[0], axis=back)
    return frame.array(found, a.batched or b.batched)


def _tensordot(left: Any, right: Any, axes: Any = 2) -> Any:
    """By a product of matrices of the axes that stay and those that are summed over."""
    _, (a, b) = lowered((left, right))
    if isinstance(axes, int):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    ours, theirs = ([normalize_axis(i, o.ndim) for i in chosen] for o, chosen in zip((a, b), axes, strict=True))
    stay = [i for i in range(a.ndim) if i not in ours]
    rest = [i for i in range(b.ndim) if i not in theirs]
    summed = prod(a.shape[i] for i in ours)
    permute, reshape = SHAPING["permute_dims"], SHAPING["reshape"]
    rows = reshape(permute(a, [*stay, *ours]), (prod(a.shape[i] for i in stay), summed))
    columns = reshape(permute(b, [*theirs, *rest]), (summed, prod(b.shape[i] for i in rest)))
    return reshape(_matmul(rows, columns), (*(a.shape[i] for i in stay), *(b.shape[i] for i in rest)))


def _outer(left: Any, right: Any) -> Any:
    expand = SHAPING["expand_dims"]
    return SHAPING["multiply"](expand(left, axis=1), expand(right, axis=0))


def _of_matrices(name: str) -> Callable[..., Any]:
    """A function of the last two axes, whatever stands before them; of several results each has the examples."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        own = of_frame(x)
        found = getattr(own.beneath.linalg, name)(own.data, *args, **kwargs)
        if not isinstance(found, tuple):
            return own.like(found)
        parts: list[Any] = [own.like(part) for part in found]
        return type(found)(*parts) if hasattr(found, "_fields") else tuple(parts)

    return call


def _solve(left: Any, right: Any) -> Any:
    frame, (a, b) = lowered((left, right))
    space = beneath(frame, [a, b])
    if not (a.batched or b.batched):
        return frame.array(space.linalg.solve(a.data, b.data), False)
    column = _with_axis(space, b, -1) if b.ndim == 1 else b
    matrices = [frame.array(with_examples(space, frame, o), True) for o in (a, column)]
    found = space.linalg.solve(*aligned(space, matrices)[0])
    return frame.array(space.squeeze(found, axis=-1) if b.ndim == 1 else found, True)


def _cross(left: Any, right: Any, axis: int = -1) -> Any:
    frame, (a, b) = lowered((left, right))
    space = beneath(frame, [a, b])
    back = axis if axis < 0 else axis - max(a.ndim, b.ndim)
    found = space.linalg.cross(*aligned(space, [a, b])[0], axis=back)
    return frame.array(found, a.batched or b.batched)


linalg = SimpleNamespace(
    cross=_cross, matmul=_matmul, outer=_outer, solve=_solve, tensordot=_tensordot, vecdot=_vecdot,
    **{
        name: _of_matrices(name)
        for name in (
            "cholesky", "det", "diagonal", "eigh", "eigvalsh", "inv", "matrix_rank", "pinv", "qr", "slogdet", "svd",
            "svdvals", "trace",
        )
    },
)  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {"matmul": _matmul, "tensordot": _tensordot, "vecdot": _vecdot}
