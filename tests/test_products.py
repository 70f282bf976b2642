"""Products of vectors, matrices and tensors against NumPy, with gradients by central differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import pullback as pb
from pullback.core.tape import tape_of
from pullback.errors import ArgumentError, DtypeError, LinearAlgebraError, ShapeError

rng = np.random.default_rng(0)
quick = settings(max_examples=60, deadline=None)


def normal(*shape):
    return rng.normal(size=shape)


def assert_gradients_are_central_differences(f, *primals, tolerance=1e-7):
    """<J' u, v> for random u and v against the central difference of <u, f> along v."""
    out, pull = pb.vjp(f, *primals)
    u = np.asarray(normal(*out.shape))
    cotangents = pull(u)
    assert [g.shape for g in cotangents] == [x.shape for x in primals]
    directions = [np.asarray(normal(*x.shape)) for x in primals]
    slope = sum(float(np.sum(g.numpy() * v)) for g, v in zip(cotangents, directions, strict=True))

    def at(step):
        moved = [np.asarray(x + step * v) for x, v in zip(primals, directions, strict=True)]
        return float(np.sum(u * f(*moved).numpy()))

    expected = (at(1e-5) - at(-1e-5)) / 2e-5
    assert slope == pytest.approx(expected, rel=tolerance, abs=tolerance * (1 + abs(expected)))


def lines_of(out):
    """The lines of the tape that a value comes from."""
    return tape_of([out.node])


# --- matmul and linear ------------------------------------------------------------------------------------------------


@quick
@given(mutually_broadcastable_shapes(signature=np.matmul.signature, min_side=0, max_side=3, max_dims=2))
def test_matmul_of_all_ranks_is_numpys_with_gradients(shapes):
    a, b = (normal(*shape) for shape in shapes.input_shapes)
    np.testing.assert_allclose(pb.matmul(a, b).numpy(), np.matmul(a, b), rtol=1e-13, atol=1e-13)
    assert_gradients_are_central_differences(pb.matmul, a, b)


def test_the_gradient_of_a_matrix_product_takes_one_product_each_and_keeps_only_what_it_needs():
    a, b = pb.tensor(normal(2, 3), requires_grad=True), pb.tensor(normal(3, 4))
    out = pb.matmul(a, b)
    kept = [x for x in out.node.saved if isinstance(x, np.ndarray)]
    assert len(kept) == 1
    assert kept[0] is b.data
    out.backward(g := normal(2, 4))
    np.testing.assert_array_equal(a.grad.numpy(), g @ b.data.T)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_product_and_a_sum_of_any_rank(shape, bias):
    x, w, b = normal(*shape), normal(3, 4), normal(4)
    primals = (x, w, b) if bias else (x, w)
    np.testing.assert_allclose(pb.linear(*primals).numpy(), x @ w + (b if bias else 0), rtol=1e-13)
    assert_gradients_are_central_differences(pb.linear, *primals)


def test_linear_widens_to_a_wider_bias_and_gives_each_gradient_its_own_dtype():
    x, w = pb.tensor(normal(5, 3), "float32", requires_grad=True), pb.tensor(normal(3, 4), "float32")
    b = pb.tensor(normal(4), "float64", requires_grad=True)
    out = pb.linear(x, w, b)
    np.testing.assert_allclose(out.numpy(), x.data @ w.data + b.data, rtol=1e-15)
    out.sum().backward()
    assert (out.dtype, x.grad.dtype, b.grad.dtype) == (np.float64, np.float32, np.float64)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 3), (2, 3)), "3 is not 2"),
        (((2, 3), (2,)), "only axis"),
        (((2, 3, 4), (3, 4, 5)), "do not broadcast"),
        (((), (3,)), r"with \*"),
    ],
)
def test_matmul_says_which_axes_have_to_agree(shapes, words):
    with pytest.raises(ShapeError, match=words):
        pb.matmul(*(np.ones(shape) for shape in shapes))


def test_linear_refuses_a_bias_that_would_broadcast():
    x, w = np.ones((2, 3)), np.ones((3, 4))
    for b in (np.ones(3), np.ones((2, 4)), np.ones(1), np.ones(())):
        with pytest.raises(ShapeError, match="one number per column"):
            pb.linear(x, w, b)
    with pytest.raises(ShapeError, match="w is a matrix"):
        pb.linear(x, np.ones(3))
    with pytest.raises(ShapeError, match="have to agree"):
        pb.linear(x, np.ones((2, 4)))


# --- vecdot, outer, cross, tensordot, kron, matrix_power --------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "axis"), [((3,), (3,), -1), ((4, 1, 3), (2, 3), -1), ((3, 2), (3, 1), 0), ((0,), (2, 0), -1)]
)
def test_vecdot_is_numpys(left, right, axis):
    a, b = normal(*left), normal(*right)
    np.testing.assert_allclose(pb.vecdot(a, b, axis=axis).numpy(), np.vecdot(a, b, axis=axis), rtol=1e-13)
    assert_gradients_are_central_differences(lambda x, y: pb.vecdot(x, y, axis=axis), a, b)


