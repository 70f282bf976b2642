"""pb.cost against closed forms, against PyTorch's counter, and what it leaves as it was."""

import json
import threading
from itertools import pairwise

import numpy as np
import pytest
from traced_memory import traced_memory

import pullback as pb
from pullback.core.define import Array, op
from pullback.core.op import OPS
from pullback.errors import ArgumentError, DeviceError, RuleError, TapeError

SIZES, BATCH = (7, 11, 13, 5), 3
PRODUCTS = [2 * BATCH * m * n for m, n in pairwise(SIZES)]


def net(activation="tanh", **options):
    return pb.nn.MLP(SIZES, activation, generator=0, **options)


def zeros(*shape):
    return np.zeros(shape, "float32")


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_the_products_of_an_mlp_are_counted_exactly():
    report = pb.cost(net(), zeros(BATCH, SIZES[0]))
    assert report.inputs == "parameters"
    assert report.forward.count.matmul_flops == sum(PRODUCTS)
    assert report.vjp.count.matmul_flops == 2 * sum(PRODUCTS) - PRODUCTS[0]  # no cotangent of x
    assert report.jvp.count.matmul_flops == 2 * sum(PRODUCTS) - PRODUCTS[0]
    assert report.input_size == sum((m + 1) * n for m, n in pairwise(SIZES))
    assert report.output_size == BATCH * SIZES[-1]


def test_the_gradient_of_an_mlp_costs_at_most_three_times_its_forward():
    x = zeros(BATCH, SIZES[0])
    model = net()
    by_parameters = pb.cost(model, x)
    forward = by_parameters.forward.count.matmul_flops
    assert forward + by_parameters.vjp.count.matmul_flops == 3 * forward - PRODUCTS[0]

    weights = [(w.numpy(), b.numpy()) for w, b in ((layer.weight, layer.bias) for layer in model.layers)]

    def function(parameters, x):
        for w, b in parameters:
            x = pb.linear_tanh(x, w, b)
        return x

    by_all = pb.cost(function, weights, x)
    assert by_all.inputs == "arguments 0, 1"
    assert forward + by_all.vjp.count.matmul_flops == 3 * forward


def test_the_operations_of_a_layer_by_hand():
    m, n = SIZES[:2]
    report = pb.cost(pb.linear_tanh, zeros(BATCH, m), zeros(m, n), zeros(n))
    numbers, product = BATCH * n, 2 * BATCH * m * n
    assert report.forward.count.flops == product + 2 * numbers  # the bias added, and tanh
    assert report.vjp.count.flops == 2 * product + 3 * numbers + (BATCH - 1) * n  # g (1 - out^2), and sums over rows
    assert report.forward.count.read == 4 * (BATCH * m + m * n + 3 * numbers - numbers + n)
    assert report.forward.count.written == 4 * 3 * numbers
    assert report.forward.allocated == 4 * 2 * numbers  # the bias is added in place
    assert report.forward.peak == 4 * 2 * numbers
    assert report.saved_bytes == 4 * numbers  # the value of tanh; x, w and b were there


def test_what_is_saved_by_layer():
    report = pb.cost(net(), zeros(BATCH, SIZES[0]))
    # the last layer keeps its input, which is the value that the one before keeps
    assert report.saved == {"MLP.layers.0": 4 * BATCH * SIZES[1], "MLP.layers.1": 4 * BATCH * SIZES[2]}


def test_the_three_forms_of_a_jacobian():
    depth, n = 5, 6
    weights = [zeros(n, n) for _ in range(depth)]

    def chain(x):
        for w in weights:
            x = pb.tanh(pb.matmul(x, w))
        return x

    report = pb.cost(chain, zeros(1, n), argnums=0)
    forms = report.jacobian
    one = 2 * n * n * depth
    assert report.forward.count.matmul_flops == report.vjp.count.matmul_flops == report.jvp.count.matmul_flops == one
    assert (forms["reverse"].walks, forms["forward"].walks, forms["product"].walks) == (n, n, 2 * depth - 1)
    assert forms["reverse"].count.matmul_flops == forms["forward"].count.matmul_flops == (n + 1) * one
    # the Jacobian of each tanh and of each product but the first is multiplied with what was before
    assert forms["product"].count.matmul_flops == one + (2 * depth - 1) * 2 * n**3
    assert {form.nbytes for form in forms.values()} == {4 * n * n}


def test_branches_are_added_in_the_dense_product():
    report = pb.cost(lambda x: pb.sin(x) * pb.cos(x), zeros(4))
    # d(product)/d(sin) d(sin)/dx + d(product)/d(cos) d(cos)/dx: two products of 4 x 4 matrices and one sum
    assert report.jacobian["product"].walks == 2
    assert report.jacobian["product"].count.flops == report.forward.count.flops + 2 * 2 * 4**3 + 4 * 4


