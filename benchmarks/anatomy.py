"""Where the time of our training step goes: forward, backward, update; and op by op, recorded and pulled."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

import pullback as pb
from pullback.core.op import OPS
from pullback.core.recording import observe

from .runner import spread, table
from .steps import NETS, RATE, Problem

Times = dict[str, list[float]]


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds of each part of a step, and the time of backward as a multiple of forward's."""
    answers = {}
    for net, (sizes, batch) in NETS.items():
        problem = Problem(sizes, batch)
        steps = (2000 if batch == 32 else 100) // (10 if quick else 1)
        parts, by_op = stages(problem, steps), ops(problem, steps)
        ratio = np.array(parts["backward"]) / np.array(parts["forward"])
        rows: dict[str, Any] = {name: {"us": spread(np.array(times) * 1e6, 1)} for name, times in parts.items()}
        rows |= {"backward / forward": {"us": spread(ratio)}}
        rows |= {name: {"us": spread(np.array(times) * 1e6, 1)} for name, times in by_op.items()}
        table(rows, net)
        print()
        answers[net] = rows
    return answers


def _made(problem: Problem) -> tuple[Callable[[], Any], Any]:
    """The forward pass to the loss, and the optimizer."""
    net = pb.nn.MLP(problem.sizes, activation="relu")
    net.load_state_dict(dict(zip(net.parameters(), problem.parameters(), strict=True)))
    x, labels = pb.tensor(problem.x), pb.tensor(problem.labels)
    return lambda: pb.nn.cross_entropy(net(x), labels), pb.optim.Adam(net.parameters(), lr=RATE)


def stages(problem: Problem, steps: int) -> Times:
    """Seconds of each stage of each step; the first tenth of the steps warms up and is left out."""
    forward, adam = _made(problem)
    times: Times = {"forward": [], "backward": [], "update": []}
    for number in range(steps + steps // 10):
        marks = [perf_counter()]
        loss = forward()
        marks.append(perf_counter())
        adam.zero_grad()
        loss.backward()
        marks.append(perf_counter())
        adam.step()
        marks.append(perf_counter())
        if number >= steps // 10:
            for name, start, end in zip(times, marks, marks[1:], strict=False):
                times[name].append(end - start)
    return times


def ops(problem: Problem, steps: int) -> Times:
    """Seconds of each op in forward, from the end of the one before, and of each rule in backward, as they run."""
    forward, adam = _made(problem)
    times: Times = defaultdict(list)
    seen: Counter[str] = Counter()
    last = 0.0

    def add(name: str, seconds: float) -> None:
        seen[name] += 1
        times[f"{name}, {seen[name]}"].append(seconds)

    def note(equation: Any, inputs: Any, value: Any) -> None:
        nonlocal last
        add(f"record {equation.op.name}", perf_counter() - last)
        last = perf_counter()

    with _timed_rules(add), observe(note):
        for _ in range(steps):
            seen.clear()
            last = perf_counter()
            loss = forward()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return times


@contextmanager
def _timed_rules(add: Callable[[str, float], None]) -> Iterator[None]:
    """A context in which each rule of these ops calls `add("pull <op> by <input>", seconds)`."""
    before = {name: OPS[name].bound_rules for name in ("linear", "relu", "cross_entropy")}

    def timed(name: str, rule: Any) -> Any:
        def run(*args: Any) -> Any:
            start = perf_counter()
            found = rule(*args)
            add(name, perf_counter() - start)
            return found

        return run

    try:
        for name, rules in before.items():
            pairs = zip(OPS[name].inputs, rules, strict=True)
            OPS[name].bound_rules = tuple(rule and timed(f"pull {name} by {x}", rule) for x, rule in pairs)
        yield
    finally:
        for name, rules in before.items():
            OPS[name].bound_rules = rules
