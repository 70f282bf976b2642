"""The worked examples of docs/backpropagation.md run as they stand, and what they say of counts is true."""

import re
from collections import Counter
from math import exp
from pathlib import Path

import numpy as np
import pytest

import pullback as pb
from pullback.core.op import OPS
from pullback.core.recording import observe

PAGE = (Path(__file__).parents[1] / "docs" / "backpropagation.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=[s.partition("\n")[0] for s in SECTIONS])
def test_every_block_of_the_page_runs(section):
    blocks = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert any("assert" in block for block in blocks)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(section.partition("\n")[0]), "exec"), names)


def test_the_page_answers_all_five_questions_and_its_links_lead_somewhere():
    assert [section[:3] for section in SECTIONS] == ["(a)", "(b)", "(c)", "(d)", "(e)"]
    anchors = {re.sub(r"[^\w\- ]", "", s.partition("\n")[0].lower()).replace(" ", "-") for s in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) == anchors


def test_each_equation_is_pulled_once_and_parameters_are_dead_ends(monkeypatch):
    """Counts the rules that run, for nets of one to six layers: linear in the depth, though each gradient is a product
    over all layers above it."""
    rng = np.random.default_rng(0)
    for depth in range(1, 7):
        equations, asked = [], Counter()
        weights = [pb.tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(depth)]
        with observe(lambda equation, inputs, value, seen=equations: seen.append(equation)):
            h = pb.asarray(rng.normal(size=(2, 3)))
            for w in weights:
                h = pb.tanh(h @ w)
            loss = pb.sum(h)
        assert Counter(e.op.name for e in equations) == {"matmul": depth, "tanh": depth, "sum": 1}

        with monkeypatch.context() as patch:
            for name in ("matmul", "tanh", "sum"):
                patch.setattr(OPS[name], "bound_rules", tuple(counted(r, name, asked) for r in OPS[name].bound_rules))
            loss.backward()
        # tanh and sum have one input; matmul has two, of which the constant first input is not asked for.
        assert asked == {"matmul": 2 * depth - 1, "tanh": depth, "sum": 1}


def counted(rule, name, asked):
    def run(*args):
        asked[name] += 1
        return rule(*args)

    return run


def test_the_two_by_two_net_agrees_with_plain_python_differences():
    """Independent of any array library: the loss in plain floats, and central differences of it."""

    def loss(w):
        sigmoid = lambda s: 1 / (1 + exp(-s))  # noqa: E731
        h1, h2 = sigmoid(w[0] * 0.05 + w[1] * 0.10 + 0.35), sigmoid(w[2] * 0.05 + w[3] * 0.10 + 0.35)
        o1, o2 = sigmoid(w[4] * h1 + w[5] * h2 + 0.60), sigmoid(w[6] * h1 + w[7] * h2 + 0.60)
        return ((0.01 - o1) ** 2 + (0.99 - o2) ** 2) / 2

    def tensor_loss(w):
        w1, w2 = pb.reshape(w[:4], (2, 2)), pb.reshape(w[4:], (2, 2))
        h = pb.sigmoid(w1 @ np.array([0.05, 0.10]) + 0.35)
        return pb.sum(0.5 * (np.array([0.01, 0.99]) - pb.sigmoid(w2 @ h + 0.60)) ** 2)

    start = [0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55]
    differences = []
    for i in range(8):
        up, down = start.copy(), start.copy()
        up[i], down[i] = up[i] + 1e-5, down[i] - 1e-5
        differences.append((loss(up) - loss(down)) / 2e-5)
    np.testing.assert_allclose(pb.grad(tensor_loss)(np.array(start)).numpy(), differences, rtol=1e-6, atol=1e-10)


# --- the same, as the library itself explains it ----------------------------------------------------------------------


