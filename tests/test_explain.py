"""`pb.explain`: the formulas are what the rules compute, the costs are the ledger's, sharing and sums are counted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from op_cases import DIFFERENTIABLE, cases

import pullback as pb
from pullback.costs.formula import bar, call, latex_name, literal, symbol


def steps_of(explanation):
    return [str(step) for step in explanation.steps]


def evaluated(explanation, values):
    """The cotangents by name, from the text of the steps as Python: the formulas have to be true."""
    space = {name: getattr(np, name) for name in ("sum", "outer", "exp", "broadcast_to", "expand_dims", "mean", "tanh")}
    space |= values
    for step in explanation.steps:
        target, _, right = str(step).partition(" += " if step.adds else " = ")
        right = re.sub(r"(\w+|\))\^T", r"\1.T", right)
        right = re.sub(r"\[(\w+ [<>]=? [\w.]+)\] \*", r"(\1) *", right)
        value = eval(right, {}, space)
        space[target] = space[target] + value if step.adds else value
    return space


def test_the_formulas_of_a_net_are_true():
    """Evaluated in NumPy as they are printed, they give the gradients."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    w1, b1, w2 = (pb.tensor(rng.normal(size=shape), requires_grad=True) for shape in ((3, 4), (4,), (4, 2)))

    def loss(x, y):
        h = pb.linear_relu(x, w1, b1)
        return pb.nn.mse_loss(pb.tanh(h @ w2) + pb.sum(h, axis=-1, keepdims=True), y)

    explanation = pb.explain(loss, x, y)
    loss(x, y).backward()
    h1 = np.maximum(x @ w1.numpy() + b1.numpy(), 0.0)
    h2 = h1 @ w2.numpy()
    h3, h4 = np.tanh(h2), h1.sum(axis=-1, keepdims=True)
    values = {"x": x, "y": y, "w1": w1.numpy(), "w2": w2.numpy(), "h1": h1, "h2": h2, "h3": h3, "h4": h4, "h5": h3 + h4}
    values |= {"h6_bar": 1.0, "sum_to": lambda g, shape: g.sum(axis=-1, keepdims=True).reshape(shape)}
    found = evaluated(explanation, values)
    for name, w in {"w1": w1, "b1": b1, "w2": w2}.items():
        np.testing.assert_allclose(found[f"{name}_bar"], w.grad.numpy(), rtol=1e-12)
    assert dict(explanation.sums) == {"h1": 2}


@pytest.mark.parametrize(
    ("f", "formula"),
    [
        (pb.tanh, "x_bar = h1_bar * (1 - h1 * h1)"),
        (pb.sigmoid, "x_bar = h1_bar * h1 * (1 - h1)"),
        (pb.relu, "x_bar = [h1 > 0] * h1_bar"),
        (pb.relu6, "x_bar = [(h1 > 0) & (h1 < 6)] * h1_bar"),
        (pb.nn.gelu, "x_bar = h1_bar * gelu'(x)"),
        (pb.sin, "x_bar = h1_bar * cos(x)"),
        (lambda x: -x, "x_bar = -h1_bar"),
        (lambda x: 3.0 - x, "x_bar = -h1_bar"),
        (lambda x: x[1:, 0], "x_bar = scatter(h1_bar, (1:, 0), (3, 3))"),
        (pb.sum, "x_bar = broadcast_to(h1_bar, (3, 3))"),
        (pb.mean, "x_bar = broadcast_to(h1_bar * (1 / 9), (3, 3))"),
        (pb.matrix_transpose, "x_bar = h1_bar^T"),
        (pb.linalg.inv, "x_bar = -(h1^T @ h1_bar @ h1^T)"),
        (pb.softmax, "x_bar = h1_bar * h1 - h1 * sum(h1_bar * h1, axis=-1, keepdims=True)"),
        (pb.linalg.eigvalsh, "x_bar = J_eigvalsh(x)^T @ h1_bar"),
        (pb.checkpoint(pb.tanh), "x_bar = J_checkpoint(x)^T @ h1_bar"),
    ],
)
def test_rules_are_written_in_the_notation_of_mathematics(f, formula):
    assert steps_of(pb.explain(f, np.eye(3))) == [formula]


def test_products_of_every_rank():
    x, y = np.ones((2, 3)), np.ones((3, 4))
    assert steps_of(pb.explain(lambda x, y: x @ y, x, y)) == ["x_bar = h1_bar @ y^T", "y_bar = x^T @ h1_bar"]
    steps = steps_of(pb.explain(lambda x, y: x @ y, x[0], y))
    assert steps == ["x_bar = h1_bar @ y^T", "y_bar = outer(x, h1_bar)"]
    assert steps_of(pb.explain(lambda x, y: x @ y, x, y[:, 0])) == ["x_bar = outer(h1_bar, y)", "y_bar = h1_bar @ x"]


