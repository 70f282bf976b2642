"""The backend of the device "meta": arrays without numbers, on which every op runs and nothing is computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from inspect import Parameter, signature
from types import CodeType, MethodType, SimpleNamespace
from typing import Any, cast

import numpy as np

from ...errors import DeviceError, RuleError
from ..base import Backend, Namespace, isdtype
from ..native import CONSTANTS
from . import elementwise, products, shaping
from .array import MetaArray, fresh, work
from .metering import current_meter

__all__ = ["MetaBackend"]

FUNCTIONS = elementwise.FUNCTIONS | shaping.FUNCTIONS | products.FUNCTIONS
MetaArray.call = staticmethod(lambda name, *args: FUNCTIONS[name](*args))


def _moved(plain: Callable[..., Any], x: Any, device: str, source: str) -> Any:
    """A copy of `x`. Where someone meters, it stands for an array of any device; else there are no numbers to move."""
    return FUNCTIONS["asarray"](x, copy=True) if current_meter() is not None else plain(x, device, source)


def _mask(plain: Callable[..., Any], x: Any, rate: float, key: int, step: int) -> Any:
    """A mask is drawn in one go without floating-point operations; the body looks at the arguments."""
    plain(fresh((0,), x.dtype), rate, key, step)
    return work("dropout_mask", fresh(x.shape, x.dtype), [])


def _dropout(plain: Callable[..., Any], x: Any, rate: float, key: int, step: int) -> Any:
    mask = _mask(plain, x, rate, key, step)
    return x * mask, mask


_OWN: dict[str, Callable[..., Any]] = {"to_device": _moved, "dropout_mask": _mask, "keyed_dropout": _dropout}


@contextmanager
def _entered(name: str) -> Iterator[None]:
    meter = current_meter()
    if meter is None:
        yield
        return
    meter.enter(name)
    try:
        yield
    finally:
        meter.leave()


@lru_cache(maxsize=512)
def _compiled(source: str) -> CodeType:
    """Bodies are bound anew whenever someone measures; few have parameters of other names than all before."""
    return compile(source, "<the call of an op on meta>", "exec")


def _entering(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The body `plain`, with what it does counted as the op's.

    Nobody but the body holds its arguments while it runs: what it lets go of is released then, as in a bare call. A
    function of `*args` would hold them to its end, so one of the very parameters is written.
    """
    body: Any = plain.__func__  # type: ignore[attr-defined]
    parameters = list(signature(plain).parameters.values())
    if any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):  # a body of `*arrays` holds them itself
        return _entered(name)(plain)
    names = [p.name for p in parameters]
    named = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    positional = names[: len(names) - len(named)]
    taken = ", ".join(["take()"] * len(positional) + [f"{n}=take()" for n in named])
    source = f"""def run({", ".join([*positional, *(["*"] if named else []), *named])}):
        take = [{", ".join(reversed(names))}].pop
        del {", ".join(names)}
        with entered(name):
            return plain({taken})"""
    found: dict[str, Any] = {"entered": _entered, "name": name, "plain": plain}
    exec(_compiled(source), found)
    run: Any = found["run"]
    run.__defaults__, run.__kwdefaults__ = body.__defaults__, body.__kwdefaults__
    return cast(Callable[..., Any], run)


class _Costed(Namespace):
    """The functions whose cost is known."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuleError(f"nobody knows what xp.{name} costs; give the op that calls it its cost=")


class MetaBackend(Backend):
    """Shapes, dtypes and layouts. Whoever meters is told what the same calls would do to arrays of numbers."""

    name = "meta"
    absorbs = True
    rank = 1
    array_types = (MetaArray,)

    def __init__(self) -> None:
        self.xp = _Costed(
            SimpleNamespace(**CONSTANTS), **FUNCTIONS, linalg=products.linalg, dtype=np.dtype, isdtype=isdtype
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        with self.on(device):
            return FUNCTIONS["asarray"](data, dtype=dtype, copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        raise DeviceError(
            f"a tensor on 'meta' has a shape, {array.shape}, and a dtype, {array.dtype}, but no numbers to read"
        )

    def device_of(self, array: Any) -> str:
        return "meta"

    def devices(self) -> dict[str, str]:
        return {"meta": "shapes and dtypes without numbers"}

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, with what it does counted as the op's."""
        own = _OWN.get(name)
        return _entering(name, plain if own is None else MethodType(own, plain))

    def nonfinite(self, arrays: Sequence[Any]) -> Any:
        return False
