"""The kernels of SGD and Adam on the emulator, against the formulas of the backends in float64."""

from typing import Any

import numpy as np
import pytest
from emulator import EmulatorError, build, missing
from kernel_pieces import SIZES, drawn, offsets, reached, table_of
from kernel_rows import TYPES, dtype, real

from pullback.backends import BACKENDS, Backend, Namespace

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SGD = {
    "descent": {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
    "momentum": {"momentum": 0.9, "dampening": 0.3, "nesterov": False},
    "nesterov": {"momentum": 0.9, "dampening": 0.0, "nesterov": True},
}
ADAM = {"betas": (0.9, 0.99), "eps": 1e-3}
FORMULAS = [*SGD, "adam"]
ALL = [f"pullback::{template}<{c}>" for template in ("descent", "momentum", "adam") for c, _, _ in TYPES.values()]
ALLOWED = {"float64": 1e-14, "float32": 1e-6, "float16": 6e-4, "bfloat16": 5e-3}  # half a unit, and some arithmetic
Rows = list[tuple[Any, ...]]


class Plain(Backend):
    """The formulas that backends share."""

    name = "plain"
    xp = Namespace(np)


def states(formula: str) -> int:
    return {"descent": 0, "adam": 2}.get(formula, 1)


def rows_of(formula: str, name: str, masters: bool, sizes: list[int], at: tuple[int, int] = (0, 0)) -> Rows:
    """(parameter, gradient, first state, second state, master) of each size."""
    rng, rows = np.random.default_rng(sum(sizes)), []
    for size in sizes:
        p, g = drawn(rng, size, dtype(name), at[0]), drawn(rng, size, dtype(name), at[1])
        state = [np.abs(drawn(rng, size, real(name), at[0])) if i < states(formula) else None for i in range(2)]
        master = (p.astype(real(name)) + drawn(rng, size, real(name)) * 1e-5).astype(real(name)) if masters else None
        rows.append((p, g, *state, master))
    return rows


def copied(rows: Rows, wide: bool = False) -> Rows:
    """The same arrays elsewhere; `wide`: in float64, and updated from what the kernel updates."""
    if not wide:
        return [tuple(None if array is None else array.copy() for array in row) for row in rows]
    wanted = [[None if array is None else array.astype(np.float64) for array in row] for row in rows]
    return [((p if master is None else master), g, *state, None) for p, g, *state, master in wanted]


def launch(
    formula: str, rows: Rows, decay: float = 0.0, shrink: float = 1.0, varying: Any = None, skip: Any = None,
    blocks: int = 3, order: int = 0, checked: bool = False, reachable: Any = None,
) -> None:  # fmt: skip
    name = rows[0][0].dtype.name
    number = real(name)
    if formula == "adam":
        template, settings = "adam", [0.05, *ADAM["betas"], ADAM["eps"], decay, shrink]
    elif formula == "descent":
        template, settings = "descent", [0.05, decay]
    else:
        options = SGD[formula]
        template, settings = "momentum", [0.05, decay, options["momentum"], 1 - options["dampening"]]
    arguments: list[Any] = [number(x) for x in settings]
    if template == "momentum":
        arguments.append(np.int32(SGD[formula]["nesterov"]))
    build("optimizers.cu", ALL, checked=checked)[f"pullback::{template}<{TYPES[name][0]}>"](
        blocks, 64, *table_of(rows), *arguments, varying, skip,
        order=order, reachable=reached(rows) if reachable is None else reachable,
    )  # fmt: skip


def plainly(formula: str, rows: Rows, decay: float = 0.0, shrink: float = 1.0, on: Any = None) -> None:
    """The same step by the formulas of `Backend`, or those of another one."""
    backend = on or Plain()
    if formula == "adam":
        backend.update_adam(rows, rate=0.05, **ADAM, decay=decay, shrink=shrink)
    else:
        backend.update_sgd([(p, g, s, w) for p, g, s, _, w in rows], rate=0.05, **SGD[formula], decay=decay)


def assert_near(found: Rows, wanted: Rows, name: str) -> None:
    """State and masters to the precision of the arithmetic, parameters to that of their dtype."""
    wide = ALLOWED[np.dtype(real(name)).name]
    for (p, _, *state, master), (w, _, *expected, _) in zip(found, wanted, strict=True):
        scale = max(1.0, float(np.max(np.abs(w), initial=0.0)))
        np.testing.assert_allclose(p.astype(float), w, rtol=ALLOWED[name], atol=ALLOWED[name] * scale * 0.1)
        if master is not None:
            np.testing.assert_allclose(master, w, rtol=wide, atol=wide * scale)
            np.testing.assert_array_equal(p.astype(float), master.astype(p.dtype).astype(float))
        for array, s in zip(state, expected, strict=True):
            if array is not None:
                np.testing.assert_allclose(array, s, rtol=wide, atol=wide)


def unchanged(formula: str, rows: Rows, **options: Any) -> bool:
    before = [array.tobytes() for array in reached(rows)]
    launch(formula, rows, **options)
    return before == [array.tobytes() for array in reached(rows)]


CASES = [(name, masters) for name in TYPES for masters in ((False, True) if "16" in name else (False,))]


@pytest.mark.parametrize(("name", "masters"), CASES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_many_parameters_take_the_step_of_the_formulas_in_float64(formula: str, name: str, masters: bool) -> None:
    rows = rows_of(formula, name, masters, SIZES)
    for decay, shrink in [(0.0, 1.0), (0.01, 0.99)]:
        wanted, before = copied(rows, wide=True), copied(rows)
        plainly(formula, wanted, decay, shrink)
        launch(formula, rows, decay, shrink)
        assert_near(rows, wanted, name)
        assert all(np.array_equal(row[1], old[1]) for row, old in zip(rows, before, strict=True))


@pytest.mark.parametrize(("name", "masters"), CASES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_parameters_and_gradients_may_begin_anywhere(formula: str, name: str, masters: bool) -> None:
    for at in offsets():
        rows = rows_of(formula, name, masters, [1, 9, 100], at)
        wanted = copied(rows, wide=True)
        plainly(formula, wanted)
        launch(formula, rows)
        assert_near(rows, wanted, name)


@pytest.mark.parametrize(("name", "masters"), [case for case in CASES if case[1] or "16" not in case[0]])
@pytest.mark.parametrize("formula", FORMULAS)
def test_where_no_products_are_fused_a_step_is_that_of_numpy_bit_for_bit(
    formula: str, name: str, masters: bool
) -> None:
    rows = rows_of(formula, name, masters, [4100, 5])
    wanted = copied(rows)
    plainly(formula, wanted, 0.01, 0.99, on=BACKENDS[np.ndarray])
    launch(formula, rows, 0.01, 0.99)
    assert [x.tobytes() for x in reached(rows)] == [x.tobytes() for x in reached(wanted)]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_order_of_threads_nor_number_of_blocks_changes_a_bit(formula: str) -> None:
    rows = rows_of(formula, "bfloat16", True, [7, 4096, 300])
    results = []
    for order, blocks in [(0, 1), (1, 3), (7, 5)]:
        these = copied(rows)
        launch(formula, these, 0.01, order=order, blocks=blocks)
        results.append([array.tobytes() for array in reached(these)])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_flag_in_device_memory_makes_the_step_do_nothing(formula: str) -> None:
    rows = rows_of(formula, "float32", False, [50, 9])
    rows[0][1][3] = np.nan
    assert unchanged(formula, rows, skip=np.array([1], np.int32))
    assert unchanged(formula, rows, skip=np.array([-7], np.int32))
    assert not unchanged(formula, rows, skip=np.array([0], np.int32))


@pytest.mark.parametrize("formula", FORMULAS)
def test_what_varies_may_come_from_device_memory(formula: str) -> None:
    given = {"adam": [0.02, 0.5, 0.9], "descent": [0.02]}.get(formula, [0.02, 0.25])
    for name in ("float64", "float16"):
        rows = rows_of(formula, name, False, [50])
        wanted = copied(rows, wide=True)
        launch(formula, rows, varying=np.array(given))
        if formula == "adam":
            Plain().update_adam(wanted, rate=0.02, betas=ADAM["betas"], eps=0.5, decay=0.0, shrink=0.9)
        else:
            options = {**SGD[formula], **({"dampening": 0.75} if len(given) > 1 else {})}
            Plain().update_sgd([(p, g, s, w) for p, g, s, _, w in wanted], rate=0.02, **options, decay=0.0)
        assert_near(rows, wanted, name)


def test_infinite_parameters_without_decay_stay_what_the_formula_makes_of_them() -> None:
    rows = rows_of("adam", "float32", False, [8])
    rows[0][0][:2] = np.inf, -np.inf
    launch("adam", rows)
    assert rows[0][0][:2].tolist() == [np.inf, -np.inf]
    assert np.isfinite(rows[0][2]).all()


@pytest.mark.parametrize(("name", "masters"), CASES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_checked_run_finds_nothing(formula: str, name: str, masters: bool) -> None:
    for at in ((0, 0), (1, 0)):
        rows = rows_of(formula, name, masters, [0, 5, 70, 33], at)
        for row in rows:
            row[1].flags.writeable = False
        wanted = copied(rows, wide=True)
        plainly(formula, wanted)
        launch(formula, rows, skip=np.zeros(1, np.int32), checked=True)
        assert_near(rows, wanted, name)


def test_the_checked_build_would_notice_memory_that_is_not_of_the_list() -> None:
    rows = rows_of("descent", "float32", False, [20])
    with pytest.raises(EmulatorError, match="memory"):
        launch("descent", rows, checked=True, reachable=[rows[0][0], rows[0][1][:16]])
