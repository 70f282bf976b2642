"""What the functions of `scalar.cuh` take, as their declarations say."""

import re
from dataclasses import dataclass
from functools import cache

from .sources import folder, source

__all__ = ["ARRAYS", "Scalar", "activations", "scalars"]

ARRAYS = ("g", "x", "y", "out")  # the arguments that are arrays; the others are parameters
_STRUCT = re.compile(r"^struct (\w+) \{$(.*?)^\};$", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r"static __device__ W (value|slope|slope_x|slope_y)\(([^)]*)\)")
_ARGUMENT = re.compile(r"\bW (\w+)(?: = ([\d.]+))?")


@dataclass(frozen=True, eq=False)
class Scalar:
    """The functions of one op.

    Attributes:
        name: The op's name, and of the variant that a parameter selects also its value: `gelu_by_tanh`.
        struct: The C++ name.
        functions: The arguments of `value`, `slope`, `slope_x`, `slope_y`, as far as it has them.
        defaults: The parameters' defaults, which are those of the op.
    """

    name: str
    struct: str
    functions: dict[str, tuple[str, ...]]
    defaults: dict[str, float]

    @property
    def is_variant(self) -> bool:
        """Whether this is a variant of an op."""
        return "_by_" in self.name

    def arrays(self, function: str) -> tuple[str, ...]:
        """The arguments of a function that are arrays."""
        return tuple(name for name in self.functions[function] if name in ARRAYS)

    def parameters(self, function: str) -> tuple[str, ...]:
        """The arguments of a function that are numbers."""
        return tuple(name for name in self.functions[function] if name not in ARRAYS)

    def functor(self, function: str) -> str:
        """The C++ type whose `value` is that function."""
        return self.struct if function == "value" else f"pullback::{function}<{self.struct}>"


@cache
def scalars() -> dict[str, Scalar]:
    """The functions of the ops, by the op's name."""
    found = {}
    for word, block in _STRUCT.findall(source("scalar.cuh")):
        given = {function: _ARGUMENT.findall(arguments) for function, arguments in _FUNCTION.findall(block)}
        if given:
            functions = {function: tuple(name for name, _ in arguments) for function, arguments in given.items()}
            defaults = {name: float(value) for name, value in given["value"] if value}
            name = word.removesuffix("_")
            found[name] = Scalar(name, f"pullback::op::{word}", functions, defaults)
    return found


@cache
def activations() -> tuple[Scalar, ...]:
    """The functions of `activations.cuh` that have a slope."""
    words = [word for word, _ in _STRUCT.findall((folder() / "activations.cuh").read_text(encoding="utf-8"))]
    return tuple(scalar for name, scalar in scalars().items() if name in words and "slope" in scalar.functions)
