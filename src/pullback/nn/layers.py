"""Layers: Linear, LayerNorm, Dropout, Flatten, and the chains Sequential and MLP."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

from ..core.op import OPS
from ..core.tensor import Tensor, tensor
from ..errors import ArgumentError, ShapeError
from ..ops import activations
from ..ops.normalization import layer_norm
from ..ops.shaping import reshape
from ..random import Generator, default_generator, dropout
from . import init as initial
from .module import Module

__all__ = ["ACTIVATIONS", "MLP", "Dropout", "Flatten", "LayerNorm", "Linear", "Sequential"]

Function = Callable[[Any], Any]

ACTIVATIONS: dict[str, Function] = {
    name: OPS[name].call
    for name in sorted({*activations.__all__, "logsigmoid", "sigmoid", "softplus", "tanh"})
    if OPS[name].differentiable and len(OPS[name].inputs) == 1
}
"""Activations by name, as `MLP` takes them."""


class Linear(Module):
    """`x @ weight + bias`: a dense layer, with an activation after it if one is named.

    `weight` has shape (inputs, outputs), the transpose of PyTorch's layout, and `bias` (outputs,) or is None. x has
    shape (..., inputs).

    Args:
        inputs, outputs: Lengths of the last axis before and after.
        bias: Whether there is one.
        activation: A name of `pb.nn.ACTIVATIONS` or None. Product, bias and activation are one op then
            (`pb.linear_relu`), which takes fewer passes over memory than two.
        generator: What first values are drawn from: a generator, a seed, or None for the default generator.
        dtype, device: Of the parameters.
        init: First values of the weight: the name of a function of `pb.nn.init`, or a function called as
            `init(shape, generator=..., dtype=..., device=...)`; the bias starts at 0 then. None draws both uniformly
            between +-1 / sqrt(inputs), PyTorch's default (`kaiming_uniform` with a = sqrt(5) for the weight).

    Raises:
        ArgumentError: a length is not an int above 0, or no initialisation has that name. DtypeError, DeviceError.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        generator: Generator | int | None = None,
        dtype: Any = None,
        device: str | None = None,
        init: str | initial.Initializer | None = None,
    ) -> None:
        inputs, outputs = _lengths("Linear", inputs, outputs)
        if activation is not None and activation not in ACTIVATIONS:
            raise _unknown("Linear", activation)
        self.activation = activation
        self.function: Callable[..., Tensor] = OPS[f"linear_{activation}" if activation else "linear"].call
        source, bound = _generator(generator), 1.0 / sqrt(inputs)
        where: dict[str, Any] = {"dtype": dtype, "device": device}
        if init is None:
            self.weight = source.uniform((inputs, outputs), -bound, bound, **where, requires_grad=True)
        else:
            made = initial.named(init)((inputs, outputs), generator=source, **where)
            if made.shape != (inputs, outputs):
                raise ShapeError(f"Linear: init gave shape {made.shape} for weights of shape {(inputs, outputs)}")
            self.weight = tensor(made, requires_grad=True)
        self.bias: Tensor | None = None
        if bias and init is None:
            self.bias = source.uniform((outputs,), -bound, bound, **where, requires_grad=True)
        elif bias:
            self.bias = tensor(initial.zeros((outputs,), **where), requires_grad=True)

    def forward(self, x: Any) -> Tensor:
        """The layer at x of shape (..., inputs)."""
        return self.function(x, self.weight, self.bias)

    def describe(self) -> str:
        """Lengths, whether there is no bias, and the activation."""
        inputs, outputs = self.weight.shape
        bias, activation = "" if self.bias is not None else ", bias=False", self.activation
        return f"{inputs}, {outputs}{bias}{f', activation={activation!r}' if activation else ''}"


