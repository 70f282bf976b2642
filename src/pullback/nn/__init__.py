"""Networks: modules and layers, first values of weights, and the activations and losses of the op table.

A network is an object with parameters; it trains in two habits:

    model = pb.nn.MLP((64, 32, 10), "relu", generator=0)
    pb.nn.cross_entropy(model(x), labels).backward()                            # into .grad of the parameters

    params = model.parameters()
    gradients = pb.grad(lambda p: pb.nn.cross_entropy(model.apply(p, x), labels))(params)
"""

from ..ops.activations import *
from ..ops.activations import __all__ as _activations
from ..ops.cross_entropy import *
from ..ops.cross_entropy import __all__ as _cross_entropy
from ..ops.losses import *
from ..ops.losses import __all__ as _losses
from ..ops.normalization import *
from ..ops.normalization import __all__ as _normalization
from ..ops.softmax import *
from ..ops.softmax import __all__ as _softmax
from ..ops.special import logsigmoid, sigmoid, softplus
from ..ops.transcendental import tanh
from . import init
from .layers import ACTIVATIONS, MLP, Dropout, Flatten, LayerNorm, Linear, Sequential
from .module import Module

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Dropout",
    "Flatten",
    "LayerNorm",
    "Linear",
    "Module",
    "Sequential",
    "init",
    "logsigmoid",
    "sigmoid",
    "softplus",
    "tanh",
    *_activations,
    *_cross_entropy,
    *_losses,
    *_normalization,
    *_softmax,
]
