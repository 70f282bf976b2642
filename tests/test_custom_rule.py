"""custom_rule: a user's own derivative rules, in both modes and every order, and what is refused."""

import numpy as np
import pytest

import pullback as pb

X = np.array([0.3, -0.7, 1.2])
Y = np.array([1.5, 0.4, -0.2])
T = np.array([2.0, -1.0, 0.5])


def leaf(values):
    return pb.tensor(np.asarray(values, "float64"), requires_grad=True)


def cube(x):
    return x**3


def cube_vjp(g, out, x):
    return (3.0 * x * x * g,)


def cube_jvp(tangents, out, x):
    return 3.0 * x * x * tangents[0]


RULES = {
    "both rules": {"vjp": cube_vjp, "jvp": cube_jvp},
    "the vjp alone": {"vjp": cube_vjp},
    "both, compared when defined": {"vjp": cube_vjp, "jvp": cube_jvp, "example": (X,)},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_modes_use_the_rules(rules):
    ruled = pb.custom_rule(cube, **rules)
    np.testing.assert_allclose(ruled(X).numpy(), X**3, rtol=1e-15)
    np.testing.assert_allclose(pb.vjp(ruled, X)[1](T)[0].numpy(), 3 * X**2 * T, rtol=1e-14)
    np.testing.assert_allclose(pb.jvp(ruled, (X,), (T,))[1].numpy(), 3 * X**2 * T, rtol=1e-14)
    x = leaf(X)
    pb.sum(ruled(x)).backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * X**2, rtol=1e-14)
    pb.check_gradients(ruled, X)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_higher_orders_follow_from_the_ops_in_the_rules(rules):
    ruled = pb.custom_rule(cube, **rules)

    def f(x):
        return pb.sum(ruled(x))

    np.testing.assert_allclose(pb.hessian(f)(X).numpy(), np.diag(6 * X), rtol=1e-13)
    reverse = pb.grad(lambda x: pb.sum(pb.grad(f)(x) * T))(X)
    np.testing.assert_allclose(reverse.numpy(), 6 * X * T, rtol=1e-13)
    forward = pb.jvp(lambda x: pb.jvp(f, (x,), (T,))[1], (X,), (T,))[1]
    np.testing.assert_allclose(forward.item(), (6 * X * T * T).sum(), rtol=1e-13)
    third = pb.grad(lambda x: pb.sum(pb.hvp(f, (x,), (T,))[0]))(X)
    np.testing.assert_allclose(third.numpy(), 6 * T, rtol=1e-13)


def test_the_rule_is_used_and_not_the_body():
    """A straight-through estimator: rounding with the derivative of the identity."""
    rounded = pb.custom_rule(pb.round, vjp=lambda g, out, x: (g,), jvp=lambda t, out, x: t[0])
    np.testing.assert_array_equal(rounded(X).numpy(), np.round(X))
    assert pb.grad(lambda x: pb.sum(rounded(x) * T))(X).tolist() == T.tolist()
    assert pb.jvp(rounded, (X,), (T,))[1].tolist() == T.tolist()


def test_rules_may_use_the_value():
    ruled = pb.custom_rule(pb.exp, vjp=lambda g, out, x: (g * out,), jvp=lambda t, out, x: t[0] * out)
    np.testing.assert_allclose(pb.grad(lambda x: pb.sum(ruled(x)))(X).numpy(), np.exp(X), rtol=1e-15)
    np.testing.assert_allclose(pb.hessian(lambda x: pb.sum(ruled(x)))(X).numpy(), np.diag(np.exp(X)), rtol=1e-14)


def polar(x, y):
    return x * pb.cos(y), x * pb.sin(y)


def polar_vjp(g, out, x, y):
    return g[0] * pb.cos(y) + g[1] * pb.sin(y), g[1] * out[0] - g[0] * out[1]


def polar_jvp(t, out, x, y):
    return t[0] * pb.cos(y) - t[1] * out[1], t[0] * pb.sin(y) + t[1] * out[0]


