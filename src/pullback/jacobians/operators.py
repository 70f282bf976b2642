"""pb.linear_operator: derivatives at one point as SciPy's LinearOperators."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from .. import trees
from ..backends import BACKENDS, is_floating
from ..core.op import TENSORS
from ..core.recording import enable_recording, no_grad
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, DtypeError, ShapeError
from ..transforms.reverse import grad
from ..transforms.trace import Trace, require_function
from ..transforms.vmap import vmap
from .jacobian import check_limits
from .planning import close
from .walks import values_of

__all__ = ["LinearOperators", "linear_operator"]


def linear_operator(
    f: Callable[..., Any],
    x: Any,
    *,
    loss: Callable[..., Any] | None = None,
    distribution: str = "categorical",
    chunk_size: int | None = None,
) -> "LinearOperators":
    """Jacobian, Hessian, Gauss-Newton and Fisher matrices of `f` at `x`, as operators for `scipy.sparse.linalg`.

    f runs once, now; none of the matrices is formed.

    Args:
        f: A function of a tree of tensors to a tree of tensors.
        x: Where: a tree of floating-point tensors, arrays or numbers.
        loss: A function of the value of f to one number: then `H` is the Hessian of loss(f(x)), and `GN` has the
            Hessian of the loss at f(x) in its middle. None: `H` is that of f itself, which gives one number then, and
            `GN` is that of half the squared error.
        distribution: Of what the values of f are the natural parameters, for `F`: "categorical" (logits along the last
            axis), "bernoulli" (each a logit) or "normal" (each a mean, of variance 1).
        chunk_size: Of how many columns a product with a matrix takes care at once. None: of all.

    Raises:
        ArgumentError: no such distribution, `x` holds nothing, or a chunk does. DtypeError: `x` does not hold
        floating-point numbers; DtypeError and TapeError as `jacobian`.
    """
    require_function("linear_operator", f)
    if loss is not None:
        require_function("linear_operator: loss", loss)
    if distribution not in _PRODUCTS:
        named = ", ".join(map(repr, _PRODUCTS))
        raise ArgumentError(f"linear_operator: distribution is one of {named}; got {distribution!r}")
    check_limits("linear_operator", chunk_size=chunk_size)
    return LinearOperators(f, x, loss, distribution, chunk_size)


class LinearOperators:
    """The matrices of a function at one point: what `linear_operator` gives.

    Each attribute is a `scipy.sparse.linalg.LinearOperator` over vectors of NumPy, made when it is first asked for. A
    tree is the row of all its numbers: leaf after leaf in the order of trees, each in row-major order. Trees of several
    dtypes have vectors of the widest. `matmat` and `rmatmat` walk all columns at once.

    Attributes:
        out: The value of f at x.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        x: Any,
        loss: Callable[..., Any] | None,
        distribution: str,
        chunk_size: int | None,
    ) -> None:
        self._trace = trace = Trace("linear_operator", f, (x,))
        self._form = close(trace)
        self._loss, self._distribution, self._chunk_size = loss, distribution, chunk_size
        if not trace.flat_heads:
            raise ArgumentError("linear_operator: x holds no tensor; give at least one to differentiate by")
        self._inputs, self._outputs = _Row(trace.flat_heads), _Row(values_of(trace))
        self.out = trees.unflatten(self._form, [Tensor(x.data) for x in values_of(trace)])

    @cached_property
    def J(self) -> LinearOperator:
        """The Jacobian, outputs by inputs. A product is one JVP, one with its adjoint one VJP."""
        return _Operator(
            _Walk(self._trace.push, self._inputs, self._outputs, self._chunk_size),
            _Walk(self._trace.pull, self._outputs, self._inputs, self._chunk_size),
        )

    @cached_property
    def JT(self) -> LinearOperator:
        """The adjoint of `J`. A product is one VJP."""
        return self.J.adjoint()

    @cached_property
    def H(self) -> LinearOperator:
        """The Hessian. A product is one JVP of the gradient, which costs about as much as two VJPs of f.

        Raises ShapeError where it is not of one number.
        """
        trace = self._trace
        with enable_recording():
            value = trace.out if self._loss is None else self._loss(trace.out)
            if not isinstance(value, Tensor) or value.size != 1 or not is_floating(value.dtype):
                met = f"shape {value.shape} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise ShapeError(f"linear_operator: H is of one floating-point number, not of {met}; give loss=, or GN")
            first = copy(trace)
            first.close([value])
            first.joined = True  # the pull is recorded: it is pushed after
            gradient = copy(trace)
            gradient.close(
                first.pull([Tensor(BACKENDS[value.data.__class__].beside(value.data).ones_like(value.data))])
            )
        return self._symmetric(gradient.push)

    @cached_property
    def GN(self) -> LinearOperator:
        """The generalised Gauss-Newton matrix J' M J, with M the Hessian of the loss by the outputs, or 1.

        A product is one JVP, one push of the loss's gradient, and one VJP. It is positive semi-definite where the loss
        is convex, and the Hessian where f is linear (N. Schraudolph, "Fast curvature matrix-vector products for
        second-order gradient descent", 2002).
        """
        if self._loss is None:
            return self._between(lambda tangents: tangents)
        outer = Trace("linear_operator", grad(self._loss), (self.out,))
        close(outer)
        return self._between(outer.push)

    @cached_property
    def F(self) -> LinearOperator:
        """The Fisher information J' M J, with M that of the `distribution` by its natural parameters: diag(p) - p p'
        for logits of probabilities p, 1 for a mean. Independent examples are summed.

        A product is one JVP, some numbers for each output, and one VJP. For these distributions it is the Gauss-Newton
        matrix of the negative log-likelihood (J. Martens, "New insights and perspectives on the natural gradient
        method", 2020).

        Raises ShapeError where logits of a categorical distribution are single numbers.
        """
        product = _PRODUCTS[self._distribution]
        if self._distribution == "categorical" and any(x.ndim == 0 for x in values_of(self._trace)):
            raise ShapeError("linear_operator: F: the logits of a categorical distribution are along the last axis")
        outputs = trees.flatten(self.out)[0]
        return self._between(lambda tangents: [product(x, t) for x, t in zip(outputs, tangents, strict=True)])

    def _between(self, middle: Callable[[list[Tensor]], list[Tensor]]) -> LinearOperator:
        return self._symmetric(lambda tangents: self._trace.pull(middle(self._trace.push(tangents))))

    def _symmetric(self, walk: Callable[[list[Tensor]], list[Tensor]]) -> LinearOperator:
        return _Operator(_Walk(walk, self._inputs, self._inputs, self._chunk_size), None)


