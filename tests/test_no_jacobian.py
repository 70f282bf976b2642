"""`no_jacobian`: everything that trains passes under it, and everything that forms a Jacobian does not."""

import inspect
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import stand_in_cupy
from op_cases import DIFFERENTIABLE, cases, random_like

import pullback as pb
from pullback.backends import backend_for
from pullback.backends.meta.metering import metering
from pullback.core.define import Array, op
from pullback.core.op import OPS, Sample
from pullback.errors import RuleError
from pullback.nn.layers import ACTIVATIONS

HERE = str(inspect.getsourcefile(lambda: None))
RNG = np.random.default_rng(0)


def refused(f, *args):
    """The message of the error that `f` raises in the context."""
    with pytest.raises(RuleError) as caught, pb.no_jacobian():
        f(*args)
    return str(caught.value)


def line_of(text):
    """Where in this file the one line with `text` stands."""
    lines = Path(HERE).read_text().splitlines()
    numbers = [i for i, line in enumerate(lines, 1) if text in line and "line_of(" not in line]
    assert len(numbers) == 1, numbers
    return f"{HERE}:{numbers[0]}: "


# --- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("the_op", DIFFERENTIABLE, ids=repr)
def test_no_rule_of_the_table_forms_a_jacobian(the_op):
    """VJP, JVP and, forward over reverse, the derivative of the VJP of every sample."""
    with pb.no_jacobian():
        for case in (case for case in cases([the_op]) if case.primals):
            out, pull = pb.vjp(case, *case.primals)
            cotangents = tuple(random_like(RNG, out))
            pull(cotangents)
            direction = random_like(RNG, case.primals)
            pb.jvp(case, case.primals, direction)
            pb.jvp(lambda *x, case=case, u=cotangents: pb.vjp(case, *x)[1](u), case.primals, direction)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_nets_of_every_activation_train(activation):
    class Net(pb.nn.Module):
        def __init__(self):
            source = pb.random.Generator(0)
            self.first = pb.nn.Linear(5, 8, activation=activation, generator=source)
            self.norm = pb.nn.LayerNorm(8)
            self.drop = pb.nn.Dropout(0.5, generator=source)
            self.last = pb.nn.Linear(8, 3, generator=source)

        def forward(self, x):
            h = self.drop(self.norm(self.first(x)))
            return self.last(h if activation is None else getattr(pb.nn, activation)(h))

    net, x, labels = Net(), RNG.normal(size=(7, 5)).astype("float32"), np.arange(7) % 3
    with pb.no_jacobian():
        pb.nn.cross_entropy(net(x), labels).backward()
    assert all(p.grad is not None for p in net.parameters().values())


LOSSES = {
    "cross_entropy": np.arange(6) % 4,
    "binary_cross_entropy": RNG.integers(0, 2, (6, 4)).astype("float64"),
    "logistic_loss": RNG.choice([-1.0, 1.0], (6, 4)),
    "hinge_loss": RNG.choice([-1.0, 1.0], (6, 4)),
}


@pytest.mark.parametrize("name", [name for name in OPS if name.endswith(("_loss", "cross_entropy"))])
def test_every_loss_can_be_pulled_and_differentiated_twice(name):
    target = LOSSES.get(name, RNG.uniform(0.1, 0.9, (6, 4)))
    scores = RNG.uniform(0.1, 0.9, (6, 4))

    def loss(x):
        return pb.mean(getattr(pb, name)(x, target))

    with pb.no_jacobian():
        assert np.isfinite(pb.grad(loss)(scores).numpy()).all()
        pb.hvp(loss, (scores,), (np.ones_like(scores),))