def test_several_arguments_and_several_values():
    ruled = pb.custom_rule(polar, vjp=polar_vjp, jvp=polar_jvp, example=(X, Y))
    u = (T, Y)
    for found, expected in zip(pb.vjp(ruled, X, Y)[1](u), pb.vjp(polar, X, Y)[1](u), strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-14)
    pb.check_gradients(ruled, X, Y)
    x = leaf(X)
    pb.sum(ruled(x, Y)[0]).backward()  # the other value is not used, the other argument not tracked
    np.testing.assert_allclose(x.grad.numpy(), np.cos(Y), rtol=1e-14)


def test_arguments_without_a_derivative():
    """None stands for zero; integers have none anyway."""
    taken = pb.custom_rule(lambda x, i: x[i], vjp=lambda g, out, x, i: (pb.zeros_like(x).at[i].add(g), None))
    i = np.array([2, 2, 0])
    assert pb.grad(lambda x: pb.sum(taken(x, i) * T))(X).tolist() == [0.5, 0.0, 1.0]
    first = pb.custom_rule(lambda x, y: x * 1.0, vjp=lambda g, out, x, y: (g, None), jvp=lambda t, out, x, y: t[0])
    assert [g.tolist() for g in pb.vjp(first, X, Y)[1](T)] == [T.tolist(), [0.0, 0.0, 0.0]]
    silent = pb.custom_rule(lambda x: x * 1.0, vjp=lambda g, out, x: (None,))
    assert pb.grad(lambda x: pb.sum(silent(x)))(X).tolist() == [0.0, 0.0, 0.0]
    assert pb.jvp(silent, (X,), (T,))[1].tolist() == [0.0, 0.0, 0.0]


def test_results_of_rules_take_the_dtype_of_their_primals():
    ruled = pb.custom_rule(cube, vjp=lambda g, out, x: (3.0 * x * x * g.astype("float64"),), jvp=cube_jvp)
    x = X.astype("float32")
    assert pb.grad(lambda v: pb.sum(ruled(v)))(x).dtype == np.float32
    assert pb.jvp(ruled, (x,), (x,))[1].dtype == np.float32


def test_without_recording_only_the_body_runs():
    def refuse(*_):
        raise AssertionError("a rule ran")

    ruled = pb.custom_rule(cube, vjp=refuse)
    assert not ruled(X).requires_grad
    with pb.no_grad():
        assert not ruled(leaf(X)).requires_grad
    assert (ruled.__name__, ruled(2.0).item()) == ("cube", 8.0)


# --- what is refused --------------------------------------------------------------------------------------------------


def wrong_jvp(tangents, out, x):
    return 2.0 * x * x * tangents[0]


def test_rules_that_disagree_are_refused_when_defined():
    with pytest.raises(pb.errors.RuleError, match=r"cube: its jvp and vjp are not transposes.*<u, jvp\(t\)> = .* but"):
        pb.custom_rule(cube, vjp=cube_vjp, jvp=wrong_jvp, example=(X,))


def test_rules_that_disagree_are_refused_at_every_call_without_an_example():
    ruled = pb.custom_rule(cube, vjp=cube_vjp, jvp=wrong_jvp)
    for _ in range(2):
        with pytest.raises(pb.errors.RuleError, match="not transposes"):
            ruled(leaf(X))