def test_a_checkpointed_part_runs_again_and_saves_its_arguments_only():
    model = net()
    x = zeros(BATCH, SIZES[0])
    plain, checkpointed = pb.cost(model, x), pb.cost(pb.checkpoint(model), x)
    assert checkpointed.forward.count == plain.forward.count
    assert checkpointed.vjp.count.flops == plain.vjp.count.flops + plain.forward.count.flops
    assert checkpointed.saved_bytes < plain.saved_bytes


def test_nested_derivatives_are_functions_like_others():
    def f(x):
        return pb.sum(pb.tanh(x) ** 3)

    n = 10
    first, second = pb.cost(f, zeros(n)), pb.cost(pb.grad(f), zeros(n))
    assert second.forward.count.flops == first.forward.count.flops + first.vjp.count.flops
    assert (first.output_size, second.output_size) == (1, n)
    product = pb.cost(lambda x: pb.hvp(f, (x,), (x,)), zeros(n))
    assert product.forward.count.flops > second.forward.count.flops


# --- the parts and the whole ------------------------------------------------------------------------------------------


def test_layers_and_ops_add_up():
    report = pb.cost(net("gelu", layer_norm=True), zeros(BATCH, SIZES[0]))
    for phase in ("forward", "vjp", "jvp"):
        total = report.phases[phase].count
        for lines in (report.by_layer, report.by_op):
            parts = [line[phase] for line in lines.values() if phase in line]
            assert sum(part.flops for part in parts) == total.flops
            assert sum(part.read + part.written for part in parts) == total.read + total.written
    assert {"MLP.layers.0", "MLP.norms.1", "MLP.layers.2"} <= report.by_layer.keys()
    assert {"linear", "layer_norm", "gelu"} == report.by_op.keys()


def test_two_nets_of_one_class_have_two_names():
    first, second = net(), pb.nn.MLP((SIZES[-1], 2), generator=1)
    report = pb.cost(lambda x: second(first(x)), zeros(BATCH, SIZES[0]))
    assert {"MLP.layers.0", "MLP 2.layers.0"} <= report.by_layer.keys()


def test_a_report_is_readable_and_goes_into_json():
    report = pb.cost(net(), zeros(BATCH, SIZES[0]))
    text = str(report)
    for word in ("forward", "vjp", "jvp", "MLP.layers.2", "linear_tanh", "reverse", "product", "parameters"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120
    again = json.loads(json.dumps(report.to_dict()))
    assert again["phases"]["vjp"]["flops"] == report.vjp.count.flops
    assert sum(e["flops"] for e in again["entries"] if e["phase"] == "vjp") == report.vjp.count.flops


def test_a_report_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    report = pb.cost(net(), zeros(BATCH, SIZES[0]))
    figure = report.plot(tmp_path / "ledger.png")
    assert (tmp_path / "ledger.png").stat().st_size > 10_000
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(report.by_layer)
    assert len(pb.cost(pb.tanh, zeros(3)).plot().axes) == 2  # no layers: ops, and nothing saved by layer


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r"pullback\[plot\]"):
        pb.cost(pb.tanh, zeros(3)).plot()


# --- independent counts -----------------------------------------------------------------------------------------------


def test_products_are_those_that_torch_counts():
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype("float32") for shape in pairwise(SIZES)]
    x = rng.normal(size=(BATCH, SIZES[0])).astype("float32")

    def ours(x):
        for w in weights:
            x = pb.tanh(x @ w)
        return x

    def theirs(x):
        for w in map(torch.tensor, weights):
            x = torch.tanh(x @ w)
        return x

    def counted(run):
        with flop_counter.FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    report, t = pb.cost(ours, x, argnums=0), torch.tensor(x)
    forward = report.forward.count.matmul_flops
    assert counted(lambda: theirs(t)) == forward
    pulled = counted(lambda: torch.func.vjp(theirs, t)[1](torch.ones(BATCH, SIZES[-1])))
    assert pulled == forward + report.vjp.count.matmul_flops
    assert counted(lambda: torch.func.jacrev(theirs)(t)) == report.jacobian["reverse"].count.matmul_flops


# --- what is not done -------------------------------------------------------------------------------------------------


def test_a_net_that_fits_into_no_memory_is_costed():
    def costed():
        model = pb.nn.MLP((8192,) * 9, "relu", device="meta")
        return pb.cost(model, pb.zeros((8192, 8192), device="meta"))

    report, peak, _ = traced_memory(costed)
    assert report.forward.count.matmul_flops == 8 * 2 * 8192**3
    assert report.vjp.count.matmul_flops == 15 * 2 * 8192**3
    assert peak < 20e6


def test_nothing_is_left_behind():
    model = net()
    x = pb.asarray(zeros(BATCH, SIZES[0]))
    before = model(x).numpy().copy()
    pb.sum(model(x)).backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.parameters().items()}
    model.zero_grad()
    buffers = {name: p.node.grad for name, p in model.parameters().items()}
    pb.cost(model, x)
    assert all(p.node.grad is buffers[name] for name, p in model.parameters().items())
    assert model(x).numpy().tolist() == before.tolist()
    pb.sum(model(x)).backward()
    for name, p in model.parameters().items():
        assert p.grad.numpy().tolist() == gradients[name].tolist()


