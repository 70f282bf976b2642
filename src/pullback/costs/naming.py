"""What the values of a function are called: parameters by modules, arguments by the function."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, getclosurevars, isfunction, ismethod, signature
from typing import Any

from .. import trees
from ..core.tensor import Tensor

__all__ = ["argument_names", "closed_over", "parameter_names", "title_of"]


def title_of(f: Callable[..., Any]) -> str:
    """The name of a function, or of the class of a module."""
    name: str = getattr(f, "__name__", None) or type(f).__name__
    return "f" if name == "<lambda>" else name


def argument_names(f: Callable[..., Any], args: Sequence[Any]) -> list[tuple[str, Any]]:
    """Each leaf of the arguments with its name: "x", or "batch.images" in a tree."""
    try:
        function = getattr(f, "forward", f) if not (isfunction(f) or ismethod(f)) else f
        parameters = list(signature(function).parameters.values())
    except (TypeError, ValueError):  # a function of C says nothing
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(args)]
    rest = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), "argument")
    names += [f"{rest}.{i}" for i in range(len(args) - len(names))]
    return [
        (f"{name}.{path}" if path else name, leaf)
        for name, tree in zip(names, args, strict=True)
        for path, leaf in trees.flatten_with_names(tree).items()
    ]


def parameter_names(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of the modules that were called: by dotted names, with the module's where there are
    several."""
    for root, module in roots.items():
        prefix = f"{root}." if len(roots) > 1 else ""
        for name, x in {**module.parameters(), **module.buffers()}.items():
            yield prefix + name, x


def closed_over(f: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Tensors and arrays that a function closes over or has as defaults, also inside of lists, dicts and modules."""
    if not (isfunction(f) or ismethod(f)):
        return
    variables = getclosurevars(f)
    defaults = {p.name: p.default for p in signature(f).parameters.values() if p.default is not Parameter.empty}
    for name, value in {**variables.globals, **variables.nonlocals, **defaults}.items():
        if callable(getattr(value, "parameters", None)) and callable(getattr(value, "buffers", None)):
            for path, x in {**value.parameters(), **value.buffers()}.items():
                yield f"{name}.{path}", x
        elif isinstance(value, list | tuple | dict):
            for path, x in trees.flatten_with_names(value).items():
                yield f"{name}.{path}", x
        elif isinstance(value, Tensor) or hasattr(value, "dtype"):
            yield name, value
        elif depth and name in variables.nonlocals:
            yield from closed_over(value, depth - 1)