def test_a_trunk_factors_are_shared_and_parameters_are_dead_ends():
    """Example (a): each layer's cotangent is computed once, though the gradients of all layers below need it."""
    for depth in range(1, 7):
        weights = [pb.tensor(np.eye(3), requires_grad=True) for _ in range(depth)]

        def net(x, weights=weights):
            for w in weights:
                x = pb.tanh(x @ w)
            return pb.sum(x)

        explanation = pb.explain(net, np.ones((2, 3)))
        tape = explanation.tape
        assert Counter(e.op for e in tape) == {"matmul": depth, "tanh": depth, "sum": 1}
        pulled = Counter(step.of for step in explanation.steps)
        values = {v.name for e in tape for v in e.outputs} - set(tape.outputs)
        assert pulled == dict.fromkeys(values | set(tape.ends), 1)  # once each
        assert explanation.sums == {}
        for k, e in enumerate(e for e in tape if e.op == "tanh"):  # the trunk up to layer k + 1 serves k + 1 gradients
            assert len(explanation.shared[e.name]) == k + 1
        once, apart = explanation.visits
        assert (once, apart) == (2 * depth + 1, depth + 2 * depth * (depth + 1) // 2)
        for name in tape.ends:  # dead ends: no equation makes them, one reads them
            assert name not in values
            assert [e.op for e in tape.readers(name)] == ["matmul"]
        assert [str(step) for step in explanation.steps if step.of == "weights.0"] == ["weights.0_bar = x^T @ h1_bar"]


def test_b_branches_add_up():
    """Example (b): as one product of matrices the sum over branches is inside of it; unit by unit it is written out."""
    x, t = np.array([0.05, 0.10]), np.array([0.01, 0.99])
    w1, w2 = np.array([[0.15, 0.20], [0.25, 0.30]]), np.array([[0.40, 0.45], [0.50, 0.55]])

    def as_matrices(w1, w2):
        h = pb.sigmoid(w1 @ x + 0.35)
        return pb.sum(0.5 * (t - pb.sigmoid(w2 @ h + 0.60)) ** 2)

    explanation = pb.explain(as_matrices, w1, w2)
    steps = [str(step) for step in explanation.steps]
    assert "h3_bar = h4_bar @ w2" in steps  # h = h3, and h4 is the net input of the outputs
    assert "w2_bar = outer(h4_bar, h3)" in steps
    assert "h5_bar = h6_bar * h6 * (1 - h6)" in steps
    assert explanation.sums == {}

    def unit_by_unit(w1, w2):
        h = [pb.sigmoid(pb.sum(w1[i] * x) + 0.35) for i in range(2)]
        o = [pb.sigmoid(w2[i, 0] * h[0] + w2[i, 1] * h[1] + 0.60) for i in range(2)]
        return 0.5 * (t[0] - o[0]) ** 2 + 0.5 * (t[1] - o[1]) ** 2

    explanation = pb.explain(unit_by_unit, w1, w2)
    hidden = [e.name for e in explanation.tape if e.op == "sigmoid"][:2]
    assert [explanation.sums[name] for name in hidden] == [2, 2]  # each hidden unit feeds both outputs
    np.testing.assert_allclose(pb.grad(unit_by_unit)(w1, w2).numpy(), pb.grad(as_matrices)(w1, w2).numpy(), rtol=1e-12)


def test_e_the_jacobian_that_is_never_formed():
    """Example (e): the layer from 1000 to 5000 numbers."""
    W = pb.asarray(np.zeros((1000, 5000), "float32"))
    explanation = pb.explain(lambda x: pb.tanh(x @ W), np.zeros(1000, "float32"))
    of_tanh, of_product = explanation.steps
    assert (of_tanh.rows, of_tanh.columns, of_tanh.nbytes) == (5000, 5000, 10**8)
    assert (of_product.rows, of_product.columns, of_product.nbytes) == (5000, 1000, 2 * 10**7)  # 20 MB
    assert str(of_product) == "x_bar = h1_bar @ W^T"
    assert (of_product.shape, of_product.count.multiply_adds) == ((1000,), 5000 * 1000)
    assert explanation.dense.multiply_adds == 5000 * 5000 * 1000  # 5000 times as many
    by_weights = pb.explain(lambda x, W: pb.tanh(x @ W), np.zeros(1000, "float32"), W, argnums=1)
    assert str(by_weights.steps[-1]) == "W_bar = outer(x, h1_bar)"
    assert by_weights.steps[-1].nbytes == 5000 * 5_000_000 * 4  # 100 GB
