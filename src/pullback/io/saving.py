"""Trees of tensors, arrays and plain values as safetensors files.

Each array is an entry of the file under its dotted path (`layers.0.weight`). The one metadata entry, `pullback`, is
JSON that says how the tree is put together. In it null, booleans, integers, finite floats and text stand for
themselves, and every other node is an object of one key:

    {"dict": {key: node}}  {"list": [node]}  {"tuple": [node]}  {"float": "nan" | "inf" | "-inf"}
    {"array": entry}  {"tensor": entry}  {"leaf": entry}    a NumPy array, a tensor, one that requires a gradient

The format: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import math
import os
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from typing import Any

import numpy as np

from ..backends import BACKENDS
from ..core.tensor import Tensor, tensor
from ..errors import ArgumentError, CheckpointError, DtypeError
from .atomic import replacing

__all__ = ["load", "save"]

_KEY = "pullback"
_VERSION = 1
_DEEPEST = 64  # levels of nesting


def save(path: str | PathLike[str], tree: Any) -> None:
    """Write a tree to a safetensors file, whole or not at all.

    Args:
        path: The file. One that is there is replaced only when the new one is complete on the disk.
        tree: Nested dicts (with text as keys), lists and tuples of tensors, arrays, numbers, booleans, text and None.
            Dataclasses are kept as dicts of their fields, named tuples as tuples.

    Raises:
        DtypeError: the tree holds something else; the message names where. ArgumentError: it is nested too deeply.
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    import json

    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    structure = _take_apart(tree, (), arrays)
    metadata = {_KEY: json.dumps({"version": _VERSION, "tree": structure}, separators=(",", ":"))}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata)


def load(path: str | PathLike[str], device: str = "cpu") -> Any:
    """Read the tree that `save` wrote: the same structure, values, dtypes and bits, tensors on `device`.

    A safetensors file from elsewhere gives a dict of NumPy arrays by name. Nothing in the file can run code.

    Raises:
        CheckpointError: the file is missing, cut off or damaged, is no safetensors file, or holds a dtype that this
            installation does not have. DeviceError: no such device here.
    """
    import json

    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        found = "it is no file" if os.path.exists(path) else "there is no such file"
        raise CheckpointError(f"cannot read {path}: {found}")
    try:
        with suppress(ImportError):
            import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 where it is installed)
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, MemoryError, TypeError, AttributeError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(f"cannot read {path}: not a whole safetensors file of known dtypes ({reason})") from error
    if _KEY not in metadata:
        return arrays
    try:
        record = json.loads(metadata[_KEY])
        if record["version"] != _VERSION:
            raise ValueError(f"it is of version {record['version']!r}, this pullback reads version {_VERSION}")
        tree = _put_together(record["tree"], arrays, device)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"cannot read {path}: its structure is damaged ({reason})") from error
    if arrays:
        raise CheckpointError(f"cannot read {path}: its structure does not mention {', '.join(sorted(arrays))}")
    return tree


def _take_apart(value: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """The JSON node of `value`; its arrays go into `arrays`."""
    if len(path) > _DEEPEST:
        raise ArgumentError(f"save: the tree is nested more than {_DEEPEST} levels deep at {'.'.join(path[:8])}...")

    def below(key: Any, child: Any) -> Any:
        return _take_apart(child, (*path, str(key)), arrays)

    if isinstance(value, Tensor):
        raw = BACKENDS[value.data.__class__].to_numpy(value.data)
        return {"leaf" if value.is_leaf else "tensor": _entry(raw, path, arrays)}
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # arrays of any backend, and NumPy's scalars
        return {"array": _entry(BACKENDS[value.__class__].to_numpy(value), path, arrays)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [below(i, child) for i, child in enumerate(value)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise DtypeError(f"save: keys are text; {'.'.join(path) or 'the tree'} has the key {key!r}")
        return {"dict": {key: below(key, child) for key, child in value.items()}}
    raise DtypeError(
        f"save: cannot keep {'.'.join(path) or 'the tree'}, a {type(value).__qualname__}; "
        "a tree holds tensors, arrays, numbers, booleans, text and None"
    )


def _entry(array: np.ndarray, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> str:
    """Keep `array` under its dotted path, or a name near it where keys with dots make two paths read the same."""
    name = ".".join(path) or "value"
    if array.dtype.kind not in "biufV" or array.dtype.names:
        raise DtypeError(f"save: cannot keep {name}: {array.dtype} is no type of numbers that tensors hold")
    while name in arrays or name == "__metadata__":
        name += "_"
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    arrays[name] = np.require(native, requirements="C")
    return name


def _put_together(node: Any, arrays: dict[str, np.ndarray], device: str) -> Any:
    """The value of a JSON node; its arrays are taken out of `arrays`."""
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a list stands where a node is expected")
        return node
    if len(node) != 1:
        raise ValueError(f"a node has {len(node)} keys")
    ((kind, content),) = node.items()
    if kind not in _KINDS:
        raise ValueError(f"a node is of kind {kind!r}")
    made_of, make = _KINDS[kind]
    if not isinstance(content, made_of):
        raise ValueError(f"a node of kind {kind!r} holds a {type(content).__name__}")
    return make(content, arrays, device)


def _take(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"there is no entry {name!r}, or it is used twice")
    return arrays.pop(name)


_KINDS: dict[str, tuple[type, Callable[[Any, dict[str, np.ndarray], str], Any]]] = {
    "dict": (dict, lambda c, arrays, device: {key: _put_together(n, arrays, device) for key, n in c.items()}),
    "list": (list, lambda c, arrays, device: [_put_together(n, arrays, device) for n in c]),
    "tuple": (list, lambda c, arrays, device: tuple(_put_together(n, arrays, device) for n in c)),
    "float": (str, lambda c, arrays, device: float(c)),
    "array": (str, lambda c, arrays, device: _take(c, arrays)),
    "tensor": (str, lambda c, arrays, device: tensor(_take(c, arrays), device=device)),
    "leaf": (str, lambda c, arrays, device: tensor(_take(c, arrays), device=device, requires_grad=True)),
}
