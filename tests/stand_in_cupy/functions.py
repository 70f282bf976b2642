"""The functions of `cupy`, its `linalg` and `fft`, and `cupyx`: NumPy's and SciPy's on device arrays."""

import ast
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays
from .arrays import ndarray
from .log import Operation

USED: set[str] = set()  # functions that were called, as "linalg.svd"; a test looks them up in CuPy


def names_of_cupy(folder: str) -> set[str]:
    """The names that a package of the real CuPy imports or defines, read and not run; none where it is not installed.

    What CuPy lacks the stand-in must lack: array_api_compat has its own `vecdot` because of that.
    """
    spec = find_spec("cupy")
    if spec is None or spec.origin is None:
        return set()
    text = (Path(spec.origin).parent / folder / "__init__.py").read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


KNOWN = {folder: names_of_cupy(folder) for folder in ("", "linalg", "fft")}  # before the stand-in is called `cupy`


def functions_of(module: ModuleType, prefix: str = "") -> dict[str, Any]:
    """What is public in a module of NumPy, and in CuPy's where that is installed; its functions on device arrays."""
    found = {}
    known = KNOWN[prefix.rstrip(".")]
    for name in module.__all__:
        if known and name not in known:
            continue
        value = getattr(module, name)
        is_function = callable(value) and not isinstance(value, type)
        found[name] = on_device(value, prefix + name) if is_function else value
    return found


def on_device(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(function, assigned=("__name__", "__doc__"))
    def called(*args: Any, **kwargs: Any) -> Any:
        USED.add(name)
        return arrays.call(function, args, kwargs, name.rpartition(".")[2])

    return called


# --- creation ---------------------------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def filled(kind: str, value: Any) -> Callable[..., ndarray]:
    def made(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        array = ndarray(shape, float if dtype is None else dtype)
        arrays.write(array, value, Operation("fill", kind))
        return array

    return made


def like(make: Callable[..., ndarray]) -> Callable[..., ndarray]:
    def made(array: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
        if not isinstance(array, ndarray):
            raise TypeError(f"Unsupported type {type(array)}")
        return make(array.shape if shape is None else shape, array.dtype if dtype is None else dtype)

    return made


def full(shape: Any, value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    array = ndarray(shape, np.asarray(arrays.host(value)).dtype if dtype is None else dtype)
    arrays.write(array, value, Operation("fill", "full"))
    return array


def full_like(array: ndarray, value: Any, dtype: Any = None, **options: Any) -> ndarray:
    return full(array.shape, value, array.dtype if dtype is None else dtype)


def array(values: Any, dtype: Any = None, copy: bool = True, order: str = "K", **options: Any) -> ndarray:
    if isinstance(values, list | tuple) and any(isinstance(v, ndarray) for v in values):
        values = arrays.call(np.stack, (list(values),))
    if not isinstance(values, ndarray):
        return arrays.upload(values, dtype)
    values = arrays.brought(values)
    if dtype is None or values.dtype == dtype:
        return values.copy() if copy else values
    return values.astype(dtype)


def asarray(values: Any, dtype: Any = None, order: Any = None, **options: Any) -> ndarray:
    return array(values, dtype, copy=False)


def asnumpy(values: Any, **options: Any) -> np.ndarray:
    return values.get() if isinstance(values, ndarray) else np.asarray(values)


def scatter_add(array: ndarray, index: Any, values: Any) -> None:
    """As `cupyx.scatter_add`."""
    used = [x for x in (array, values) if isinstance(x, ndarray)]
    target, index, values = array._host, arrays.host(arrays._index(index)), arrays.host(values)
    arrays.LOG.append(Operation("elementwise", "scatter_add"))
    arrays.enqueue(lambda: np.add.at(target, index, values), arrays._blocks(used))


def special(name: str) -> Callable[..., Any]:
    """A function of `cupyx.scipy.special`."""
    from scipy import special as of_scipy

    return lambda *args, **kwargs: arrays.call(getattr(of_scipy, name), args, kwargs, name)


CREATION = {
    "array": array, "asarray": asarray, "ascontiguousarray": on_device(np.ascontiguousarray, "ascontiguousarray"),
    "asnumpy": asnumpy, "empty": empty, "empty_like": like(empty), "full": full, "full_like": full_like,
    "zeros": filled("zeros", 0), "zeros_like": like(filled("zeros_like", 0)),
    "ones": filled("ones", 1), "ones_like": like(filled("ones_like", 1)),
}  # fmt: skip
