"""Dense layers in one op each: `relu(x @ w + b)` and its like.

One equation stands on the tape for product, bias and activation. Backwards one pass over the cotangent gives that of
`x @ w + b` and, summed over the rows, that of `b` (`bias_slope`); a backend may run either pass in one kernel.
"""

from typing import Any

from ..core.define import Array, Sample, composite, op
from ..core.op import OPS
from ..errors import ArgumentError
from . import activations, special, transcendental  # the activations have to be in the table
from .products import pull_bias, pull_inputs, pull_weights

__all__ = ["bias_slope"]

_linear = OPS["linear"].forward


def _reads_value(activation: str) -> bool:
    """Whether the slope of an activation is read off its value (else off its argument)."""
    return OPS[f"{activation}_slope"].inputs[1] == "out"


def _bias_slope_samples(rng: Any) -> Any:
    for shape in [(3, 2), (2, 2, 3), (4,)]:
        yield Sample((rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape[-1:]), "tanh"))
        yield Sample((rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape[-1:]), "silu"))


@composite(samples=_bias_slope_samples)
def bias_slope(xp: Any, g: Array, value: Array, bias: Array | None, activation: str) -> Any:
    """The cotangents of `z` and `bias` in `activation(z + bias)`, from that of its value.

    Args:
        g: The cotangent, of shape (..., n).
        value: What the slope is read off (see the activation's own `_slope`): the value `activation(z + bias)`, or
            where the slope reads the argument, `z`; of the shape of `g`.
        bias: Of shape (n,), or None.
        activation: The name of an op that has a slope, with its default parameters.

    Returns:
        The cotangent of `z`, and that of `bias` (None where there is none).

    Raises:
        ArgumentError: no op of that name has a slope.
    """
    if f"{activation}_slope" not in OPS:
        raise ArgumentError(f"no activation with a slope is called {activation!r}")
    if not _reads_value(activation):
        value = _plus(value, bias)
    dz = getattr(xp, f"{activation}_slope")(g, value)
    if bias is None:
        return dz, None
    return dz, pull_bias(xp, dz)


def _samples(rng: Any) -> Any:
    for shape in [(2, 3), (3,), (2, 4, 3), (0, 3)]:
        yield Sample((rng.normal(size=shape), rng.normal(size=(3, 4)), rng.normal(size=(4,))))
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=(3, 4))))


def _of_value(activation: str) -> tuple[Any, Any, Any]:
    """Body, first rule and JVP rules of an activation whose slope is read off its value."""
    record, slope = OPS[activation], f"{activation}_slope"

    def body(xp: Any, x: Array, w: Array, b: Array | None = None) -> Any:
        return record.forward(xp, _linear(xp, x, w, b))

    def first(xp: Any, g: Any, wanted: Any, out: Any, b: Any) -> Any:
        return (getattr(xp, slope)(g, out), None) if wanted[2] is None else xp.bias_slope(g, out, b, activation)

    return body, first, (
        lambda xp, t, w, out: getattr(xp, slope)(t @ w, out),
        lambda xp, t, x, out: getattr(xp, slope)(x @ t, out),
        lambda xp, t, out: getattr(xp, slope)(xp.broadcast_to(t, out.shape), out),
    )  # fmt: skip


def _of_argument(activation: str) -> tuple[Any, Any, Any]:
    """The same, of an activation whose slope is read off its argument: the product is kept."""
    record, slope = OPS[activation], f"{activation}_slope"

    def body(xp: Any, x: Array, w: Array, b: Array | None = None) -> Any:
        z = _linear(xp, x, w, None)
        return record.forward(xp, _plus(z, b)), z

    def first(xp: Any, g: Any, wanted: Any, kept: Any, b: Any) -> Any:
        if wanted[2] is None:
            return getattr(xp, slope)(g, _plus(kept, b)), None
        return xp.bias_slope(g, kept, b, activation)

    return body, first, (
        lambda xp, t, w, kept, b: getattr(xp, slope)(t @ w, _plus(kept, b)),
        lambda xp, t, x, kept, b: getattr(xp, slope)(x @ t, _plus(kept, b)),
        lambda xp, t, kept, b: getattr(xp, slope)(xp.broadcast_to(t, kept.shape), _plus(kept, b)),
    )  # fmt: skip


def _plus(z: Any, bias: Any) -> Any:
    return z if bias is None else z + bias


def _publish(activation: str) -> None:
    """Publish `linear_<activation>`."""
    reads_value = _reads_value(activation)
    body, first, pushes = (_of_value if reads_value else _of_argument)(activation)
    body.__name__ = body.__qualname__ = f"linear_{activation}"
    body.__doc__ = f"""`{activation}(x @ w + b)` in one op: a dense layer with its activation.

    Shapes: x (..., n), w (n, m), b (m,) or None; the result is (..., m).

    Raises:
        ShapeError: w is no matrix, x does not end in n, or b is not (m,).
    """
    op(
        lambda xp, g, w: pull_inputs(xp, g[0], w),
        lambda xp, g, x: pull_weights(xp, g[0], x),
        lambda xp, g: g[1],
        jvp=pushes,
        first=first,
        kept=None if reads_value else "matmul",
        samples=_samples,
        standard=OPS[activation].standard,
        jacobian=lambda g, w: (g[0], w.mT),
    )(body)


for _name in sorted({*activations.__all__, *special.__all__, *transcendental.__all__}):
    if f"{_name}_slope" in OPS:
        _publish(_name)