def test_other_threads_compute_while_one_counts():
    x, seen, inside, done = np.linspace(0, 1, 5), [], threading.Event(), threading.Event()

    def compute():
        inside.wait(10)
        seen.append(pb.sum(pb.tanh(pb.asarray(x))).item())
        done.set()

    worker = threading.Thread(target=compute)
    worker.start()

    def f(x):
        inside.set()
        assert done.wait(10)
        return pb.tanh(x)

    report = pb.cost(f, x)
    worker.join()
    assert seen == [pytest.approx(np.tanh(x).sum())] * len(seen)
    assert seen
    assert report.forward.count.flops == 5


def test_constants_of_the_function_count_like_the_rest():
    w = pb.asarray(np.ones((4, 4), "float32"))
    report = pb.cost(lambda x: pb.matmul(x, pb.exp(w)), zeros(2, 4))
    assert report.by_op["exp"]["forward"].flops == 16


def test_arguments_may_be_trees_and_anything_else():
    report = pb.cost(lambda p, k, name: p["w"] * k if name == "a" else None, {"w": zeros(3)}, 2.0, "a")
    assert (report.forward.count.flops, report.input_size) == (3, 3)
    model = net()
    labels = np.zeros(BATCH, int)
    loss = pb.cost(lambda x, labels: pb.cross_entropy(model(x), labels), zeros(BATCH, SIZES[0]), labels)
    assert (loss.inputs, loss.output_size) == ("parameters", 1)


def test_a_walk_that_has_no_rule_is_missing_and_says_why():
    only_jvp = pb.custom_rule(pb.sin, jvp=lambda tangents, out, x: pb.cos(x) * tangents[0])
    report = pb.cost(only_jvp, np.zeros(3))
    assert "vjp" not in report.phases
    assert "reverse" not in report.jacobian
    with pytest.raises(RuleError, match="it has a jvp and no vjp"):
        _ = report.vjp
    assert "no vjp" in str(report)


BAD = {
    "no tensor": (lambda: pb.cost(lambda x: 3.0, zeros(3)), TapeError, "returned float"),
    "integers": (lambda: pb.cost(pb.argmax, zeros(3)), TapeError, "returned int64"),
    "nothing to differentiate": (lambda: pb.cost(lambda n: pb.zeros(3), 2), ArgumentError, "nothing to differentiate"),
    "no such argument": (lambda: pb.cost(pb.tanh, zeros(3), argnums=1), ArgumentError, "argnums 1"),
    "a mask": (lambda: pb.cost(lambda x: x[x > 0], zeros(3)), DeviceError, "depends on numbers"),
    "positions": (lambda: pb.cost(lambda x: x[pb.nonzero(x)[0]], zeros(3)), DeviceError, "depends on numbers"),
    "a branch": (lambda: pb.cost(lambda x: x if pb.sum(x) > 0 else -x, zeros(3)), DeviceError, "no numbers to read"),
    "no function": (lambda: pb.cost(3.0, zeros(3)), pb.errors.PullbackError, "function"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    run, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        run()
    assert pb.tanh(pb.asarray(zeros(3))).numpy().tolist() == [0.0, 0.0, 0.0]  # bodies run bare again


# --- ops of users -----------------------------------------------------------------------------------------------------


@pytest.fixture
def forget():
    """Ops defined in a test are gone after it."""
    before = set(OPS)
    yield
    for name in set(OPS) - before:
        del OPS[name]


def test_an_op_whose_cost_nobody_knows_is_refused_when_it_is_defined(forget):
    with pytest.raises(
        ArgumentError, match=r"'interpolated': nobody knows what xp\.interp costs; give the op its cost="
    ):

        @op(None, None, None)
        def interpolated(xp, x: Array, at: Array, values: Array):
            """Linear interpolation."""
            return xp.interp(x, at, values)

    assert "interpolated" not in OPS


def test_an_op_that_says_what_it_costs_is_costed(forget):
    @op(
        lambda xp, g, out: g * out,
        None,
        cost=lambda x, weights, times=1: ((x.shape, x.dtype), 7 * times * x.size),
    )
    def strange(xp, x: Array, weights: Array, times: int = 1):
        """Something that no namespace of ours has."""
        return xp.interp(x, weights, weights) * times

    report = pb.cost(lambda x: strange(x, zeros(9), times=3), zeros(4))
    assert report.forward.count.flops == 7 * 3 * 4
    assert (report.forward.count.read, report.forward.count.written) == (4 * (4 + 9), 4 * 4)
    assert report.vjp.count.flops == 4
    assert strange(zeros(4), zeros(9)).shape == (4,)


def test_a_function_that_nobody_knows_is_named_where_only_the_run_shows_it(forget):
    def inside(xp, x):
        return xp.interp(x, x, x)

    @op(lambda g: g)
    def hidden(xp, x: Array):
        """A body that calls it from another function."""
        return inside(xp, x)

    with pytest.raises(RuleError, match=r"hidden: nobody knows what xp\.interp costs"):
        pb.cost(hidden, zeros(4))
