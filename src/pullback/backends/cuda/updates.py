"""Steps of optimizers: `kernels/optimizers.cu`, one launch for all parameters of a dtype."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ...errors import DtypeError
from .launching import THREADS, ctype, kernel
from .pieces import by_dtype, pieces_of
from .rows import FLOATS, wide

__all__ = ["expressions", "update_adam", "update_sgd"]

FILE = "optimizers.cu"
Plain = Callable[..., None]
_parameter = itemgetter(0)


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name in FLOATS:
        for template in ("descent", "momentum", "adam"):
            yield FILE, _instance(template, np.dtype(name))


def update_sgd(
    plain: Plain, rows: Sequence[tuple[Any, Any, Any, Any]], *,
    rate: float, momentum: float, dampening: float, nesterov: bool, decay: float,
    varying: Any = None, skip: Any = None,
) -> None:  # fmt: skip
    """`Backend.update_sgd`, by a launch for each dtype of parameters.

    Args:
        plain: Updates the rows that no kernel takes: `plain(rows, rate=..., ...)`.
        rows: (p, g, velocity, master) of one size. State is in float32 beside parameters of 16 bits.
        varying: In device memory, float64: the numbers in place of `rate` and `1 - dampening`. For captured graphs.
        skip: In device memory, int32: where it is not 0 nothing changes.

    Raises:
        DtypeError: `varying` or `skip` is of another dtype, or is given where a kernel does not take all rows. It takes
            contiguous arrays of float64, float32, float16 and bfloat16.
    """
    options = {"rate": rate, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "decay": decay}
    ready = _taken(plain, rows, options, varying, skip)
    still = [(p, g, None, None, master) for p, g, velocity, master in ready if velocity is None]
    moving = [(p, g, velocity, None, master) for p, g, velocity, master in ready if velocity is not None]
    for dtype, members in by_dtype(still, _parameter).items():
        _launch("descent", dtype, members, *map(wide(dtype), (rate, decay)), varying, skip)
    for dtype, members in by_dtype(moving, _parameter).items():
        settings = map(wide(dtype), (rate, decay, momentum, 1.0 - dampening))
        _launch("momentum", dtype, members, *settings, np.int32(nesterov), varying, skip)


def update_adam(
    plain: Plain, rows: Sequence[tuple[Any, Any, Any, Any, Any]], *,
    rate: float, betas: tuple[float, float], eps: float, decay: float, shrink: float,
    varying: Any = None, skip: Any = None,
) -> None:  # fmt: skip
    """`Backend.update_adam`, by a launch for each dtype of parameters. Rows are (p, g, m, v, master).

    `varying` holds the numbers in place of `rate`, `eps` and `shrink`. All else is as in `update_sgd`.
    """
    options = {"rate": rate, "betas": betas, "eps": eps, "decay": decay, "shrink": shrink}
    for dtype, members in by_dtype(_taken(plain, rows, options, varying, skip), _parameter).items():
        settings = map(wide(dtype), (rate, *betas, eps, decay, shrink))
        _launch("adam", dtype, members, *settings, varying, skip)


def _instance(template: str, dtype: np.dtype) -> str:
    return f"pullback::{template}<{ctype(dtype)}>"


def _launch(template: str, dtype: np.dtype, members: Sequence[tuple[Any, ...]], *settings: Any) -> None:
    pieces = pieces_of(members)
    kernel(FILE, _instance(template, dtype))(pieces.blocks, THREADS, *pieces.arguments(), *settings)


def _taken(plain: Plain, rows: Sequence[Any], options: dict[str, Any], varying: Any, skip: Any) -> list[Any]:
    """The rows that a kernel takes; `plain` has updated the others."""
    for name, array, dtype in (("varying", varying, np.float64), ("skip", skip, np.int32)):
        if array is not None and array.dtype != dtype:
            raise DtypeError(f"{name} is read as {np.dtype(dtype)}; got an array of {array.dtype}")
    fits = [_fits(*row) for row in rows]
    rest = [row for row, fit in zip(rows, fits, strict=True) if not fit]
    if rest:
        if varying is not None or skip is not None:
            raise DtypeError(
                "a step that reads device memory takes contiguous arrays of float64, float32, float16 or bfloat16 "
                f"only; got a parameter of {rest[0][0].dtype} with a gradient of {rest[0][1].dtype}"
            )
        plain(rest, **options)
    return [row for row, fit in zip(rows, fits, strict=True) if fit]


def _fits(parameter: Any, gradient: Any, *state: Any) -> bool:
    dtype, size = parameter.dtype, parameter.size
    if dtype.name not in FLOATS or gradient.dtype != dtype:
        return False
    real, present = wide(dtype), [array for array in state if array is not None]
    if state[-1] is not None and real == dtype:  # a kernel knows master weights of 16-bit parameters only
        return False
    return all(array.dtype == real for array in present) and all(
        array.size == size and array.flags.c_contiguous for array in (parameter, gradient, *present)
    )
