"""The planner of chains against an exhaustive search, and against what is published."""

import random
from itertools import product

import numpy as np
import pytest

import pullback as pb
from pullback.bench.chains import every_cost, random_chain
from pullback.errors import ArgumentError, DeviceMemoryError, ShapeError
from pullback.transforms import chain as chain_module


def some_chain(chance, length, sizes=(1, 9), tapes=(0, 60)):
    return random_chain(chance, length, sizes, tapes)


def dense_costs(chain):
    if len(chain) == 1:
        yield chain[0][2] * min(chain[0][:2])
        return
    for split in range(1, len(chain)):
        inner, outer = chain[:split], chain[split:]
        product = outer[-1][0] * inner[-1][0] * inner[0][1]
        yield from (a + b + product for a in dense_costs(outer) for b in dense_costs(inner))


@pytest.mark.parametrize(("length", "count"), [(1, 200), (2, 1500), (3, 1000), (4, 400), (5, 60), (6, 8)])
def test_the_optimum_is_that_of_an_exhaustive_search(length, count):
    chance = random.Random(length)
    for _ in range(count):
        chain = some_chain(chance, length)
        plan = pb.chain_plan(chain)
        assert plan.optimum == min(every_cost(chain)), chain
        assert plan.preaccumulation == min(dense_costs(chain)), chain
        assert plan.optimum == cost_of(plan.plan, chain), chain
        tapes = sum(tape for *_, tape in chain)
        assert (plan.tangent, plan.adjoint) == (chain[0][1] * tapes, chain[-1][0] * tapes)


def cost_of(segment, chain):
    """What a plan costs, added up over its tree."""
    rows, columns = chain[segment.last][0], chain[segment.first][1]
    tapes = [tape for *_, tape in chain]
    if segment.way == "elementary":
        return tapes[segment.first] * min(rows, columns)
    if segment.way == "product":
        middle = chain[segment.split][0]
        return cost_of(segment.outer, chain) + cost_of(segment.inner, chain) + rows * middle * columns
    if segment.way == "adjoint":
        outer = 0 if segment.outer is None else cost_of(segment.outer, chain)
        return outer + rows * sum(tapes[segment.first : segment.split + 1])
    inner = 0 if segment.inner is None else cost_of(segment.inner, chain)
    return inner + columns * sum(tapes[segment.split + 1 : segment.last + 1])


def every_plan(chain):
    """(cost, the most numbers that matrices hold) of every plan, either part of a product first."""
    rows, columns, work = chain[-1][0], chain[0][1], sum(tape for *_, tape in chain)
    size = rows * columns
    if len(chain) == 1:
        yield work * min(rows, columns), size
        return
    yield from ((rows * work, size), (columns * work, size))
    for split in range(1, len(chain)):
        inner, outer = chain[:split], chain[split:]
        middle = inner[-1][0]
        left, right = rows * middle, middle * columns
        inners, outers = set(every_plan(inner)), set(every_plan(outer))
        adjoint, tangent = rows * sum(tape for *_, tape in inner), columns * sum(tape for *_, tape in outer)
        yield from ((cost + adjoint, max(peak, left + size)) for cost, peak in outers)
        yield from ((cost + tangent, max(peak, right + size)) for cost, peak in inners)
        for (a, first), (b, second) in product(outers, inners):
            cost, held = a + b + left * columns, left + right + size
            yield cost, max(held, first, left + second)
            yield cost, max(held, second, right + first)


@pytest.mark.parametrize(("length", "count"), [(1, 100), (2, 800), (3, 800), (4, 300), (5, 60)])
def test_the_optimum_within_a_limit_is_that_of_an_exhaustive_search(length, count):
    chance, binding = random.Random(length), 0
    for _ in range(count):
        chain = some_chain(chance, length, (1, 30), (1, 4000))
        plans, free = list(every_plan(chain)), pb.chain_plan(chain)
        assert (free.optimum, free.peak) in plans
        limit = chance.randint(chain[-1][0] * chain[0][1], max(peak for _, peak in plans))
        plan = pb.chain_plan(chain, memory_limit=limit)
        assert plan.optimum == min(cost for cost, peak in plans if peak <= limit), (chain, limit)
        assert plan.optimum == cost_of(plan.plan, chain)
        assert plan.peak == peak_of(plan.plan, chain) <= limit
        binding += plan.optimum > free.optimum
    assert length < 2 or binding > count / 20


def peak_of(segment, chain):
    """The numbers of the matrices that are there while a plan is carried out step by step."""
    held, most, done = 0, 0, [(segment, False)]

    def size(part):
        return chain[part.last][0] * chain[part.first][1]

    while done:
        part, ready = done.pop()
        if not ready:
            done.append((part, True))
            done.extend((other, False) for other in reversed(part.parts))
            continue
        held += size(part)
        most = max(most, held)
        held -= sum(map(size, part.parts))
    return most


def test_a_long_chain_within_a_limit():
    chain = some_chain(random.Random(5), 60, (5, 50), (1000, 10000))
    free = pb.chain_plan(chain)
    costs = [pb.chain_plan(chain, limit).optimum for limit in (free.peak, free.peak - 1, chain[-1][0] * chain[0][1])]
    assert costs == sorted(costs)
    assert costs[0] == free.optimum