@pytest.mark.parametrize("make", [pb.optim.SGD, pb.optim.Adam, pb.optim.AdamW], ids=lambda make: make.__name__)
def test_training_passes_with_every_optimizer(make):
    net = pb.nn.MLP([6, 9, 9, 4], activation="gelu", generator=pb.random.Generator(0))
    x, labels = RNG.normal(size=(16, 6)).astype("float32"), RNG.integers(0, 4, 16)
    optimizer, losses = make(net.parameters(), lr=0.02), []
    with pb.no_jacobian():
        for _ in range(20):
            loss = pb.nn.cross_entropy(net(x), labels)
            optimizer.zero_grad()
            loss.backward()
            pb.optim.clip_grad_norm(net.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_training_on_the_digits_passes(tmp_path):
    from pullback.cli import main

    with pb.no_jacobian():
        main(["train", "--epochs", "1", "--quiet", "--out", str(tmp_path)])


def small(x):
    """From two numbers through a thousand to two: m n = 4, and nothing in between is a Jacobian."""
    wide = pb.tanh(x @ np.linspace(-1.0, 1.0, 2000).reshape(2, 1000))
    return wide @ np.linspace(1.0, -1.0, 2000).reshape(1000, 2)


def test_an_array_in_between_may_be_larger_than_the_jacobian_of_the_whole():
    x, t = np.array([0.3, -0.2]), np.ones(2)
    for f in (small, pb.checkpoint(small)):
        with pb.no_jacobian():
            pb.vjp(f, x)[1](t)
            pb.jvp(f, (x,), (t,))
            pb.hvp(lambda x, f=f: pb.sum(f(x) ** 2), (x,), (t,))
            pb.grad(pb.checkpoint(lambda x, f=f: pb.sum(f(x))))(x)


def test_a_checkpoint_may_compute_what_looks_like_its_jacobian():
    """x x' has the shape of a Jacobian of x -> (x x') x, and is none."""

    def f(x):
        return pb.outer(x, x) @ x

    for g in (f, pb.checkpoint(f)):
        with pb.no_jacobian():
            pb.vjp(g, np.ones(3))[1](np.ones(3))
            pb.jvp(g, (np.ones(3),), (np.ones(3),))


def test_products_with_the_hessian_pass():
    net = pb.nn.MLP([4, 6, 3], activation="tanh", generator=pb.random.Generator(0), dtype="float64")
    x, labels = RNG.normal(size=(5, 4)), np.arange(5) % 3
    params = {name: p.numpy() for name, p in net.parameters().items()}
    direction = {name: np.ones_like(p) for name, p in params.items()}

    def loss(params):
        return pb.nn.cross_entropy(net.apply(params, x), labels)

    def along(params):
        gradient = pb.grad(loss)(params)
        return sum((pb.sum(gradient[name] * direction[name]) for name in direction), start=pb.asarray(0.0))

    with pb.no_jacobian():
        (forward_over_reverse,) = pb.hvp(loss, (params,), (direction,))
        reverse_over_reverse = pb.grad(along)(params)
    for name in params:
        np.testing.assert_allclose(forward_over_reverse[name].numpy(), reverse_over_reverse[name].numpy(), rtol=1e-9)


def test_custom_rules_that_are_products_pass():
    rectify = pb.custom_rule(
        lambda x: pb.maximum(x, 0.0), vjp=lambda g, out, x: (g * (x > 0),), jvp=lambda t, out, x: t[0] * (x > 0)
    )
    x = RNG.normal(size=(6,))
    with pb.no_jacobian():
        pb.vjp(rectify, x)[1](x)
        pb.jvp(rectify, (x,), (x,))
        pb.grad(lambda x: pb.sum(rectify(x) ** 2))(x)
        pb.jvp(pb.custom_rule(lambda x: x * 2.0, vjp=lambda g, out, x: (g * 2.0,)), (x,), (x,))


def test_ops_whose_shapes_depend_on_numbers_pass():
    x = RNG.normal(size=(6, 3))
    with pb.no_jacobian():
        pb.grad(lambda x: pb.sum(x[x.numpy() > 0] ** 2))(x)
        pb.vjp(lambda x: x[pb.nonzero(x.detach() > 0)], x)
        pb.vjp(lambda x: pb.sort(x, axis=0)[1:], x)[1](np.ones((5, 3)))


def test_less_than_all_rows_may_be_joined():
    out, pull = pb.vjp(small, np.array([0.3, -0.2]))
    x = np.ones(5)
    with pb.no_jacobian():
        pb.stack([pull(np.ones(2))[0]])
        _, wide_pull = pb.vjp(pb.tanh, x)
        probes = pb.stack([wide_pull(RNG.normal(size=5))[0] for _ in range(4)])
        total = sum((wide_pull(RNG.normal(size=5))[0] for _ in range(9)), start=pb.asarray(np.zeros(5)))
        assert (total.shape, probes.shape) == ((5,), (4, 5))
        assert pb.outer(total, np.ones(5)).shape == (5, 5)
    assert out.shape == (2,)


def test_a_layer_of_1000_to_5000_never_forms_its_jacobian():
    """Its Jacobian by x has 5,000,000 numbers, as its weights have; with fixed weights nothing as large is made."""
    x, w = np.zeros(1000, "float32"), np.zeros((1000, 5000), "float32")
    u = np.ones(5000, "float32")

    class Largest:
        most = 0

        def allocate(self, nbytes, shape=()):
            self.most = max(self.most, int(np.prod(shape)))

        def release(self, nbytes):
            pass

        def enter(self, name):
            pass

        def leave(self):
            pass

        def work(self, name, flops, multiply_adds, read, written):
            pass

    with pb.no_jacobian():
        pb.vjp(lambda x: pb.tanh(x @ w), x)[1](u)
        pb.jvp(lambda x: pb.tanh(x @ w), (x,), (x,))
        pb.vjp(pb.linear, x[None], w)[1](u[None])
    meter = Largest()
    with metering(meter):
        meta_x, meta_w = pb.tensor(x, device="meta"), pb.tensor(w, device="meta")
        meter.most = 0
        pb.vjp(lambda x: pb.tanh(x @ meta_w), meta_x)[1](pb.tensor(u, device="meta"))
    assert meter.most == 5000


def test_on_a_device_training_passes():
    with stand_in_cupy.device(kernels_on=False), pb.no_jacobian():
        x = pb.tensor(RNG.normal(size=(4, 3)), device="cuda", requires_grad=True)
        pb.sum(pb.softmax(pb.tanh(x)) ** 2).backward()
        assert x.grad.shape == (4, 3)


# --- what does not ----------------------------------------------------------------------------------------------------


def test_a_custom_rule_with_a_dense_jacobian_is_refused():
    def rectified(x):
        return pb.maximum(x, 0.0)

    def by_diagonal(g, out, x):
        return (g @ pb.where(pb.asarray(np.eye(6, dtype=bool)), x > 0, 0.0),)

    dense = pb.custom_rule(rectified, vjp=by_diagonal)
    x = RNG.normal(size=6)

    def step():
        y = dense(x_leaf)  # its rule is dense
        pb.sum(y**2).backward()

    x_leaf = pb.tensor(x, requires_grad=True)
    text = refused(step)
    assert "the pull of rectified made an array of shape (6, 6) (in where)" in text
    assert "at " + line_of("# its rule is dense") + "y = dense(x_leaf)" in text
    assert x_leaf.grad is None
    assert "(6, 6)" in refused(lambda: pb.vjp(dense, x)[1](x))
    pushed = pb.custom_rule(rectified, jvp=lambda t, out, x: pb.asarray(np.diag((x.numpy() > 0) * 1.0)) * 1.0 @ t[0])
    assert "the push of rectified made an array of shape (6, 6)" in refused(lambda: pb.jvp(pushed, (x,), (x,)))


def test_the_dense_jacobian_by_one_of_several_inputs_is_refused():
    """d(x w)/dx for a batch of three, as a matrix of 12 by 15."""

    def product(x, w):
        return x @ w

    def rule(g, out, x, w):
        jacobian = pb.kron(pb.asarray(np.eye(3)), w)
        return pb.reshape(jacobian @ pb.reshape(g, (12,)), (3, 5)), x.mT @ g

    dense = pb.custom_rule(product, vjp=rule)
    x, w = RNG.normal(size=(3, 5)), RNG.normal(size=(5, 4))
    text = refused(lambda: pb.vjp(dense, x, w)[1](np.ones((3, 4))))
    assert "the pull of product made an array of shape (3, 5, 3, 4) (in multiply)" in text
    assert "by 35 of its inputs" not in text
    sparse = pb.custom_rule(product, vjp=lambda g, out, x, w: (g @ w.mT, x.mT @ g))
    with pb.no_jacobian():
        pb.vjp(sparse, x, w)[1](np.ones((3, 4)))
        pb.vjp(sparse, x[:1], w)[1](np.ones((1, 4)))  # the cotangent of w is as large as the Jacobian by x


@pytest.fixture
def dense_ops():
    """Ops of the table, until the test ends, whose rules form Jacobians: by `eye`, by operators, by a broadcast."""
    x = np.linspace(-1, 1, 7)

    def samples(rng):
        yield Sample((x,))

    @op(lambda xp, g, out: xp.matmul(g, np.eye(7) * out), jvp=lambda xp, t, out: out * t, samples=samples)
    def dense_by_eye(xp, x: Array):
        """e^x, by a dense rule."""
        return xp.exp(x)

    @op(lambda g, out: (out[:, None] * g[None, :])[:, 0] * 0 + g * out, jvp=None, samples=samples)
    def dense_by_operators(xp, x: Array):
        """e^x, by a rule that throws its outer product away."""
        return xp.exp(x)

    @op(
        lambda g, out: g * out,
        jvp=lambda xp, t, out: xp.sum(np.eye(7) * (out * t), axis=1),
        samples=samples,
    )
    def dense_in_forward_mode(xp, x: Array):
        """e^x, by a dense JVP."""
        return xp.exp(x)

    yield x
    for name in ("dense_by_eye", "dense_by_operators", "dense_in_forward_mode"):
        del OPS[name]


def test_rules_of_ops_with_dense_arrays_are_refused_also_where_they_are_temporary(dense_ops):
    class Exponential(pb.nn.Module):
        def forward(self, x):
            return OPS["dense_by_eye"].call(x)  # in a layer

    class Net(pb.nn.Module):
        def __init__(self):
            self.layers = [Exponential()]

        def forward(self, x):
            return self.layers[0](x)

    text = refused(lambda: pb.sum(Net()(pb.tensor(dense_ops, requires_grad=True))).backward())
    assert "the pull of dense_by_eye made an array of shape (7, 7) (in its rule)" in text
    assert "in layer layers.0 (Exponential in Net)" in text
    assert line_of("# in a layer") in text
    by_operators, pushed = OPS["dense_by_operators"].call, OPS["dense_in_forward_mode"].call
    assert "(7, 7)" in refused(lambda: pb.grad(lambda x: pb.sum(by_operators(x)))(dense_ops))
    assert "push of dense_in_forward_mode" in refused(lambda: pb.jvp(pushed, (dense_ops,), (dense_ops,)))
    assert "pull of dense_by_eye" in refused(
        lambda: pb.hvp(lambda x: pb.sum(OPS["dense_by_eye"].call(x)), (dense_ops,), (dense_ops,))
    )
    with pb.no_jacobian():
        pb.grad(lambda x: pb.sum(pushed(x)))(dense_ops)


def f(x):
    return pb.tanh(x) * pb.sum(x)


def test_rows_of_a_jacobian_may_not_be_joined():
    x, basis = RNG.normal(size=4), np.eye(4)

    def by_stack():
        _, pull = pb.vjp(f, x)
        rows = [pull(u)[0] for u in basis]
        return pb.stack(rows)  # the Jacobian

    def by_concatenation():
        _, pull = pb.vjp(f, x)
        return pb.concat([pb.reshape(pull(u)[0], (1, 4)) for u in basis])

    def by_writing():
        _, pull = pb.vjp(f, x)
        jacobian = pb.zeros((4, 4))
        for i, u in enumerate(basis):
            jacobian = jacobian.at[i].set(pull(u)[0].astype("float32"))

    def by_outer_products():
        _, pull = pb.vjp(f, x)
        return sum((pb.outer(u, pull(u)[0]) for u in basis), start=pb.asarray(np.zeros((4, 4))))

    def by_backward():
        leaf, rows = pb.tensor(x, requires_grad=True), []
        y = f(leaf)
        for u in basis:
            leaf.zero_grad()
            y.backward(u, retain=True)
            rows.append(leaf.grad)
        return pb.stack(rows)

    text = refused(by_stack)
    assert text.startswith(
        "stack: no_jacobian: its value of shape (4, 4) holds 4 VJPs of 4 numbers each by one function"
    )
    assert line_of("# the Jacobian") in text
    for form in (by_concatenation, by_writing, by_outer_products, by_backward):
        assert "holds 4 VJPs" in refused(form)
        form()


def test_columns_of_a_jacobian_may_not_be_joined():
    x, basis = RNG.normal(size=4), np.eye(4)

    def by_linearize():
        _, push = pb.linearize(f, x)
        return pb.stack([push(t) for t in basis], axis=-1)

    assert "holds 4 JVPs of 4 numbers each" in refused(by_linearize)


def test_transforms_that_form_a_jacobian_are_refused():
    x = RNG.normal(size=4)
    assert "hessian: no_jacobian: it forms the Jacobian of 4 numbers by 4" in refused(
        pb.hessian(lambda x: pb.sum(f(x))), x
    )
    for mode in ("auto", "reverse", "forward", "planned"):
        assert "jacobian: no_jacobian: it forms" in refused(pb.jacobian(pb.tanh, mode=mode), x)
    with pb.no_jacobian():
        pb.jacobian(pb.sum)(x)
        pb.hessian(pb.tanh)(0.5)


def test_other_threads_are_not_watched():
    x, outcomes = RNG.normal(size=4), []

    def jacobian():
        _, pull = pb.vjp(f, x)
        outcomes.append(pb.stack([pull(u)[0] for u in np.eye(4)]).shape)

    with pb.no_jacobian():
        thread = threading.Thread(target=jacobian)
        thread.start()
        thread.join()
    assert outcomes == [(4, 4)]


def test_nothing_is_left_behind():
    x = pb.tensor(np.ones(3), requires_grad=True)
    with pb.no_jacobian() as guard:
        pb.sum(pb.exp(x)).backward()
    with pb.no_grad(), pb.no_jacobian():
        assert pb.exp(x).node is None
    assert not guard._places
    assert not guard._rows
    assert all(op.bodies[np.ndarray].__name__ != "watched" for op in (OPS["exp"], OPS["sum"]))


# --- what a gradient costs --------------------------------------------------------------------------------------------


class Products:
    """Counts the operations of products of matrices."""

    flops = 0

    def work(self, name, flops, multiply_adds, read, written):
        self.flops += 2 * multiply_adds

    def allocate(self, nbytes, shape=()):
        pass

    def release(self, nbytes):
        pass

    def enter(self, name):
        pass

    def leave(self):
        pass


def test_the_gradient_of_an_mlp_costs_at_most_three_forwards_of_products():
    """Forward: 2 B D D' for each layer. Backward: the same for the weights and, but for the first layer, whose input
    needs no cotangent, the same for the inputs. So the whole is 3 forwards less the first layer's 2 B D D'."""
    sizes, batch = (64, 48, 32, 10), 16
    layers = [2 * batch * a * b for a, b in pairwise(sizes)]
    net = pb.nn.MLP(sizes, activation="relu").to("meta")
    x, labels = pb.tensor(np.zeros((batch, 64), "float32"), device="meta"), np.zeros(batch, "int64")
    params = net.parameters()

    def counted(f):
        meter = Products()
        with metering(meter):
            f()
        return meter.flops

    def loss(params, x):
        return pb.nn.cross_entropy(net.apply(params, x), labels)

    forward = sum(layers)
    assert counted(lambda: loss(params, x)) == forward
    assert counted(lambda: loss(params, x).backward()) == 3 * forward - layers[0]
    assert counted(lambda: pb.value_and_grad(loss)(params, x)) == 3 * forward - layers[0]
    assert counted(lambda: pb.value_and_grad(loss, (0, 1))(params, x)) == 3 * forward
    assert counted(lambda: pb.grad(loss, 1)({n: p.detach() for n, p in params.items()}, x)) == 2 * forward
    assert (3 * forward - layers[0]) / forward < 2.5
    assert backend_for("meta").name == "meta"
