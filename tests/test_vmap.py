"""vmap: axes and trees, results of all kinds, closures, what stands beneath, and what is refused."""

import copy
import threading

import numpy as np
import pytest
import stand_in_cupy
import strict_backend

import pullback as pb
from pullback.errors import ArgumentError, DeviceError, DtypeError, IndexingError, NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5))
W = RNG.normal(size=(5, 3))


def leaf(values):
    return pb.tensor(np.asarray(values), requires_grad=True)


# --- axes and trees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_examples_may_stand_along_any_axis_of_arguments_and_results(axis):
    x = RNG.normal(size=(2, 3, 4))
    moved = np.moveaxis(x, axis, 0)

    def f(v):
        assert v.shape == moved.shape[1:]
        return pb.tanh(v) * 2.0

    for out_axis in (0, 1, 2, -1):
        found = pb.vmap(f, in_axes=axis, out_axes=out_axis)(x)
        np.testing.assert_allclose(found.numpy(), np.moveaxis(np.tanh(moved) * 2, 0, out_axis), rtol=1e-15)


def test_axes_are_trees_that_begin_as_the_arguments_and_results_do():
    def f(tree, pair, scale):
        (a, b), c = pair
        return {"sum": tree["x"] + tree["y"] * scale, "pair": (a * c, [b])}

    tree = {"y": RNG.normal(size=3), "x": X}
    pair = ((X, RNG.normal(size=(2, 4))), RNG.normal(size=5))
    mapped = pb.vmap(f, in_axes=({"x": 0, "y": None}, ((0, 1), None), None), out_axes={"sum": 1, "pair": (0, [-1])})
    tree["y"] = RNG.normal(size=5)
    found = mapped(tree, pair, 3.0)
    np.testing.assert_allclose(found["sum"].numpy(), (X + tree["y"] * 3.0).T)
    np.testing.assert_allclose(found["pair"][0].numpy(), X * pair[1])
    np.testing.assert_allclose(found["pair"][1][0].numpy(), pair[0][1])


def test_one_axis_counts_for_all_leaves_of_an_argument():
    found = pb.vmap(lambda tree, v: tree["a"] + tree["b"][0] + v, in_axes=(0, None))({"a": X, "b": [X]}, np.ones(5))
    np.testing.assert_allclose(found.numpy(), 2 * X + 1)


def test_arguments_without_an_axis_need_not_be_arrays():
    found = pb.vmap(lambda x, how, n: pb.sum(x) * n if how == "sum" else x, in_axes=(0, None, None))(X, "sum", 2)
    np.testing.assert_allclose(found.numpy(), X.sum(axis=1) * 2)


def test_keyword_arguments_are_shared_by_all_examples():
    w = leaf(W)
    found = pb.vmap(lambda x, w, bias: x @ w + bias)(X, w=w, bias=1.0)
    np.testing.assert_allclose(found.numpy(), X @ W + 1)
    pb.sum(found).backward()
    np.testing.assert_allclose(w.grad.numpy(), np.tile(X.sum(axis=0)[:, None], 3))


def test_results_that_do_not_depend_on_the_examples_are_repeated_or_given_once():
    shared = np.arange(3.0)
    f = lambda x: (x, pb.asarray(shared), 2.0)  # noqa: E731
    _, repeated, number = pb.vmap(f)(X)
    np.testing.assert_array_equal(repeated.numpy(), np.tile(shared, (4, 1)))
    np.testing.assert_array_equal(number.numpy(), np.full(4, 2.0))
    _, once, number = pb.vmap(f, out_axes=(0, None, None))(X)
    np.testing.assert_array_equal(once.numpy(), shared)
    assert number.shape == ()
    assert pb.vmap(lambda x: None)(X) is None