class LayerNorm(Module):
    """`layer_norm` over the last axes, with a weight (1 at first) and a bias (0 at first) of their shape.

    Args:
        shape: Lengths of the last axes, or of the last one.
        eps: Added to the variance, above 0.
        affine: Whether there are a weight and a bias.
        dtype, device: Of the parameters.

    Raises:
        ArgumentError: a length is not an int above 0. When called: ShapeError, x does not end in `shape`.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.shape = _lengths("LayerNorm", *(shape if isinstance(shape, Sequence) else (shape,)))
        self.axis, self.eps = tuple(range(-len(self.shape), 0)), eps
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if affine:
            self.weight = tensor(initial.ones(self.shape, dtype=dtype, device=device), requires_grad=True)
            self.bias = tensor(initial.zeros(self.shape, dtype=dtype, device=device), requires_grad=True)

    def forward(self, x: Any) -> Tensor:
        """x, of shape (..., *shape), normalised."""
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise ShapeError(f"LayerNorm: the last axes have the lengths {self.shape}; got x of shape {tuple(x.shape)}")
        return layer_norm(x, self.weight, self.bias, axis=self.axis, eps=self.eps)

    def describe(self) -> str:
        """The lengths."""
        return ", ".join(map(str, self.shape))


class Dropout(Module):
    """In training, each number made 0 with probability `rate` and the others divided by `1 - rate`; else x itself.

    Args:
        rate: From 0 to 1.
        generator: What masks are drawn from: a generator, a seed, or None for the default generator. Its state is not
            in `state_dict`; save `generator.get_state()` to go on bit by bit.

    Raises:
        ArgumentError: `rate` is not a number from 0 to 1.
    """

    def __init__(self, rate: float = 0.5, generator: Generator | int | None = None) -> None:
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ArgumentError(f"Dropout: rate is a number from 0 to 1; got {rate!r}")
        self.rate, self.generator = rate, _generator(generator)

    def forward(self, x: Any) -> Any:
        """x with a fresh mask, or x itself in evaluation."""
        return dropout(x, self.rate, self.generator) if self.training else x

    def describe(self) -> str:
        """The rate."""
        return f"{self.rate:g}"


class Flatten(Module):
    """All axes but the first as one."""

    def forward(self, x: Any) -> Tensor:
        """x of shape (n, ...) as (n, m)."""
        return reshape(x, (x.shape[0], -1))


class Sequential(Module):
    """Modules and functions, one after another: `Sequential(Linear(64, 32), pb.nn.relu, Linear(32, 10))`.

    Raises:
        ArgumentError: there is nothing, or something cannot be called.
    """

    def __init__(self, *layers: Function) -> None:
        if not layers:
            raise ArgumentError("Sequential: give at least one module or function")
        for layer in layers:
            if not callable(layer):
                raise ArgumentError(f"Sequential: {layer!r} is no module or function")
        self.layers = layers

    def forward(self, x: Any) -> Any:
        """The last layer at the one before at ... at x."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, position: int) -> Function:
        return self.layers[position]

    def __iter__(self) -> Iterator[Function]:
        return iter(self.layers)

    def describe(self) -> str:
        """The layers' names."""
        return ", ".join(_name_of(layer) for layer in self.layers)


class MLP(Module):
    """A multi-layer perceptron: linear layers with an activation after each but the last.

    After a hidden layer come, as far as they are asked for, layer norm, the activation and dropout, in this order.

    Args:
        sizes: Lengths of the input, the hidden layers and the output: `(784, 512, 10)`.
        activation: A name of `pb.nn.ACTIVATIONS`, or a function.
        dropout: The share of hidden values dropped in training.
        layer_norm: Whether hidden values are normalised.
        bias: Whether the linear layers have one.
        generator: What first values and dropout's masks are drawn from: a generator, a seed, or None for the default
            generator.
        dtype, device: Of the parameters.
        init: See `Linear`.

    Attributes:
        layers: The linear layers, with the activation in them if it is given by name and comes right after.

    Raises:
        ArgumentError: fewer than two sizes, one that is not an int above 0, or an unknown activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Function = "relu",
        *,
        dropout: float = 0.0,
        layer_norm: bool = False,
        bias: bool = True,
        generator: Generator | int | None = None,
        dtype: Any = None,
        device: str | None = None,
        init: str | initial.Initializer | None = None,
    ) -> None:
        if not isinstance(sizes, Sequence) or len(sizes) < 2:
            raise ArgumentError(f"MLP: sizes are those of the input, any hidden layers and the output; got {sizes!r}")
        sizes = _lengths("MLP", *sizes)
        if not callable(activation) and activation not in ACTIVATIONS:
            raise _unknown("MLP", activation, ", or give a function")
        source = _generator(generator)
        self.activation = activation if callable(activation) else ACTIVATIONS[activation]
        inside = None if callable(activation) or layer_norm else activation
        self.fused = inside is not None
        names = [inside] * (len(sizes) - 2) + [None]
        self.layers = tuple(
            Linear(m, n, bias, name, generator=source, dtype=dtype, device=device, init=init)
            for (m, n), name in zip(pairwise(sizes), names, strict=True)
        )
        self.norms = tuple(LayerNorm(n, dtype=dtype, device=device) for n in sizes[1:-1]) if layer_norm else ()
        self.dropout = Dropout(dropout, source) if dropout else None

    def forward(self, x: Any) -> Any:
        """The output for x of shape (..., sizes[0])."""
        *hidden, last = self.layers
        for i, layer in enumerate(hidden):
            x = layer(x)
            if not self.fused:
                x = self.activation(self.norms[i](x) if self.norms else x)
            if self.dropout is not None:
                x = self.dropout(x)
        return last(x)

    def describe(self) -> str:
        """Sizes and activation."""
        sizes = [layer.weight.shape[0] for layer in self.layers] + [self.layers[-1].weight.shape[1]]
        return f"{' -> '.join(map(str, sizes))}, {_name_of(self.activation)}"


def _unknown(who: str, activation: Any, hint: str = "") -> ArgumentError:
    return ArgumentError(f"{who}: no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}{hint}")


def _generator(given: Generator | int | None) -> Generator:
    if given is None:
        return default_generator
    return given if isinstance(given, Generator) else Generator(given)


def _lengths(who: str, *lengths: Any) -> tuple[int, ...]:
    for n in lengths:
        if not hasattr(n, "__index__") or isinstance(n, bool) or n.__index__() < 1:
            raise ArgumentError(f"{who}: a length is an int above 0; got {n!r}")
    return tuple(n.__index__() for n in lengths)


def _name_of(layer: Function) -> str:
    return getattr(layer, "__name__", type(layer).__name__)
