"""Tensors that differentiate: VJPs and JVPs on a tape, over NumPy and CuPy, and never a Jacobian.

Every op is a name of this module (`pb.tanh`, `pb.einsum`, `pb.cross_entropy`); `pb.linalg`, `pb.random`, `pb.nn`,
`pb.optim`, `pb.data` and `pb.io` hold what their names say; `pb.errors` holds every error that is raised on purpose.
"""

import importlib as _importlib
import typing as _typing

from . import data, errors, io, linalg, nn, optim, random
from .backends import default_dtype, set_default_dtype
from .core.recording import no_grad
from .core.tensor import Tensor, asarray, tensor
from .dtypes import *
from .interop import from_dlpack
from .ops import *
from .transforms import checkpoint, custom_rule, grad, hvp, jvp, linearize, value_and_grad, vjp

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from .checks.gradients import check_gradients
    from .checks.no_jacobian import no_jacobian
    from .checks.nonfinite import detect_nonfinite
    from .costs.explain import explain
    from .costs.graph import trace
    from .costs.profile import profile
    from .costs.report import cost
    from .jacobians.hessian import hessian
    from .jacobians.jacobian import jacobian
    from .jacobians.operators import linear_operator
    from .jacobians.planning import plan_jacobian
    from .transforms.chain import chain_plan
    from .transforms.vmap import vmap
else:
    # The same, imported when it is first named: `import pullback` is quick for those who do without.
    _on_demand = {
        "checks": ("check_gradients", "detect_nonfinite", "no_jacobian"),
        "costs": ("cost", "explain", "profile", "trace"),
        "jacobians": ("hessian", "jacobian", "plan_jacobian"),
        "jacobians.operators": ("linear_operator",),
        "transforms.chain": ("chain_plan",),
        "transforms.vmap": ("vmap",),
    }
    _home = {name: module for module, names in _on_demand.items() for name in names}

    def __getattr__(name: str) -> _typing.Any:
        if name not in _home:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(_importlib.import_module(f".{_home[name]}", __name__), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_home})