def test_a_plan_carried_out_on_matrices_is_the_product_of_all():
    chance, rng = random.Random(0), np.random.default_rng(0)
    for length in (1, 2, 3, 5, 9, 30):
        chain = some_chain(chance, length, tapes=(1, 200))
        matrices = [rng.normal(size=(m, n)) for m, n, _ in chain]

        def carried_out(segment, matrices=matrices):
            if segment.way == "elementary":
                return matrices[segment.first]
            if segment.way == "product":
                return carried_out(segment.outer) @ carried_out(segment.inner)
            if segment.way == "adjoint":
                out = carried_out(segment.outer)
                for k in range(segment.split, segment.first - 1, -1):
                    out = out @ matrices[k]
                return out
            out = carried_out(segment.inner)
            for k in range(segment.split + 1, segment.last + 1):
                out = matrices[k] @ out
            return out

        expected = matrices[0]
        for matrix in matrices[1:]:
            expected = matrix @ expected
        np.testing.assert_allclose(carried_out(pb.chain_plan(chain).plan), expected, rtol=1e-9, atol=1e-9)


def test_mixed_orders_win_as_often_as_is_published():
    """Sizes 5 to 50, tapes of 1,000 to 10,000: 32 % of chains of 2, 60 % of 4, 76 % of 8 (a public data set)."""
    chance = random.Random(1)
    for length, published in ((2, 0.32), (4, 0.60), (8, 0.76)):
        plans = [pb.chain_plan(some_chain(chance, length, (5, 50), (1000, 10000))) for _ in range(600)]
        wins = sum(plan.optimum < min(plan.tangent, plan.adjoint) for plan in plans) / len(plans)
        assert wins == pytest.approx(published, abs=0.07)


def test_a_scalar_loss_is_pulled_and_a_single_input_is_pushed():
    square = [(64, 64, 64 * 64)] * 4
    assert pb.chain_plan([*square, (1, 64, 64)]).optimum == pb.chain_plan([*square, (1, 64, 64)]).adjoint
    assert pb.chain_plan([(64, 1, 64), *square]).optimum == pb.chain_plan([(64, 1, 64), *square]).tangent


def test_numbers_are_exact_at_any_size():
    chain = some_chain(random.Random(2), 12)
    big = 10**40
    scaled = [(m * big, n * big, tape * big**2) for m, n, tape in chain]
    small, large = pb.chain_plan(chain), pb.chain_plan(scaled)
    for name in ("optimum", "tangent", "adjoint", "preaccumulation"):
        assert getattr(large, name) == getattr(small, name) * big**3
        assert type(getattr(large, name)) is int
    border = [(2**20, 2**20, 2**40)] * 3  # where 64 bits end
    assert pb.chain_plan(border).tangent == 3 * 2**60
    assert pb.chain_plan(border).optimum == min(every_cost(border))


def test_rounded_numbers_only_tell_where_to_look(monkeypatch):
    """Python's integers are added up where a sum of rounded ones is nearly the least: the same plans come out."""
    chance = random.Random(4)
    for _ in range(100):
        big = [(m * 10**20, n * 10**20, tape * 10 ** chance.randint(30, 60))
               for m, n, tape in some_chain(chance, chance.randint(1, 14))]  # fmt: skip
        found = pb.chain_plan(big)
        with monkeypatch.context() as patch:
            patch.setattr(chain_module, "_Rough", lambda *_: None)
            assert pb.chain_plan(big) == found
    equal = [(10**30, 10**30, 10**60 + 1)] * 6  # rounded, many ways cost the same
    assert pb.chain_plan(equal).optimum == min(every_cost(equal))


def test_the_bracketing_is_readable():
    assert pb.chain_plan([(3, 2, 7)]).bracketing == "J0"
    assert pb.chain_plan([(64, 64, 4096), (64, 64, 4096), (1, 64, 64)]).bracketing == "(J2 < f1 f0)"
    assert pb.chain_plan([(64, 1, 64), (64, 64, 4096), (64, 64, 4096)]).bracketing == "(f2 f1 > J0)"
    waist = [(2, 100, 200), (100, 2, 200)]
    assert pb.chain_plan(waist).bracketing == "(f1 > J0)"
    assert pb.chain_plan([(2, 100, 9000), (100, 2, 9000)]).bracketing == "(J1 * J0)"
    assert pb.chain_plan([(100, 2, 200), (2, 100, 200)], memory_limit=4).bracketing == "(1 < f1 f0)"
    assert pb.chain_plan([(100, 1, 200), (2, 100, 200)], memory_limit=2).bracketing == "(f1 f0 > 1)"


def test_a_chain_of_hundreds_nests_as_deep_as_it_likes():
    plan = pb.chain_plan([(2, 2, 1)] * 60 + [(1, 2, 1)] + [(1, 1, 1)] * 60)
    assert plan.bracketing.count("(") == plan.bracketing.count(")") > 0


LIMITS = {
    "smaller than the Jacobian": (5, DeviceMemoryError, "the Jacobian itself is 6 numbers, and memory_limit is 5"),
    "a fraction": (6.5, ArgumentError, "memory_limit is a whole number"),
}


@pytest.mark.parametrize("case", LIMITS)
def test_bad_limits(case):
    limit, kind, message = LIMITS[case]
    with pytest.raises(kind, match=message):
        pb.chain_plan([(3, 2, 7)], memory_limit=limit)


BAD = {
    "nothing": ([], ArgumentError, "at least one factor"),
    "two numbers": ([(1, 2)], ArgumentError, "factor 0 is"),
    "a fraction": ([(1, 2, 0.5)], ArgumentError, "three whole numbers"),
    "no outputs": ([(0, 2, 1)], ArgumentError, "at least 1"),
    "a negative tape": ([(1, 2, -1)], ArgumentError, "at least 0"),
    "no chain": ([(3, 2, 1), (4, 5, 1)], ShapeError, "factor 1 has 5 inputs, the one before it 3 outputs"),
    "a number": (3, ArgumentError, "factors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    factors, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        pb.chain_plan(factors)