def test_the_text_of_a_net():
    net = pb.nn.MLP((784, 256, 10), "gelu")
    x, labels = np.zeros((128, 784), "float32"), np.zeros(128, "int64")
    text = str(pb.explain(lambda x, labels: pb.nn.cross_entropy(net(x), labels), x, labels))
    expected = [
        "1  h1 = gelu(x @ layers.0.weight + layers.0.bias) [128, 256] 51.54 Mflop MLP.layers.0",
        "3  h2_bar = h3_bar * (1 / 128) * (softmax(h2) - one_hot(labels, 10)) [128, 10] 1,409 flop 1 x 1,280, 5.12 kB",
        "2  layers.1.weight_bar = h1^T @ h2_bar [256, 10] 655,360 flop 1,280 x 2,560, 13.11 MB",
        "1  delta1 = h1_bar * gelu'(x @ layers.0.weight + layers.0.bias) [128, 256] 392,960 flop",
        "1  layers.0.weight_bar = x^T @ delta1 [784, 256] 51.38 Mflop 32,768 x 200,704, 26.31 GB",
        "computed once and shared: h3_bar by 4 gradients, h2_bar by 4 gradients, h1_bar by 2 gradients",
        "3 pulls of an equation; with a sweep for each gradient it would be 10",
    ]
    lines = [re.sub(r"(\S) +(\S)", r"\1 \2", line).replace(" ", "") for line in text.splitlines()]
    for line in expected:
        assert line.replace(" ", "") in lines
    assert "x_bar" not in text  # nobody asked for it


def test_a_loss_has_a_formula_where_it_is_short():
    x, labels = np.zeros((4, 3)), np.zeros(4, "int64")
    for options, formula in {
        (): "x_bar = h1_bar * 0.25 * (softmax(x) - one_hot(labels, 3))",
        (("reduction", "sum"),): "x_bar = h1_bar * (softmax(x) - one_hot(labels, 3))",
        (("label_smoothing", 0.1),): "x_bar = cross_entropy_slope(h1_bar, softmax(x), labels, 0.1)",
    }.items():
        loss = lambda x, labels, options=options: pb.nn.cross_entropy(x, labels, **dict(options))  # noqa: E731
        explanation = pb.explain(loss, x, labels)
        assert steps_of(explanation) == [formula]
        assert explanation.vjp == pb.cost(loss, x, labels).vjp.count


def test_shared_factors_and_sums_of_branches():
    def f(x):
        a = pb.tanh(x)
        return pb.sum(a * a + pb.exp(a) * x)

    explanation = pb.explain(f, np.ones(3))
    assert dict(explanation.sums) == {"x": 2, "h1": 3}
    assert [str(step) for step in explanation.steps if step.of == "x"] == [
        "x_bar = h4_bar * h3",
        "x_bar += h1_bar * (1 - h1 * h1)",
    ]
    assert "h1 is read in 3 places: h1_bar is a sum of 3 terms" in str(explanation)
    assert explanation.visits == (6, 6)
    assert explanation.vjp == pb.cost(f, np.ones(3)).vjp.count


def test_tied_weights_add_up():
    w = pb.tensor(np.ones((3, 3)), requires_grad=True)
    explanation = pb.explain(lambda x: pb.sum(pb.tanh(x @ w) @ w), np.ones((2, 3)))
    assert dict(explanation.sums) == {"w": 2}
    assert [str(s) for s in explanation.steps if s.of == "w"] == ["w_bar = h2^T @ h3_bar", "w_bar += x^T @ h1_bar"]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_every_op_is_explained_at_the_cost_of_the_ledger(op):
    for case in cases([op])[:2]:
        if not (primals := case.primals):
            continue
        explanation = pb.explain(case, *primals, argnums=range(len(primals)))
        cost = pb.cost(case, *primals, argnums=range(len(primals)))
        tape = explanation.tape
        assert tape.forward + tape.other == cost.forward.count
        assert explanation.vjp == tape.vjp == cost.vjp.count  # this walk does what the library's own does
        assert cost.jacobian["product"].count == cost.forward.count + explanation.dense
        for step in explanation.steps:
            shape = explanation.tape.variables[step.of].shape if step.of else step.shape
            assert step.shape == shape, step
            assert str(step.formula)
            assert brackets_match(step.formula.to_latex())
        json.dumps(explanation.to_dict())
        assert "object at" not in str(explanation)