def test_rules_are_compared_once():
    calls = []

    def counted(g, out, x):
        calls.append(1)
        return cube_vjp(g, out, x)

    ruled = pb.custom_rule(cube, vjp=counted, jvp=cube_jvp)
    assert calls == []
    for _ in range(3):
        ruled(X)
    assert calls == [1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounding_in_narrow_dtypes_is_no_disagreement(dtype):
    x = np.linspace(-2.0, 2.0, 20).astype(dtype)
    pb.custom_rule(cube, vjp=cube_vjp, jvp=cube_jvp, example=(x,))
    with pytest.raises(pb.errors.RuleError):
        pb.custom_rule(cube, vjp=cube_vjp, jvp=lambda t, out, x: -cube_jvp(t, out, x), example=(x,))


BAD_VJPS = {
    "too many results": (lambda g, out, x: (g, g), "its vjp gave 2 results for 1 primals"),
    "too few results": (lambda g, out, x: (), "its vjp gave 0 results for 1 primals"),
    "a wrong shape": (lambda g, out, x: (pb.sum(g),), r"its vjp gave shape \(\) for primals\[0\] of shape \(3,\)"),
}


@pytest.mark.parametrize(("vjp", "message"), BAD_VJPS.values(), ids=BAD_VJPS)
def test_a_vjp_with_wrong_results_is_refused(vjp, message):
    x = leaf(X)
    with pytest.raises(pb.errors.RuleError, match=f"^cube: {message}"):
        pb.sum(pb.custom_rule(cube, vjp=vjp)(x)).backward()
    assert x.grad is None
    with pytest.raises(pb.errors.RuleError, match=message):
        pb.custom_rule(cube, vjp=vjp, jvp=cube_jvp, example=(X,))


BAD_JVPS = {
    "too many results": (lambda t, out, x: (t[0], t[0]), "its jvp gave 2 results for 1 outputs"),
    "a wrong shape": (lambda t, out, x: pb.sum(t[0]), r"its jvp gave shape \(\) for outputs\[0\] of shape \(3,\)"),
}


@pytest.mark.parametrize(("jvp", "message"), BAD_JVPS.values(), ids=BAD_JVPS)
def test_a_jvp_with_wrong_results_is_refused(jvp, message):
    with pytest.raises(pb.errors.RuleError, match=f"^cube: {message}"):
        pb.jvp(pb.custom_rule(cube, jvp=jvp), (X,), (T,))
    with pytest.raises(pb.errors.RuleError, match=message):
        pb.custom_rule(cube, vjp=cube_vjp, jvp=jvp, example=(X,))


def test_without_a_vjp_the_reverse_mode_is_refused():
    ruled = pb.custom_rule(cube, jvp=cube_jvp)
    np.testing.assert_allclose(pb.jvp(ruled, (X,), (T,))[1].numpy(), 3 * X**2 * T, rtol=1e-14)
    for pull in (lambda: pb.grad(lambda x: pb.sum(ruled(x)))(X), lambda: pb.sum(ruled(leaf(X))).backward()):
        with pytest.raises(pb.errors.RuleError, match=r"^cube: .*give it vjp="):
            pull()


def test_a_rule_is_needed_and_a_function():
    with pytest.raises(pb.errors.ArgumentError, match="give vjp=, jvp= or both"):
        pb.custom_rule(cube)
    with pytest.raises(pb.errors.DtypeError, match="custom_rule: its first argument is a function"):
        pb.custom_rule(X, vjp=cube_vjp)


@pytest.mark.parametrize("result", [lambda x: 3.0, lambda x: (x, 3.0), lambda x: x.numpy(), lambda x: "text"])
def test_a_function_with_rules_returns_tensors(result):
    with pytest.raises(pb.errors.RuleError, match="returns a tensor or a tuple of tensors"):
        pb.custom_rule(result, vjp=cube_vjp)(X)


def test_a_recorded_tensor_that_the_body_closes_over_would_get_no_gradient():
    w = leaf(Y)
    ruled = pb.custom_rule(lambda x: x * w, vjp=lambda g, out, x: (g * w,))
    with pytest.raises(pb.errors.RuleError, match=r"closes over.*pass it as an argument, or detach it"):
        ruled(leaf(X))
    constant = w.detach()
    ruled = pb.custom_rule(lambda x: x * constant, vjp=lambda g, out, x: (g * constant,))
    assert pb.grad(lambda x: pb.sum(ruled(x)))(X).tolist() == Y.tolist()
