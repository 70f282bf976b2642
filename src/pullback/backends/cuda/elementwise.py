"""Elementwise ops, slopes of activations and casts: one launch each."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from inspect import signature
from math import inf
from typing import Any

import cupy
import numpy as np

from ..registry import canonical_dtype
from .fused import FUSED, fused
from .launching import THREADS, Kernel, blocks_for, ctype, kernel
from .rows import FLOATS, gapless, taken, wide
from .scalars import Scalar, activations, scalars

__all__ = ["Call", "astype", "expressions", "rounded"]

FILE = "elementwise.cu"
_ABSENT = {"min": -inf, "max": inf}  # bounds that are None


class Call:
    """A function of `scalar.cuh` as an op's body sees it: first its arrays, then what chooses or counts."""

    def __init__(self, scalar: Scalar, function: str) -> None:
        self.scalar, self.function = scalar, function
        self.arrays, self.numbers = len(scalar.arrays(function)), len(scalar.parameters(function))

    def read(
        self, plain: Callable[..., Any], dtype: np.dtype, given: Sequence[Any], named: dict[str, Any]
    ) -> tuple[str, list[Any]] | None:
        """The functor and the numbers that an op's parameters name; None where the kernel does not take them."""
        names, defaults = _parameters(plain, self.arrays)
        if not names and not given and not named:
            return self.scalar.functor(self.function), []
        if len(given) > len(names) or not named.keys() <= set(names[len(given) :]):
            return None  # the body says what is wrong
        values = defaults | dict(zip(names, given, strict=False)) | named
        scalar, numbers = self.scalar, []
        for name in names:
            value = values[name]
            if isinstance(value, str):
                chosen = scalar.name if value == "none" else f"{scalar.name}_by_{value}"
                if chosen not in scalars():
                    return None
                scalar = scalars()[chosen]
            else:
                numbers.append(rounded(_ABSENT.get(name) if value is None else value, dtype))
        if len(numbers) != self.numbers or any(number is None for number in numbers):
            return None
        return scalar.functor(self.function), numbers


def rounded(value: Any, dtype: np.dtype) -> Any:
    """A Python number as one of `dtype`, which it is beside such an array, in the type that kernels compute in.

    None for anything else.
    """
    if value.__class__ is not float and value.__class__ is not int:
        return None
    try:
        with np.errstate(over="ignore"):
            return wide(dtype)(dtype.type(float(value)))
    except OverflowError:  # an int beyond all floats
        return None