def brackets_match(latex):
    depth = 0
    for sign in re.sub(r"\\[{}]", "", latex):
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0 and latex.count(r"\left") == latex.count(r"\right")


def test_latex_is_what_matplotlib_can_set():
    mathtext = pytest.importorskip("matplotlib.mathtext")
    w1, w2 = (pb.tensor(np.ones((2, 2)), requires_grad=True) for _ in range(2))
    x, t = np.ones(2), np.ones(2)
    explanation = pb.explain(lambda: pb.sum(0.5 * (t - pb.sigmoid(w2 @ pb.sigmoid(w1 @ x + 0.35) + 0.6)) ** 2))
    latex = explanation.latex()
    assert latex.startswith("\\begin{aligned}\n")
    assert latex.endswith("\n\\end{aligned}")
    lines = latex.splitlines()[1:-1]
    assert len(lines) == len(explanation.tape) + 1 + len(explanation.steps)
    parser = mathtext.MathTextParser("path")
    for line in lines:
        parser.parse(f"${line.replace('&', '').removesuffix(chr(92) * 2)}$")
    for line in (
        r"\bar{h}_{9} &= \operatorname{broadcast\_to}\left(\bar{h}_{10}, \mathrm{(2,)}\right)",
        r"\bar{h}_{10} &= 1",
    ):
        assert line in [line.removesuffix(r" \\") for line in lines]
    assert r"\bar{h}_{6} \odot h_{6} \odot \left(1 - h_{6}\right)" in latex
    assert explanation._repr_latex_().startswith("$\\displaystyle \\begin{aligned}")


def test_latex_of_a_net_is_well_formed():
    net = pb.nn.MLP((4, 3, 2), "gelu")
    latex = pb.explain(lambda x: pb.nn.mse_loss(net(x), x[:, :2]), np.ones((5, 4), "float32")).latex()
    assert brackets_match(latex)
    assert r"\overline{\mathtt{layers.0.weight}} &= {x}^{\mathsf{T}} \, \delta_{" in latex


def test_formulas_keep_their_brackets():
    a, b, c = symbol("a"), symbol("b"), symbol("c")
    assert str(call("multiply", [call("add", [a, b]), c])) == "(a + b) * c"
    assert str(call("subtract", [a, call("subtract", [b, c])])) == "a - (b - c)"
    assert str(call("subtract", [a, call("add", [b, c])])) == "a - (b + c)"
    assert str(call("divide", [a, call("multiply", [b, c])])) == "a / (b * c)"
    assert str(call("multiply", [a, call("divide", [b, c])])) == "a * (b / c)"
    assert str(call("matmul", [call("matmul", [a, b]), c])) == "a @ b @ c"
    assert str(call("pow", [call("negative", [a]), literal(2)])) == "(-a) ** 2"
    assert str(call("negative", [call("add", [a, b])])) == "-(a + b)"
    assert str(call("transpose", [call("matmul", [a, b])])) == "(a @ b)^T"
    assert str(call("add", [call("matmul", [a, b]), c])) == "a @ b + c"
    assert str(call("linear_tanh", [a, b, c])) == "tanh(a @ b + c)"
    assert call("divide", [a, call("add", [b, c])]).to_latex() == r"\frac{a}{b + c}"
    assert (str(bar("W1")), bar("W1").to_latex()) == ("W1_bar", r"\bar{W}_{1}")
    assert latex_name("layers.0.my_weight") == r"\mathtt{layers.0.my\_weight}"
    assert literal(1e-5).to_latex() == r"1 \cdot 10^{-5}"
    assert str(literal(1 / 12)) == "1 / 12"
    assert str(literal(0.5)) == "0.5"


def test_nothing_to_pull_is_said():
    assert "nothing to pull: the value is x itself" in str(pb.explain(lambda x: x, np.ones(2)))
    assert "nothing to pull: the value is a constant itself" in str(pb.explain(lambda x: pb.ones(2), np.ones(2)))


def test_a_step_that_fits_into_no_memory_is_explained():
    net = pb.nn.MLP((8192,) * 9, "relu", device="meta")
    explanation = pb.explain(net, pb.zeros((8192, 8192), device="meta"))
    assert explanation.vjp.multiply_adds == 15 * 8192**3
    assert explanation.dense.flops > 10**24
    assert explanation.visits == (8, 72)


def test_the_readme_shows_what_is_printed(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    ((code, shown),) = re.findall(
        r"^```python\n(class Net.*?)^```\n\n```text\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    exec(compile(code, "README.md", "exec"), {"pb": pb, "__name__": "readme"})
    assert capsys.readouterr().out == shown
