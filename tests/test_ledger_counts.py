"""The counts of device "meta" are what a backend that really computes executes: every op, forward, VJP and JVP."""

from collections.abc import Callable
from functools import partial
from typing import Any

import op_cases
import pytest
from counted_twice import same_counts, tensor
from op_cases import Case, cases

import pullback as pb
from pullback.core.op import OPS, Op
from pullback.errors import DeviceError

DATA_DEPENDENT = [op for op in OPS.values() if op.name == "nonzero" or op.name.startswith("unique_")]
OWN = [op for op in OPS.values() if op not in DATA_DEPENDENT and op.name != "to_device"]  # whose device is its argument


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


def forward(case: Case, device: str) -> Callable[[], Any]:
    primals, run = prepared(case, device)
    return lambda: run(*primals)


def vjp(case: Case, device: str) -> Callable[[], Any]:
    primals, run = prepared(case, device)

    def work() -> Any:
        out, pull = pb.vjp(floating(run), *primals)
        return out, pull(tuple(pb.ones_like(x) for x in out))

    return work


def jvp(case: Case, device: str) -> Callable[[], Any]:
    primals, run = prepared(case, device)
    tangents, _ = prepared(case, device)
    return lambda: pb.jvp(floating(run), primals, tangents)


WAYS = {"forward": forward, "vjp": vjp, "jvp": jvp}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
def test_meta_counts_what_is_executed(op: Op, way: str):
    for case in cases([op]):
        if way == "forward" or (op.differentiable and case.primals):
            same_counts(partial(WAYS[way], case))


@pytest.mark.parametrize("op", DATA_DEPENDENT, ids=lambda op: op.name)
def test_an_op_whose_shape_depends_on_numbers_says_so(op: Op):
    for case in cases([op]):
        primals, run = prepared(case, "meta")
        with pytest.raises(DeviceError, match=f"shape of {op.name} depends on numbers"):
            run(*primals)


def test_no_op_is_left_out():
    assert {*OWN, *DATA_DEPENDENT, OPS["to_device"]} == {*OPS.values()}
    assert all(cases([op]) for op in OPS.values())
