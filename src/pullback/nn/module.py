"""Module: parameters, buffers and other modules in the attributes of an object."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from .. import trees
from ..backends import BACKENDS, canonical_dtype, device_kinds, is_floating
from ..core.recording import observing
from ..core.tape import mutate
from ..core.tensor import Tensor, as_array, asarray
from ..errors import ArgumentError, CheckpointError, DtypeError, ShapeError

__all__ = ["Module"]


class Module:
    """A function with parameters: put tensors and modules into attributes, and define `forward`.

    Attributes are looked at when something is asked, so there is nothing to register or to call first:

    - Tensors made with `requires_grad=True` are *parameters*; other constant tensors, and arrays, are *buffers*, which
      are saved and moved with them. A value in the middle of a tape is neither.
    - Modules in attributes are part of this one. Lists, tuples and dicts are looked into.
    - Names are dotted paths, `layers.0.weight`, in the order of the attributes. What stands in two places (tied
      weights) is named by the first.

        class Residual(pb.nn.Module):
            def __init__(self, size: int) -> None:
                self.inner = pb.nn.Linear(size, size)

            def forward(self, x: pb.Tensor) -> pb.Tensor:
                return x + pb.nn.relu(self.inner(x))

    Attributes:
        training: Whether the module is being trained; `train` and `eval` set it, also in all modules inside.
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; each class defines its own."""
        raise ArgumentError(f"{type(self).__name__} defines no forward; write one, it is what a call runs")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (observer := observing()) is None:
            return self.forward(*args, **kwargs)
        with observer.calling(self):
            return self.forward(*args, **kwargs)

    # --- what is inside ---

    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, in a fixed order."""
        return {name: x for name, x in self._arrays().items() if isinstance(x, Tensor) and x.is_leaf}

    def buffers(self) -> dict[str, Any]:
        """Constant tensors and arrays by name."""
        return {name: x for name, x in self._arrays().items() if not (isinstance(x, Tensor) and x.is_leaf)}

    def named_modules(self) -> dict[str, "Module"]:
        """This module, named "", and all inside of it."""
        return {name: x for name, x in self._contents().items() if isinstance(x, Module)}

    def _arrays(self) -> dict[str, Any]:
        """Parameters and buffers by name."""
        return {name: x for name, x in self._contents().items() if not isinstance(x, Module)}

    def _contents(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, x in _walk(self, "", set()):
            if name in found:
                raise ArgumentError(f"{type(self).__name__}: two things are named {name!r}; rename a key of a dict")
            found[name] = x
        return found

    # --- modes ---

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and in all modules inside; gives the module itself."""
        for module in self.named_modules().values():
            module.training = mode
        return self

    def eval(self) -> Self:
        """`train(False)`: dropout passes everything."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Mark the gradients of all parameters as none."""
        for x in self.parameters().values():
            x.zero_grad()

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Copies of all parameters and buffers, as arrays in host memory, by name."""
        return {
            name: BACKENDS[array.__class__].to_numpy(array).copy()
            for name, array in ((name, _raw(x)) for name, x in self._arrays().items())
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Write the arrays of `state` into the parameters and buffers of the same names: all, or none after an error.

        Args:
            state: Names to arrays or tensors, as `state_dict` gives them.
            strict: Whether the names have to be the same; else those on one side only are passed by.

        Raises:
            CheckpointError: names are missing or unexpected, or shapes or dtypes differ; the message lists them.
        """
        here = self._arrays()
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{type(self).__name__}: a state is a dict of arrays; got a {type(state).__name__}")
        problems = []
        if strict:
            missing, unexpected = here.keys() - state.keys(), state.keys() - here.keys()
            problems += [f"missing: {', '.join(sorted(missing))}"] if missing else []
            problems += [f"unexpected: {', '.join(sorted(map(str, unexpected)))}"] if unexpected else []
        common = [name for name in here if name in state]
        problems += [f"{name} is {problem}" for name in common if (problem := _mismatch(here[name], state[name]))]
        if problems:
            raise CheckpointError(f"{type(self).__name__}: the state does not fit; {'; '.join(problems)}")
        moved = {name: _like(as_array(state[name]), _raw(here[name])) for name in common}
        parameters = self.parameters()
        self._put({name: array for name, array in moved.items() if name not in parameters})
        for name, x in parameters.items():
            if name in moved:
                BACKENDS[x.data.__class__].beside(x.data).scatter_set(x.data, ..., moved[name])
                mutate((x.node,))

    def to(self, target: Any) -> Self:
        """Move all parameters and buffers to a device ("cpu", "cuda:1"), or those of floating point to a dtype.

        The parameters stay the tensors they are, so optimizers that have them go on. Gradients move too. Gives the
        module itself; after an error nothing has moved.

        Raises:
            DeviceError: no such device here. DtypeError: a dtype that is not of floating point.
        """
        to_device = isinstance(target, str) and target.partition(":")[0] in device_kinds()
        if not to_device and not is_floating(target):
            raise DtypeError(f"{type(self).__name__}.to: a device or a floating-point dtype; got {target!r}")
        here = {n: x for n, x in self._arrays().items() if to_device or is_floating(_raw(x).dtype)}
        moved = {name: Tensor(_raw(x)).to(target).data for name, x in here.items()}
        leaves = {name: x for name, x in here.items() if isinstance(x, Tensor) and x.is_leaf}
        gradients = {name: Tensor(x.node.grad).to(target).data for name, x in leaves.items() if not x.node.stale}
        for name, x in leaves.items():
            x.data, x.node.grad = moved.pop(name), gradients.get(name)
        self._put(moved)
        return self

    def _put(self, buffers: Mapping[str, Any]) -> None:
        """Give buffers other arrays: to constant tensors as their data, in place of arrays in the attributes."""
        here, swap = self._arrays(), {}
        for name, array in buffers.items():
            if isinstance(here[name], Tensor):
                here[name].data = array
            else:
                swap[id(here[name])] = array
        for module in self.named_modules().values() if swap else ():
            vars(module).update({key: _swapped(value, swap) for key, value in vars(module).items()})

    # --- as a function of its parameters ---

    def apply(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the module with other parameters: a function of them, to be differentiated.

            params = model.parameters()
            gradients = pb.grad(lambda p: loss(model.apply(p, x), y))(params)

        A copy of the module is run, in which the tensors named in `params` are replaced; the tensors themselves are not
        copied. So the module is never changed, whatever is raised and whatever other threads do; what `forward` writes
        into attributes is gone afterwards. A function in an attribute that holds the module (a bound method, a closure)
        goes on using the module itself: take what it needs from `self` in `forward`.

        Args:
            params: A dict from names (of parameters or buffers) to tensors or arrays, or a tree with such paths. What
                it leaves out keeps its value.
            args, kwargs: What `forward` takes.

        Raises:
            ArgumentError: a name is unknown. ShapeError: a tensor has another shape than the one that it replaces.
        """
        flat = isinstance(params, Mapping) and all(hasattr(x, "shape") for x in params.values())
        given = dict(params) if flat else trees.flatten_with_names(params)
        copy = _substituted(self, "", given, {})
        if given:
            known = ", ".join(self._arrays())
            raise ArgumentError(f"{type(self).__name__}.apply: {', '.join(map(str, given))} is not among {known}")
        return copy(*args, **kwargs)

    # --- repr ---

    def describe(self) -> str:
        """What stands in the parentheses of the repr: the module's own settings."""
        return ""

    def __repr__(self) -> str:
        return "\n".join(_lines(self, "", set()))


def _walk(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Modules, constant and leaf tensors and arrays in `value`, each once, with their names."""
    if id(value) in seen:
        return
    children = _children(value)
    is_value = not children and (
        (isinstance(value, Tensor) and (value.node is None or value.is_leaf)) or _is_array(value)
    )
    if children or is_value or isinstance(value, Module):
        seen.add(id(value))
    if is_value or isinstance(value, Module):
        yield name, value
    for key, child in children.items():
        yield from _walk(child, _joined(name, key), seen)


def _children(value: Any) -> Mapping[Any, Any]:
    """What a module, a list, a tuple or a dict holds."""
    if isinstance(value, Module):
        return vars(value)
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, list | tuple) else {}


def _mapped(value: Any, f: Callable[[Any, Any], Any]) -> Any:
    """A list, tuple or dict of `f(key, child)`; anything else as it is."""
    if isinstance(value, dict):
        return {key: f(key, child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        made = [f(key, child) for key, child in enumerate(value)]
        return made if isinstance(value, list) else value._make(made) if hasattr(value, "_make") else tuple(made)
    return value


def _swapped(value: Any, swap: Mapping[int, Any]) -> Any:
    """`value`, a module's attribute, with the arrays of these ids replaced."""
    return swap[id(value)] if id(value) in swap else _mapped(value, lambda _, child: _swapped(child, swap))


def _substituted(value: Any, name: str, given: dict[str, Any], done: dict[int, Any]) -> Any:
    """A copy of `value` with the tensors replaced that `given` names; names that were met are taken out of `given`."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Module):
        copy = done[id(value)] = object.__new__(type(value))
        for key, child in vars(value).items():
            vars(copy)[key] = _substituted(child, _joined(name, key), given, done)
        return copy
    if isinstance(value, Tensor) or _is_array(value):
        done[id(value)] = made = _fitting(name, given.pop(name), value) if name in given else value
        return made
    return _mapped(value, lambda key, child: _substituted(child, _joined(name, key), given, done))


def _fitting(name: str, new: Any, old: Any) -> Tensor:
    made, shape = new if isinstance(new, Tensor) else asarray(new), tuple(old.shape)
    if made.shape != shape:
        raise ShapeError(f"apply: {name} has shape {shape}, the tensor given for it {made.shape}; they must agree")
    return made


def _joined(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _is_array(value: Any) -> bool:
    """Whether `value` is an array of numbers that a backend owns (NumPy's scalars are settings, not arrays)."""
    if not hasattr(value, "__setitem__") or not any(kind in BACKENDS for kind in type(value).__mro__):
        return False
    try:
        canonical_dtype(value.dtype)
    except DtypeError:
        return False
    return True


def _raw(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x


def _like(array: Any, old: Any) -> Any:
    """A copy of `array` where `old` is."""
    backend = BACKENDS[old.__class__]
    return backend.asarray(BACKENDS[array.__class__].to_numpy(array), device=backend.device_of(old), copy=True)


def _mismatch(old: Any, new: Any) -> str:
    """What differs between the forms of an array and of the one that shall be written into it, if anything."""
    try:
        forms = [f"{tuple(array.shape)} {canonical_dtype(array.dtype)}" for array in (_raw(old), as_array(new))]
    except DtypeError as error:
        return f"no array in the state ({error})"
    return "" if forms[0] == forms[1] else f"{forms[0]} here and {forms[1]} in the state"


def _lines(module: Module, name: str, seen: set[int]) -> Iterator[str]:
    """The repr: a line for the module, and indented ones for those inside."""
    count = sum(x.size for x in module.parameters().values())
    size = f"{count:,} parameter{'' if count == 1 else 's'}"
    yield f"{name}{': ' if name else ''}{type(module).__name__}({module.describe()})" + (f", {size}" if count else "")
    seen.add(id(module))
    for key, child in _inside(module):
        if id(child) not in seen:
            yield from ("  " + line for line in _lines(child, key, seen))


def _inside(value: Any, name: str = "") -> Iterator[tuple[str, Module]]:
    """The modules nearest below `value`."""
    for key, child in _children(value).items():
        if isinstance(child, Module):
            yield _joined(name, key), child
        else:
            yield from _inside(child, _joined(name, key))