def test_cross_and_outer_are_numpys():
    a, b = normal(4, 1, 3), normal(2, 3)
    np.testing.assert_allclose(pb.cross(a, b).numpy(), np.cross(a, b), rtol=1e-13)
    np.testing.assert_allclose(pb.cross(a.T, a.T, axis=0).numpy(), np.zeros((3, 1, 4)))
    assert_gradients_are_central_differences(pb.cross, a, b)
    np.testing.assert_array_equal(pb.outer(a[0, 0], b[0]).numpy(), np.outer(a[0, 0], b[0]))


@pytest.mark.parametrize("call", [pb.vecdot, pb.cross])
def test_axes_are_counted_from_the_end_where_ranks_differ(call):
    with pytest.raises(ArgumentError, match="negative axis"):
        call(np.ones((3, 3)), np.ones(3), axis=0)
    with pytest.raises(ShapeError, match="out of range"):
        call(np.ones((3, 3)), np.ones(3), axis=-2)


@pytest.mark.parametrize(
    ("left", "right", "axes"),
    [
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (4,), 0),
        ((2, 3, 4), (4, 5, 3), ((1, -1), (2, 0))),
        ((0, 3), (3, 2), 1),
        ((2, 0), (0, 2), 1),
    ],
)
def test_tensordot_is_numpys(left, right, axes):
    a, b = normal(*left), normal(*right)
    np.testing.assert_allclose(pb.tensordot(a, b, axes).numpy(), np.tensordot(a, b, axes), rtol=1e-13, atol=1e-13)
    assert_gradients_are_central_differences(lambda x, y: pb.tensordot(x, y, axes), a, b)


def test_tensordot_says_what_does_not_pair():
    a = np.ones((2, 3))
    with pytest.raises(ShapeError, match="lengths have to agree"):
        pb.tensordot(a, a, 1)
    with pytest.raises(ShapeError, match="cannot pair 3 axes"):
        pb.tensordot(a, a, 3)
    with pytest.raises(ArgumentError, match="give as many"):
        pb.tensordot(a, a, ((0, 1), (0,)))


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (4, 2)), ((2,), (3, 2)), ((2, 1, 2), (3,)), ((), (2,)), ((0, 2), (2, 2))]
)
def test_kron_is_numpys(left, right):
    a, b = normal(*left), normal(*right)
    np.testing.assert_allclose(pb.kron(a, b).numpy(), np.kron(a, b), rtol=1e-13)
    assert_gradients_are_central_differences(pb.kron, a, b)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 12, -1, -4])
def test_matrix_power_is_numpys(n):
    x = normal(2, 3, 3) * 0.3 + np.eye(3)
    np.testing.assert_allclose(pb.matrix_power(x, n).numpy(), np.linalg.matrix_power(x, n), rtol=1e-11, atol=1e-12)
    assert_gradients_are_central_differences(lambda y: pb.matrix_power(y, n), x, tolerance=1e-6)


def test_matrix_power_takes_few_products():
    out = pb.matrix_power(pb.tensor(np.eye(2), requires_grad=True), 1000)
    products = [line for line in lines_of(out) if line.op.name == "matmul"]
    assert len(products) == 9 + 5  # squarings, and a product for each one but the first in 0b1111101000


def test_matrix_power_refuses_other_exponents_and_singular_inverses():
    with pytest.raises(ArgumentError, match="exponent is an int"):
        pb.matrix_power(np.eye(2), 0.5)
    with pytest.raises(ShapeError, match="square"):
        pb.matrix_power(np.ones((2, 3)), 2)
    with pytest.raises(LinearAlgebraError, match="singular"):
        pb.matrix_power(np.zeros((2, 2)), -1)


# --- einsum -----------------------------------------------------------------------------------------------------------


@st.composite
def contractions(draw):
    """Subscripts with one to four operands over up to five indices, some repeated, some broadcast, with operands."""
    lengths = {label: draw(st.sampled_from([0, 1, 2, 3]), label=label) for label in "abcde"}
    extra = draw(st.lists(st.sampled_from([1, 2]), max_size=2))
    terms, arrays = [], []
    for _ in range(draw(st.integers(1, 4))):
        labels = draw(st.lists(st.sampled_from("abcde"), max_size=3))
        unit = draw(st.sampled_from(["", *labels])) if len(set(labels)) == len(labels) else ""
        shape = [1 if label == unit else lengths[label] for label in labels]
        name = "".join(labels)
        if extra and draw(st.booleans()):
            place = draw(st.integers(0, len(labels)))
            width = draw(st.integers(0, len(extra)))
            name = f"{name[:place]}...{name[place:]}"
            shape[place:place] = extra[len(extra) - width :]
        terms.append(name)
        arrays.append(normal(*shape))
    given = ",".join(terms)
    if draw(st.booleans()):
        return given, arrays
    known = sorted(set(given) - set(".,"))
    output = draw(st.permutations(known))[: draw(st.integers(0, len(known)))]
    return f"{given}->{'...' if '...' in given else ''}{''.join(output)}", arrays