# --- what a distribution makes of tangents of its parameters ----------------------------------------------------------


def _categorical(logits: Tensor, t: Tensor) -> Tensor:
    p = TENSORS.softmax(logits, axis=-1)
    weighted = p * t
    return weighted - p * TENSORS.sum(weighted, axis=-1, keepdims=True)


def _bernoulli(logits: Tensor, t: Tensor) -> Tensor:
    return TENSORS.sigmoid(logits) * TENSORS.sigmoid(-logits) * t


def _normal(means: Tensor, t: Tensor) -> Tensor:
    return t


_PRODUCTS = {"categorical": _categorical, "bernoulli": _bernoulli, "normal": _normal}


# --- vectors and trees ------------------------------------------------------------------------------------------------


class _Row:
    """The numbers of tensors in a row."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._facts = [(x.shape, x.dtype, x.device) for x in tensors]
        self._ends = np.cumsum([x.size for x in tensors])
        self.size = int(self._ends[-1])
        self.dtype = np.result_type(*[x.dtype for x in tensors])

    def split(self, rows: np.ndarray) -> list[Tensor]:
        """Tensors of the numbers along the last axis, the axes before it in front."""
        parts = np.split(rows, self._ends[:-1], axis=-1)
        return [
            asarray(part.reshape((*rows.shape[:-1], *shape)), dtype=dtype, device=device)
            for part, (shape, dtype, device) in zip(parts, self._facts, strict=True)
        ]

    def join(self, tensors: Sequence[Tensor], lead: tuple[int, ...]) -> np.ndarray:
        """The inverse of `split`."""
        parts = [x.numpy().reshape(*lead, -1 if x.size else 0) for x in tensors]
        return np.concatenate(parts, axis=-1, dtype=self.dtype)


@dataclass(frozen=True)
class _Walk:
    """A linear map of tangents or cotangents, as one of rows of numbers."""

    walk: Callable[[list[Tensor]], list[Tensor]]
    source: _Row
    target: _Row
    chunk_size: int | None

    def one(self, row: np.ndarray) -> np.ndarray:
        """Of a vector."""
        with no_grad():
            return self.target.join(self.walk(self.source.split(_real(row))), ())

    def many(self, rows: np.ndarray) -> np.ndarray:
        """Of each of several rows."""
        rows, count = _real(rows), rows.shape[0]
        chunk = self.chunk_size or count
        found = np.empty((count, self.target.size), self.target.dtype)
        with no_grad():
            for start in range(0, count, chunk or 1):
                part = rows[start : start + chunk]
                found[start : start + chunk] = self.target.join(
                    vmap(self.walk)(self.source.split(part)), part.shape[:1]
                )
        return found


def _real(rows: np.ndarray) -> np.ndarray:
    if rows.dtype.kind == "c":
        raise DtypeError(
            f"linear_operator: a vector holds {rows.dtype}; derivatives are real: multiply .real and .imag"
        )
    return rows


class _Operator(LinearOperator):  # type: ignore[misc]
    """An operator and its adjoint; None where it is its own."""

    def __init__(self, forth: _Walk, back: _Walk | None) -> None:
        super().__init__(np.result_type(forth.source.dtype, forth.target.dtype), (forth.target.size, forth.source.size))
        self._forth, self._back = forth, back

    def _matvec(self, x: Any) -> Any:
        return self._forth.one(np.asarray(x).reshape(-1))

    def _rmatvec(self, x: Any) -> Any:
        return (self._back or self._forth).one(np.asarray(x).reshape(-1))

    def _matmat(self, X: Any) -> Any:
        return self._forth.many(np.asarray(X).T).T

    def _rmatmat(self, X: Any) -> Any:
        return (self._back or self._forth).many(np.asarray(X).T).T

    def _adjoint(self) -> "_Operator":
        return self if self._back is None else _Operator(self._back, self._forth)

    _transpose = _adjoint