@cache
def _parameters(plain: Callable[..., Any], arrays: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names and defaults of a body's arguments after its arrays."""
    rest = list(signature(plain).parameters.values())[arrays:]
    return tuple(a.name for a in rest), {a.name: a.default for a in rest}


@lru_cache(maxsize=1024)
def _is_valid(plain: Callable[..., Any], dtype: np.dtype, given: tuple[Any, ...], named: tuple[Any, ...]) -> bool:
    """True, or the error of the body about its parameters: it is asked once, on no numbers."""
    plain(cupy.empty(0, dtype), *given, **dict(named))
    return True


@cache
def instance(template: str, functor: str, dtype: np.dtype, arrays: int, numbers: int) -> Kernel:
    """`map` of a functor over some arrays and numbers, or `binary`."""
    stored = ctype(dtype)
    operands = [f"const {stored}*"] * arrays + [ctype(np.dtype(wide(dtype)))] * numbers
    types = [functor, stored, *(operands if template == "map" else ())]
    return kernel(FILE, f"pullback::{template}<{', '.join(types)}>")


def _mapped(functor: str, arrays: Sequence[Any], numbers: Sequence[Any]) -> Any:
    """An array like the first: the functor over arrays of one shape and numbers."""
    x = arrays[0]
    out = cupy.empty(x.shape, x.dtype)
    blocks = blocks_for(-(-x.size // FLOATS[x.dtype.name]))
    launch = instance("map", functor, x.dtype, len(arrays), len(numbers))
    launch(blocks, THREADS, out, np.int64(x.size), *arrays, *numbers)
    return out


def _fuse_unary(scalar: Scalar) -> None:
    call = Call(scalar, "value")
    checks = bool(call.numbers) and not set(scalar.parameters("value")) <= _ABSENT.keys()

    def value(plain: Callable[..., Any], x: Any, *given: Any, **named: Any) -> Any:
        read = call.read(plain, x.dtype, given, named) if taken(x) else None
        if read is None or (checks and not _is_valid(plain, x.dtype, given, tuple(named.items()))):
            return plain(x, *given, **named)
        return _mapped(read[0], (x,), read[1])

    FUSED[scalar.name] = value


def _fuse_slope(scalar: Scalar) -> None:
    call = Call(scalar, "slope")

    def slope(plain: Callable[..., Any], g: Any, kept: Any, *given: Any, **named: Any) -> Any:
        g = gapless(g, kept)
        fits = taken(g, kept) and g.shape == kept.shape
        read = call.read(plain, g.dtype, given, named) if fits else None
        if read is None:
            return plain(g, kept, *given, **named)
        return _mapped(read[0], (g, kept), read[1])

    FUSED[f"{scalar.name}_slope"] = slope


# --- two arrays -------------------------------------------------------------------------------------------------------


def _folded(shape: tuple[int, ...], x: Any, y: Any) -> tuple[int, int, list[tuple[int, int]]] | None:
    """The broadcast of two arrays as one of matrices: rows, columns, and the strides of each; None if it takes more."""
    size, steps = x.dtype.itemsize, []
    for array in (x, y):
        missing = len(shape) - array.ndim
        pairs = zip(array.shape, array.strides, strict=True)
        steps.append([0] * missing + [0 if n == 1 else stride // size for n, stride in pairs])
    axes: list[tuple[int, int, int]] = []
    for n, a, b in zip(shape, *steps, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == a * n and axes[-1][2] == b * n:
            n *= axes.pop()[0]
        axes.append((n, a, b))
    if len(axes) > 2:
        return None
    (rows, *row), (columns, *column) = [(1, 0, 0)] * (2 - len(axes)) + axes
    return rows, columns, list(zip(row, column, strict=True))


def _fuse_binary(scalar: Scalar) -> None:
    functor = scalar.functor("value")

    def value(plain: Callable[..., Any], x: Any, y: Any) -> Any:
        if taken(x, y):
            array, number, operands = x, wide(x.dtype)(0), (x, y)
        elif taken(x):
            array, number, operands = x, rounded(y, x.dtype), (x, None)
        elif taken(y):
            array, number, operands = y, rounded(x, y.dtype), (None, y)
        else:
            return plain(x, y)
        if number is None:
            return plain(x, y)
        shape: tuple[int, ...] = array.shape
        folded: Any = (1, array.size, [(array.size, 1)] * 2)
        if operands[0] is x and operands[1] is y and x.shape != y.shape:
            try:
                shape = np.broadcast_shapes(x.shape, y.shape)
            except ValueError:
                return plain(x, y)
            folded = None if 0 in shape else _folded(shape, x, y)
            if folded is None:
                return plain(x, y)
        rows, columns, strides = folded
        out = cupy.empty(shape, array.dtype)
        arguments: list[Any] = []
        for operand, (row, column) in zip(operands, strides, strict=True):
            arguments += operand, np.int64(row), np.int64(column)
        blocks = blocks_for(-(-out.size // FLOATS[array.dtype.name]))
        launch = instance("binary", functor, array.dtype, 2, 0)
        launch(blocks, THREADS, out, np.int64(rows), np.int64(columns), *arguments, number)
        return out

    FUSED[scalar.name] = value


# --- casts ------------------------------------------------------------------------------------------------------------


@cache
def _cast(source: np.dtype, target: np.dtype) -> Kernel:
    return kernel(FILE, f"pullback::cast<{ctype(source)}, {ctype(target)}>")


@fused
def astype(plain: Callable[..., Any], x: Any, dtype: Any, *, copy: bool = True) -> Any:
    """The op `astype`, between types of floating point."""
    target = canonical_dtype(dtype)
    if not taken(x) or target.name not in FLOATS or target == x.dtype:
        return plain(x, dtype, copy=copy)
    out = cupy.empty(x.shape, target)
    blocks = blocks_for(-(-x.size // min(FLOATS[x.dtype.name], FLOATS[target.name])))
    _cast(x.dtype, target)(blocks, THREADS, out, np.int64(x.size), x)
    return out


# --- the table --------------------------------------------------------------------------------------------------------


for _scalar in scalars().values():
    if "y" in _scalar.functions["value"]:
        _fuse_binary(_scalar)
    elif not _scalar.is_variant:
        _fuse_unary(_scalar)
for _scalar in activations():
    if not _scalar.is_variant:
        _fuse_slope(_scalar)


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for dtype in map(np.dtype, FLOATS):
        for scalar in scalars().values():
            template = "binary" if "y" in scalar.functions["value"] else "map"
            numbers = len(scalar.parameters("value"))
            yield FILE, instance(template, scalar.functor("value"), dtype, 1, numbers).expression
        for scalar in activations():
            numbers = len(scalar.parameters("slope"))
            yield FILE, instance("map", scalar.functor("slope"), dtype, 2, numbers).expression
        yield from ((FILE, _cast(dtype, target).expression) for target in map(np.dtype, FLOATS) if target != dtype)