@pytest.mark.parametrize("count", [0, 1])
def test_no_example_and_a_single_one(count):
    x = X[:count]
    f = lambda v: (pb.sum(pb.tanh(v @ W), axis=0), v[1:], pb.sort(v), pb.sqrt(pb.sum(v * v)))  # noqa: E731
    expected = [np.tanh(x @ W).sum(axis=1), x[:, 1:], np.sort(x), np.linalg.norm(x, axis=1)]
    for found, wanted in zip(pb.vmap(f)(x), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy(), wanted)
    gradient = pb.vmap(pb.grad(lambda v: pb.sum(v**2)))(x)
    np.testing.assert_allclose(gradient.numpy(), 2 * x)
    assert pb.vmap(lambda v: pb.searchsorted(pb.asarray([0.0, 1.0]), v))(x).shape == (count, 5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_stay(dtype):
    x = X.astype(dtype)
    found = pb.vmap(lambda v: pb.sum(pb.tanh(v) * 2.0 + 1) / v.shape[0])(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.numpy(), (np.tanh(x) * 2 + 1).mean(axis=1), rtol=1e-2 if dtype == "float16" else 1e-6
    )
    gradient = pb.vmap(pb.grad(lambda v: pb.mean(pb.relu(v) ** 2)))(x)
    assert gradient.dtype == dtype


def test_integers_and_booleans_are_mapped_too():
    n = np.arange(12).reshape(4, 3)
    count, even, picked = pb.vmap(lambda v: (pb.sum(v), v % 2 == 0, pb.asarray(W)[v[0] % 5]))(n)
    assert count.dtype == np.int64
    assert even.dtype == np.bool_
    np.testing.assert_array_equal(count.numpy(), n.sum(axis=1))
    np.testing.assert_array_equal(even.numpy(), n % 2 == 0)
    np.testing.assert_array_equal(picked.numpy(), W[n[:, 0] % 5])


def test_python_at_work_inside():
    """Iteration, indexing, updates, operators from both sides, numbers in a stack."""

    def f(v):
        total = sum(entry**2 for entry in v)
        first, *_, last = v
        parts = pb.stack([first, 1.0, last])
        return 2.0 / (1.0 + total) + X[0] * v.at[1].set(0.0), parts, -v[::-1], v[..., None].shape

    found, parts, back, shape = pb.vmap(lambda v: (*f(v)[:3], f(v)[3][1]))(X)
    changed = X.copy()
    changed[:, 1] = 0
    np.testing.assert_allclose(found.numpy(), 2 / (1 + (X**2).sum(axis=1))[:, None] + X[0] * changed)
    np.testing.assert_allclose(parts.numpy(), np.stack([X[:, 0], np.ones(4), X[:, -1]], axis=1))
    np.testing.assert_allclose(back.numpy(), -X[:, ::-1])
    assert shape.shape == (4,)


# --- closures ---------------------------------------------------------------------------------------------------------


def test_backward_through_vmap_adds_the_sum_over_examples_to_leaves():
    net = pb.nn.MLP((5, 7, 3), "gelu", generator=0, dtype="float64")
    pb.sum(pb.vmap(lambda x: pb.sum(net(x) ** 2))(X)).backward()
    found = {name: p.grad.numpy().copy() for name, p in net.parameters().items()}
    net.zero_grad()
    pb.sum(net(X) ** 2).backward()
    for name, p in net.parameters().items():
        np.testing.assert_allclose(found[name], p.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_backward_inside_does_the_same():
    w = leaf(np.ones(5))

    def f(x):
        pb.sum(x * w).backward()
        return x

    pb.vmap(f)(X)
    np.testing.assert_allclose(w.grad.numpy(), X.sum(axis=0))


def test_gradients_by_parameters_differ_by_example():
    net = pb.nn.MLP((5, 7, 3), "tanh", generator=0, dtype="float64")
    labels = np.array([0, 1, 2, 1])
    weights = {name: p.detach() for name, p in net.parameters().items()}

    def loss(p, x, label):
        h = pb.linear_tanh(x, p["layers.0.weight"], p["layers.0.bias"])
        return pb.cross_entropy(pb.linear(h, p["layers.1.weight"], p["layers.1.bias"]), label)

    found = pb.vmap(pb.grad(loss), in_axes=(None, 0, 0))(weights, X, labels)
    for i in range(4):
        net.zero_grad()
        pb.cross_entropy(net(X[i]), labels[i]).backward()
        for name, p in net.parameters().items():
            np.testing.assert_allclose(found[name].numpy()[i], p.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_no_grad_and_detach_hold_inside():
    x = leaf(X)
    assert pb.vmap(pb.tanh)(x).requires_grad
    with pb.no_grad():
        assert not pb.vmap(pb.tanh)(x).requires_grad
    gradient = pb.vmap(pb.grad(lambda v: pb.sum(v.detach() * v)))(X)
    np.testing.assert_allclose(gradient.numpy(), X)


def test_random_numbers_are_the_same_for_all_examples():
    masks = pb.vmap(lambda x: pb.dropout(x, 0.5, pb.random.Generator(0)))(np.ones((3, 40))).numpy()
    assert set(np.unique(masks)) == {0.0, 2.0}
    assert (masks == masks[0]).all()
    noise = pb.vmap(lambda x: x * 0 + pb.random.Generator(1).normal((5,), dtype="float64"))(X).numpy()
    assert (noise == noise[0]).all()
    assert noise.std() > 0


# --- beneath ----------------------------------------------------------------------------------------------------------


def both(f, *args):
    """f of each argument on the CPU, for what `f` of all of them must be."""
    return [f(*[x[i] for x in args]).numpy() for i in range(len(args[0]))]


def energy(x):
    return pb.sum(pb.tanh(x @ pb.asarray(W).to(x.device)) ** 2) + pb.max(x)


def test_examples_on_the_stand_in_for_cuda():
    with stand_in_cupy.device():
        x = pb.asarray(X).to("cuda")
        value = pb.vmap(energy)(x)
        gradient = pb.vmap(pb.grad(energy))(x)
        assert value.device.startswith("cuda")
        np.testing.assert_allclose(value.numpy(), both(energy, X))
        np.testing.assert_allclose(gradient.numpy(), both(pb.grad(energy), X), rtol=1e-12)
        with pytest.raises(DeviceError, match=r"meets examples on cuda; move one of them with \.to"):
            pb.vmap(lambda v: v @ pb.asarray(W))(x)


@pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")
def test_examples_on_a_backend_that_has_only_the_standard():
    assert strict_backend.StrictBackend.name == "strict"
    x = pb.asarray(X).to("strict")
    np.testing.assert_allclose(pb.vmap(energy)(x).numpy(), both(energy, X))
    np.testing.assert_allclose(pb.vmap(pb.grad(energy))(x).numpy(), both(pb.grad(energy), X), rtol=1e-12)
    np.testing.assert_allclose(pb.vmap(lambda v: pb.vmap(lambda e: e * v[0])(v))(x).numpy(), X * X[:, :1])


def test_examples_without_numbers():
    out = pb.vmap(pb.grad(lambda x: pb.sum(pb.tanh(x @ W))))(pb.zeros((4, 5), dtype="float64", device="meta"))
    assert (out.shape, out.dtype, out.device) == ((4, 5), "float64", "meta")


def test_the_cost_of_a_mapped_function_is_that_of_all_examples():
    once = pb.cost(lambda x: pb.tanh(x @ W), X).forward.count
    closed = pb.cost(lambda w: pb.vmap(lambda x: pb.tanh(x @ w))(X), W).forward.count
    mapped = pb.cost(pb.vmap(lambda x: pb.tanh(x @ W)), X).forward.count
    assert once.flops == mapped.flops == closed.flops == 2 * 4 * 5 * 3 + 4 * 3
    inside = []
    pb.vmap(lambda x: inside.append(pb.cost(pb.tanh, x).forward.count.flops) or x)(X)
    assert inside == [5]  # of one example


def test_a_mapped_function_can_be_traced_explained_and_profiled(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path))
    f = lambda x: pb.sum(pb.vmap(lambda v: pb.sum(pb.tanh(v)))(x))  # noqa: E731
    assert "tanh" in str(pb.trace(f, X))
    assert "tanh" in str(pb.explain(f, X))
    with pb.profile() as profile:
        pb.grad(f)(X)
    assert "tanh" in str(profile)


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_detect_nonfinite_names_the_op_inside(order):
    x = X.copy()
    x[1, 2] = 0.0
    inner = lambda v: pb.sum(pb.log(v * v))  # noqa: E731
    f = pb.vmap(pb.grad(inner)) if order == "inside" else pb.grad(lambda x: pb.sum(pb.vmap(inner)(x)))
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="made by log"), pb.detect_nonfinite():
        f(x)
    with pb.detect_nonfinite():
        f(X)


def test_threads_do_not_see_the_frames_of_others():
    found, gate = {}, threading.Barrier(4)

    def work(n):
        x = RNG.normal(size=(n + 2, 5))

        def f(v):
            gate.wait(5)
            return pb.sum(v * pb.ones(5, dtype="float64")) + n

        found[n] = (pb.vmap(f)(x).numpy(), x.sum(axis=1) + n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for value, expected in found.values():
        np.testing.assert_allclose(value, expected)


# --- what is refused --------------------------------------------------------------------------------------------------

SEEN = "the numbers of 4 examples are asked for where the function sees one"


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x if x[0] > 0 else -x,
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        np.asarray,
        np.from_dlpack,
        lambda x: pb.repeat(x, pb.astype(x * x, "int64")),
        lambda x: pb.arange(pb.astype(x[0], "int64")),
        lambda x: f"{x[0]:.2f}",
    ],
)
def test_a_number_that_differs_by_example_is_not_given(f):
    with pytest.raises(ArgumentError, match=SEEN + r".*pb\.where"):
        pb.vmap(f)(X)


