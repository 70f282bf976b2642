"""Tensors that differentiate."""

from . import errors, linalg, ops
from .core.tape import no_grad
from .core.tensor import Tensor, asarray, tensor
from .ops import *
from .transforms import *