@settings(max_examples=200, deadline=None)
@given(contractions())
def test_einsum_is_numpys_with_gradients(case):
    subscripts, arrays = case
    out = pb.einsum(subscripts, *arrays)
    expected = np.einsum(subscripts, *arrays)
    assert out.shape == expected.shape
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert_gradients_are_central_differences(lambda *x: pb.einsum(subscripts, *x), *arrays, tolerance=1e-6)


def test_the_gradient_of_each_operand_of_einsum_is_an_einsum():
    a, b, c, g = normal(2, 3), normal(3, 4), normal(4, 4), normal(2)
    _, pull = pb.vjp(lambda *x: pb.einsum("ij,jk,kk->i", *x), a, b, c)
    by_a, by_b, by_c = pull(g)
    np.testing.assert_allclose(by_a.numpy(), np.einsum("i,jk,kk->ij", g, b, c), rtol=1e-13)
    np.testing.assert_allclose(by_b.numpy(), np.einsum("i,ij,kk->jk", g, a, c), rtol=1e-13)
    np.testing.assert_allclose(by_c.numpy(), np.diag(np.einsum("i,ij,jk->k", g, a, b)), rtol=1e-13)


def test_an_einsum_that_changes_nothing_is_still_a_value_of_its_own():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    assert not pb.einsum("i->i", x).is_leaf


def test_a_chain_of_matrices_and_a_vector_is_contracted_from_the_vector():
    """The greedy order needs 20,000 products; from left to right it would be 8,000,000."""
    a = [pb.tensor(np.eye(100), requires_grad=True) for _ in range(2)]
    v = pb.tensor(np.ones(100), requires_grad=True)
    out = pb.einsum("ij,jk,k->i", *a, v)
    products = [line.saved for line in lines_of(out) if line.op.name == "matmul"]
    sizes = [sorted(x.size for x in saved if isinstance(x, np.ndarray)) for saved in products]
    assert sizes == [[100, 100 * 100]] * 2  # a matrix and a vector each
    out.sum().backward()
    np.testing.assert_array_equal(a[0].grad.numpy(), np.ones((100, 100)))


@pytest.mark.parametrize(
    ("subscripts", "shapes", "error", "words"),
    [
        ("ij,jk", [(2, 3), (2, 3)], ShapeError, "'ij,jk': index j has length 2 in operand 1"),
        ("ii", [(2, 3)], ShapeError, "index i is repeated in operand 0"),
        ("ijk", [(2, 3)], ShapeError, "operand 0 has 2 axes, its subscripts 'ijk' name 3"),
        ("i", [(2, 3)], ShapeError, "operand 0 has 2 axes"),
        ("...i,...i", [(2, 3), (4, 3)], ShapeError, r"index \.\.\. has length 4"),
        ("ij,jk->iz", [(2, 3), (3, 2)], ArgumentError, "names z, which no operand has"),
        ("ij->ii", [(2, 3)], ArgumentError, "names an index twice"),
        ("...i->i", [(2, 3)], ArgumentError, r"needs '\.\.\.'"),
        ("i1", [(2, 3)], ArgumentError, "'i1' is not made of letters"),
        ("i->j->k", [(2,)], ArgumentError, "not made of letters"),
        ("ij,jk->ik", [(2, 3)], ArgumentError, "name 2 operands, 1 were given"),
    ],
)
def test_wrong_subscripts_are_quoted(subscripts, shapes, error, words):
    with pytest.raises(error, match=words):
        pb.einsum(subscripts, *(np.ones(shape) for shape in shapes))


def test_einsum_asks_for_text_and_arrays():
    with pytest.raises(ArgumentError, match="text of subscripts"):
        pb.einsum(np.ones(2), [0])
    with pytest.raises(ArgumentError, match="operand 1 is an array"):
        pb.einsum("i,", np.ones(2), 2.0)


# --- composites take what other ops take ------------------------------------------------------------------------------


def test_lists_and_keywords_go_into_composites():
    np.testing.assert_array_equal(pb.kron([[1.0, 2.0]], b=[[3.0], [4.0]]).numpy(), [[3, 6], [4, 8]])
    assert pb.einsum("i,i", [1.0, 2.0], np.asarray([3.0, 4.0], "float32")).item() == 11


def test_what_goes_wrong_in_a_composite_names_it_and_what_it_met():
    with pytest.raises(DtypeError, match="kron: argument a: <U4 is not supported"):
        pb.kron("text", np.ones(2))
    with pytest.raises(DtypeError, match=r"tensordot: .*missing 1 required"):
        pb.tensordot(np.ones(2))
    with pytest.raises(ShapeError, match=r"^matrix_power: takes square matrices .*; met x \(2, 3\)"):
        pb.matrix_power(np.ones((2, 3)), 2)