def test_a_number_that_all_examples_share_is_given():
    found = pb.vmap(lambda x, s: x * s.item() if s > 1 else x, in_axes=(0, None))(X, pb.asarray(3.0))
    np.testing.assert_allclose(found.numpy(), X * 3)


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda x: x[x > 0], "a mask in an index differs by example"),
        (lambda x: x.at[x > 0].set(0.0), "a mask in an index differs by example"),
        (pb.nonzero, "another shape"),
        (pb.unique_values, "another shape"),
        (lambda x: x.to("meta"), "cannot go from cpu to meta inside"),
        (copy.deepcopy, "copied"),
    ],
)
def test_what_would_differ_in_shape_or_place_is_refused(f, told):
    with pytest.raises(ArgumentError, match=told):
        pb.vmap(f)(X)


def test_a_mask_that_all_examples_share_chooses():
    mask = np.array([True, False, True, True, False])
    np.testing.assert_allclose(pb.vmap(lambda x: x[mask])(X).numpy(), X[:, mask])


@pytest.mark.parametrize(
    ("axes", "args", "error", "told"),
    [
        ({"in_axes": (0, 0)}, (X,), ArgumentError, r"in_axes \(0, 0\) does not fit the arguments"),
        ({"in_axes": "0"}, (X,), ArgumentError, "does not fit the arguments"),
        ({"in_axes": True}, (X,), ArgumentError, "does not fit the arguments"),
        ({"in_axes": 0.5}, (X,), ArgumentError, "does not fit the arguments"),
        ({"in_axes": ({"b": 0},)}, ({"a": X},), ArgumentError, "does not fit the arguments"),
        ({"in_axes": ((0, 0),)}, ([X],), ArgumentError, "does not fit the arguments"),
        ({"in_axes": 2}, (X,), ShapeError, "vmap: in_axes: axis 2 is out of range"),
        ({"out_axes": 3}, (X,), ShapeError, "vmap: out_axes: axis 3 is out of range"),
        ({"out_axes": (0, 0)}, (X,), ArgumentError, r"out_axes \(0, 0\) does not fit the result"),
        ({"out_axes": None}, (X,), ArgumentError, "out_axes is None for a result that differs by example"),
        ({"in_axes": None}, (X,), ArgumentError, "in_axes names no axis of examples"),
        ({}, (), ArgumentError, "in_axes names no axis of examples"),
        ({}, (X, X[:2]), ShapeError, "4 and 2 examples; they must agree"),
        ({}, (X, 1.0), ShapeError, "no axis of examples; give None in in_axes"),
        ({}, (X, "text"), DtypeError, "not supported"),
    ],
)
def test_axes_that_do_not_fit_are_told(axes, args, error, told):
    with pytest.raises(error, match=told):
        pb.vmap(lambda *args: args[0], **axes)(*args)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_examples_of_any_shape_are_those_of_a_loop(dtype, shape, reduction):
    """Values and slopes; with the examples along the last axis too, where all lie in column-major order."""

    def loss(x, y):
        return pb.cross_entropy(x, y, reduction=reduction)

    def slope(x, y):
        return pb.grad(lambda x: pb.sum(loss(x, y)))(x)

    logits, labels = RNG.normal(size=(5, *shape, 3)).astype(dtype), RNG.integers(0, 3, size=(5, *shape))
    tolerance = 16 * float(np.finfo(dtype).eps)
    for f in (loss, slope):
        expected = np.stack([f(x, y).numpy() for x, y in zip(logits, labels, strict=True)])
        for axis in (0, -1):
            found = pb.vmap(f, in_axes=(axis, 0))(np.ascontiguousarray(np.moveaxis(logits, 0, axis)), labels)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_an_axis_may_be_a_number_of_numpy():
    for f in (pb.softmax, pb.log_softmax):
        found = pb.vmap(lambda x, f=f: f(x, axis=np.int64(0)))(X)
        np.testing.assert_allclose(found.numpy(), f(X, axis=1).numpy(), rtol=1e-14)


