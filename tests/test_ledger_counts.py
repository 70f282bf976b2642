"""The counts of device "meta" are what a backend that really computes executes: every op, forward, VJP and JVP."""

from collections.abc import Callable
from typing import Any

import numpy as np
import op_cases
import pytest
from counting_backend import Counts, counting
from op_cases import Case, cases

import pullback as pb
from pullback.backends import backend_for
from pullback.backends.meta.metering import metering
from pullback.core.op import OPS, Op

DATA_DEPENDENT = {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"}
MOVER = "to_device"
OWN = [op for op in OPS.values() if op.name not in DATA_DEPENDENT | {MOVER}]


def tensor(x: Any, device: str) -> Any:
    """A NumPy array, alone or in a list, as a tensor on a device; anything else as it is."""
    if isinstance(x, list | tuple):
        return [tensor(y, device) for y in x]
    return pb.Tensor(backend_for(device).asarray(x)) if isinstance(x, np.ndarray) else x


def prepared(case: Case, device: str) -> tuple[list[pb.Tensor], Callable[..., Any]]:
    """The primals of a case on a device, and its op as a function of them, with the other arrays there too."""
    op, primals, args = case.op, [], []

    def place(x: Any, is_primal: bool) -> Any:
        if is_primal:
            primals.append(tensor(x, device))
            return None
        return tensor(x, device)

    for position, x in enumerate(case.sample.args):
        if op_cases._is_sequence(op, position, x):
            args.append([place(y, op_cases._is_float(y)) for y in x])
        elif op_cases._is_input(op, position):
            args.append(place(x, op_cases._is_primal(op, position, x)))
        else:
            args.append(x)
    kwargs = {k: tensor(x, device) if k in op.inputs else x for k, x in case.sample.kwargs.items()}
    originals = case.sample.args

    def run(*given: Any) -> tuple[Any, ...]:
        left = iter(given)
        filled = []
        for position, (x, original) in enumerate(zip(args, originals, strict=True)):
            if op_cases._is_sequence(op, position, original):
                x = [next(left) if op_cases._is_float(o) else y for y, o in zip(x, original, strict=True)]
            elif op_cases._is_input(op, position) and op_cases._is_primal(op, position, original):
                x = next(left)
            filled.append(x)
        out = op.call(*filled, **kwargs)
        return tuple(out) if isinstance(out, tuple | list) else (out,)

    return primals, run


def floating(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: tuple(x for x in run(*xs) if x.dtype.kind == "f")


def measured(device: str, work: Callable[[], Any]) -> tuple[Any, Counts]:
    """Shapes and dtypes of what `work()` gives on a device, and the counts while it ran."""
    counts = Counts()
    with metering(counts) if device == "meta" else counting(counts):
        result = work()
    return [(x.shape, x.dtype) for x in result], counts


def forward(case: Case, device: str) -> Any:
    primals, run = prepared(case, device)
    return measured(device, lambda: run(*primals))


def vjp(case: Case, device: str) -> Any:
    primals, run = prepared(case, device)

    def work() -> Any:
        out, pull = pb.vjp(floating(run), *primals)
        return *out, *pull(tuple(pb.ones_like(x) for x in out))

    return measured(device, work)


def jvp(case: Case, device: str) -> Any:
    primals, run = prepared(case, device)
    tangents, _ = prepared(case, device)

    def work() -> Any:
        out, pushed = pb.jvp(floating(run), primals, tangents)
        return *out, *pushed

    return measured(device, work)


WAYS = {"forward": forward, "vjp": vjp, "jvp": jvp}


def differences(op: Op, way: str) -> list[str]:
    found = []
    for case in cases([op]):
        if way != "forward" and not (op.differentiable and case.primals):
            continue
        shapes, counts = WAYS[way](case, "meta")
        real_shapes, real = WAYS[way](case, "counting")
        if shapes != real_shapes:
            found.append(f"{case!r} {way}: {shapes} on meta, {real_shapes} in truth")
        if counts != real:
            found.append(f"{case!r} {way}:\n meta {counts}\n real {real}")
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
def test_meta_counts_what_is_executed(op: Op, way: str):
    assert not differences(op, way)
