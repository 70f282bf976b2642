"""Trees: nested dicts, lists, tuples and dataclasses whose leaves are tensors, arrays or scalars (through optree).

The first tree imports optree, which takes as long as a fifth of `import numpy`.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optree

__all__ = ["flatten", "flatten_with_names", "map", "unflatten"]

_NAMESPACE = "pullback"


def flatten(tree: Any) -> tuple[list[Any], "optree.PyTreeSpec"]:
    """The leaves of `tree` in a fixed order, and what puts them together again. None is a node without leaves."""
    import optree

    leaves, spec = optree.tree_flatten(tree, namespace=_NAMESPACE)
    fresh = [kind for kind in {type(leaf) for leaf in leaves} if dataclasses.is_dataclass(kind)]
    if not fresh:
        return leaves, spec
    for kind in fresh:
        _register_dataclass(kind)
    return flatten(tree)


def unflatten(spec: "optree.PyTreeSpec", leaves: list[Any]) -> Any:
    """The inverse of `flatten`."""
    return spec.unflatten(leaves)


def flatten_with_names(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name, such as `layers.0.weight`; a bare leaf has the name ''."""
    leaves, spec = flatten(tree)
    return {".".join(map(str, path)): leaf for path, leaf in zip(spec.paths(), leaves, strict=True)}


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """A tree of `f(leaf, ...)` over the leaves of trees of the same form."""
    leaves, spec = flatten(tree)
    others = [spec.flatten_up_to(other) for other in rest]
    return unflatten(spec, [f(*values) for values in zip(leaves, *others, strict=True)])


def _register_dataclass(kind: type) -> None:
    import optree

    names = tuple(field.name for field in dataclasses.fields(kind))

    def take_apart(value: Any) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[str, ...]]:
        return tuple(getattr(value, name) for name in names), names, names

    def put_together(_: Any, children: Any) -> Any:
        made: Any = object.__new__(kind)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(made, name, child)
        return made

    optree.register_pytree_node(kind, take_apart, put_together, namespace=_NAMESPACE)