@pytest.mark.parametrize("options", [{}, {"ignore_index": 0}, {"label_smoothing": 0.1}])
def test_a_wrong_label_is_named_with_its_place_among_all_examples(options):
    logits, labels = np.zeros((4, 2, 3)), np.array([[0, 1], [2, 0], [1, 5], [0, 0]])
    with pytest.raises(IndexingError, match=r"cross_entropy: label 5 \(number 5\) is out of range for 3 classes"):
        pb.vmap(lambda x, y: pb.cross_entropy(x, y, **options))(logits, labels)


def test_what_is_no_function_is_told():
    with pytest.raises(DtypeError, match="vmap: its first argument is a function"):
        pb.vmap(3)


def test_an_array_of_examples_is_of_no_use_outside():
    kept, w = [], leaf(np.ones(5))
    pb.vmap(lambda x: kept.append(x * w) or x)(X)
    told = "used outside of the function that was mapped; return it from there"
    for use in (
        lambda x: x.numpy(),
        lambda x: (pb.sin(x) + X[0]).numpy(),
        lambda x: bool(x[0] > 0),
        lambda x: pb.vmap(lambda y: y + x)(X),
        lambda x: pb.vmap(lambda y: x)(X),
    ):
        with pytest.raises(ArgumentError, match=told):
            use(kept[0])


def test_an_array_of_an_inner_call_is_of_no_use_in_the_outer():
    kept = []

    def f(x):
        pb.vmap(lambda y: kept.append(y) or y)(x)
        return x + kept[-1]

    with pytest.raises(ArgumentError, match="return it from there"):
        pb.vmap(f)(X)


def test_it_prints_as_one_of_many(capsys):
    pb.vmap(lambda x: print(x, f"{x[0]}") or x)(X)
    assert capsys.readouterr().out == (
        "Tensor(one of 4 examples, shape=(5,), dtype=float64) Tensor(one of 4 examples, shape=(), dtype=float64)\n"
    )


def test_an_error_of_the_function_leaves_no_frame_behind():
    def broken(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pb.vmap(broken)(X)
    np.testing.assert_allclose(pb.tanh(X).numpy(), np.tanh(X))
    assert pb.grad(pb.sum)(X[0]).shape == (5,)


def test_errors_of_ops_show_the_shapes_of_one_example():
    with pytest.raises(ShapeError, match=r"\(5,\)"):
        pb.vmap(lambda x: x @ pb.ones((4, 4), dtype="float64"))(X)
