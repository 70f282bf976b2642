"""The counts of device "meta" are what a backend that really computes executes: every op, forward, VJP and JVP."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import op_cases
import pytest
from counted_twice import same_counts, tensor
from op_cases import Case, cases

import pullback as pb
from pullback.core.op import OPS, Op, Sample
from pullback.errors import DeviceError, DtypeError, PullbackError

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


def uses_lapack(work: Callable[[], Any]) -> bool:
    """Whether work with float16 is refused, as by LAPACK, which has no such type."""
    try:
        work()
    except DtypeError:
        return True
    return False


def narrowed(case: Case, dtype: str) -> Case:
    """The case with all floating-point inputs in another dtype."""

    def cast(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(cast, x))
        return x.astype(dtype) if op_cases._is_float(x) else x

    op, sample = case.op, case.sample
    args = [cast(x) if op_cases._is_input(op, i) else x for i, x in enumerate(sample.args)]
    kwargs = {name: cast(x) if name in op.inputs else x for name, x in sample.kwargs.items()}
    return Case(op, case.number, Sample(tuple(args), kwargs))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
@np.errstate(all="ignore")
def test_meta_counts_what_is_executed(op: Op, way: str, dtype: str):
    for case in cases([op]):
        case = narrowed(case, dtype)
        if way != "forward" and not (op.differentiable and case.primals):
            continue
        setup = partial(WAYS[way], case)
        if dtype == "float16" and uses_lapack(setup("counting")):
            with pytest.raises(DtypeError, match="float16 is unsupported"):
                setup("meta")()
        else:
            same_counts(setup)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
@np.errstate(all="ignore")
def test_integers_become_the_dtypes_on_meta_that_they_become_on_the_cpu(op: Op, dtype: str):
    """Where the op takes two matrices of integers; what it says of their numbers is not asked."""
    x = np.array([[2, 1], [0, 1]]).astype(dtype)
    try:
        out = op.call(*[x] * len(op.inputs))
    except (PullbackError, TypeError):
        return
    found = op.call(*[pb.asarray(x).to("meta") for _ in op.inputs])
    pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (out, found)), strict=True)
    assert all(a is b is None or (a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)


@pytest.mark.parametrize("op", DATA_DEPENDENT, ids=lambda op: op.name)
def test_an_op_whose_shape_depends_on_numbers_says_so(op: Op):
    for case in cases([op]):
        primals, run = prepared(case, "meta")
        with pytest.raises(DeviceError, match=f"shape of {op.name} depends on numbers"):
            run(*primals)


def test_no_op_is_left_out():
    assert {*OWN, *DATA_DEPENDENT, OPS["to_device"]} == {*OPS.values()}
    assert all(cases([op]) for op in OPS.values())


@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
def test_what_counts_computes_the_numbers_of_the_cpu(op: Op):
    for case in cases([op]):
        primals, run = prepared(case, "counting")
        found, expected = run(*primals), case.run(*case.primals)
        for x, y in zip(found, expected if isinstance(expected, tuple | list) else (expected,), strict=True):
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-12)
