"""Parameters and gradients as the optimizers take them: flat lists with names, looked at before anything is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from .. import trees
from ..backends import BACKENDS, canonical_dtype
from ..core.tape import Leaf
from ..core.tensor import Tensor, as_array
from ..errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ShapeError, TapeError

__all__ = ["called", "current_gradients", "given_gradients", "named_parameters", "nonfinite_flags", "refuse_nonfinite"]


def named_parameters(who: str, params: Any) -> dict[str, Tensor]:
    """The parameters in a tensor, a tree or an iterable of tensors, by dotted name.

    Raises:
        ArgumentError: there is none, or one stands there twice. DtypeError: something is no tensor.
        TapeError: a tensor collects no gradient.
    """
    found = _named(who, params)
    if not found:
        raise ArgumentError(f"{who}: there are no parameters; pass model.parameters() or a tree of tensors")
    names: dict[int, str] = {}
    for name, x in found.items():
        if not isinstance(x, Tensor):
            hint = "; pass its parameters()" if hasattr(x, "parameters") else ""
            raise DtypeError(f"{who}: {called(name)} is a {type(x).__name__}, not a tensor{hint}")
        if not x.is_leaf:
            raise TapeError(
                f"{who}: {called(name)} collects no gradient; make it with pb.tensor(..., requires_grad=True)"
            )
        if id(x) in names:
            raise ArgumentError(f"{who}: {called(names[id(x)])} and {called(name)} are the same tensor; pass it once")
        names[id(x)] = name
    return found


def current_gradients(who: str, params: Mapping[str, Tensor]) -> list[Any]:
    """The raw array in `.grad` of each parameter, or None.

    Raises:
        ShapeError, DtypeError, DeviceError: a gradient does not fit its parameter.
        TapeError: what was a parameter is none any more.
    """
    found: list[Any] = []
    for name, x in params.items():
        node, array = x.node, x.data
        if node.__class__ is not Leaf:
            raise TapeError(f"{who}: {called(name)} is no leaf any more; make a new optimizer for what replaced it")
        if node.stale:
            found.append(None)
            continue
        g = node.grad
        if g.shape != array.shape or g.dtype != array.dtype or g.__class__ is not array.__class__:
            _refuse_unlike(who, name, g, array)
        found.append(g)
    return found


def given_gradients(who: str, params: Mapping[str, Tensor], gradients: Any) -> list[Any]:
    """The raw gradients in a tree (or iterable) of the form of the parameters; None where it has none.

    Raises:
        ArgumentError: it names a parameter that is not there, or it is empty.
        ShapeError, DtypeError, DeviceError: a gradient does not fit its parameter.
    """
    named = _named(who, gradients)
    unknown = sorted(named.keys() - params.keys())
    if unknown:
        raise ArgumentError(f"{who}: gradients are given for {', '.join(unknown)}; there {_are(params)}")
    if not named:
        raise ArgumentError(f"{who}: the gradients given are empty; there {_are(params)}")
    found = []
    for name, x in params.items():
        g = named.get(name)
        if g is not None:
            weak = g.__class__ in (int, float)  # takes the dtype of its parameter
            g = BACKENDS[x.data.__class__].asarray(g, dtype=x.data.dtype, device=x.device) if weak else as_array(g)
            _refuse_unlike(who, name, g, x.data)
        found.append(g)
    return found


def refuse_nonfinite(who: str, params: Mapping[str, Tensor], gradients: Sequence[Any]) -> None:
    """Raise NonFiniteError, with the names, if a gradient holds a NaN or an infinity."""
    flags = nonfinite_flags(gradients)
    if any(flags.values()):
        flagged = [called(n) for n, g in zip(params, gradients, strict=True) if any(nonfinite_flags([g]).values())]
        raise NonFiniteError(f"{who}: there is a NaN or an infinity in the gradient of {', '.join(flagged)}")


def nonfinite_flags(gradients: Sequence[Any]) -> dict[str, Any]:
    """For each device of gradients (None is passed by) whether one holds NaN or infinity: see `Backend.nonfinite`."""
    groups: dict[str, list[Any]] = {}
    for g in gradients:
        if g is not None:
            groups.setdefault(BACKENDS[g.__class__].device_of(g), []).append(g)
    flags = {}
    for device, arrays in groups.items():
        backend = BACKENDS[arrays[0].__class__]
        with backend.on(device):
            flags[device] = backend.nonfinite(arrays)
    return flags


def _named(who: str, tree: Any) -> dict[str, Any]:
    """Leaves by dotted name, of a tree or of what can only be iterated over."""
    if isinstance(tree, Iterable) and not isinstance(tree, Mapping | Sequence) and not hasattr(tree, "shape"):
        tree = tree if is_dataclass(tree) else list(tree)
    leaves, _ = trees.flatten(tree)
    found = trees.flatten_with_names(tree)
    if len(found) != len(leaves):
        raise ArgumentError(f"{who}: two parameters have the same dotted name; rename one of the keys with dots")
    return found


def _refuse_unlike(who: str, name: str, g: Any, array: Any) -> None:
    if tuple(g.shape) != tuple(array.shape):
        raise ShapeError(
            f"{who}: {called(name)} has shape {tuple(array.shape)}, its gradient {tuple(g.shape)}; they must agree"
        )
    if g.dtype is not array.dtype and canonical_dtype(g.dtype) != canonical_dtype(array.dtype):
        raise DtypeError(f"{who}: {called(name)} is {array.dtype}, its gradient {g.dtype}; call zero_grad() and pull")
    here, there = BACKENDS[array.__class__].device_of(array), BACKENDS[g.__class__].device_of(g)
    if here != there:
        raise DeviceError(f"{who}: {called(name)} is on {here}, its gradient on {there}; move one")


def called(name: str) -> str:
    """A parameter in messages."""
    return f"parameter {name!r}" if name else "the parameter"


def _are(params: Mapping[str, Tensor]) -> str:
    names = [name or "one without a name" for name in params]
    return f"are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
