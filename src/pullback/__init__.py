"""Tensors that differentiate: VJPs and JVPs on a tape, over NumPy and CuPy, and never a Jacobian.

Every op is a name of this module (`pb.tanh`, `pb.einsum`, `pb.cross_entropy`); `pb.linalg`, `pb.random`, `pb.nn`,
`pb.optim`, `pb.data` and `pb.io` hold what their names say; `pb.errors` holds every error that is raised on purpose.
"""

from . import data, errors, io, linalg, nn, optim, random
from .backends import default_dtype, set_default_dtype
from .checks import check_gradients, detect_nonfinite, no_jacobian
from .core.recording import no_grad
from .core.tensor import Tensor, asarray, tensor
from .cost import cost, explain, profile, trace
from .dtypes import *
from .interop import from_dlpack
from .ops import *
from .transforms import (
    chain_plan,
    checkpoint,
    custom_rule,
    grad,
    hessian,
    hvp,
    jvp,
    linearize,
    value_and_grad,
    vjp,
    vmap,
)

__version__ = "0.1.0"
