"""Backends: what they must have, and every name they and the bodies of ops use of CuPy, looked up in CuPy itself."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import backends, errors
from pullback.backends import BACKENDS, Backend, Namespace, backend_for
from pullback.core.op import OPS

CUPY_BACKEND = Path(inspect.getfile(backends)).with_name("cuda") / "backend.py"


# --- what is used, read off the sources -------------------------------------------------------------------------------


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute of a name, '' of anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}" if dotted(node.value) else ""
    return node.id if isinstance(node, ast.Name) else ""


def bodies_of_ops() -> set[FunctionType]:
    """The bodies that run on native namespaces, and the functions they hand that namespace on to."""
    found: set[FunctionType] = set()
    waiting = [op.forward for op in OPS.values() if op.kind != "composite"]
    while waiting:
        function = waiting.pop()
        if function in found:
            continue
        found.add(function)
        for call in (node for node in body_of(function) if isinstance(node, ast.Call)):
            target = function.__globals__.get(dotted(call.func))
            if any(isinstance(argument, ast.Name) and argument.id == "xp" for argument in call.args):
                target = target.__init__ if inspect.isclass(target) else target
                waiting += [inspect.unwrap(target)] if isinstance(target, FunctionType) else []
    return found


def body_of(function: FunctionType) -> Iterator[ast.AST]:
    """All nodes of a function but those of its decorators."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef), function
    for statement in definition.body:
        yield from ast.walk(statement)


def names_on_xp() -> dict[str, set[str]]:
    """`linalg.svd` and the like, with the keywords that are given to it."""
    used: dict[str, set[str]] = {}
    for function in bodies_of_ops():
        for node in body_of(function):
            if dotted(node).startswith("xp."):
                used.setdefault(dotted(node)[3:], set())
            if isinstance(node, ast.Call) and dotted(node.func).startswith("xp."):
                keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
                used.setdefault(dotted(node.func)[3:], set()).update(keywords)
    return used


def extras_of_cupy() -> set[str]:
    """The names that the CuPy backend adds to its namespace (it cannot be made without a GPU)."""
    tree = ast.parse(CUPY_BACKEND.read_text())
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and dotted(n.func) == "Namespace"]
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def look_up(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


# --- CuPy -------------------------------------------------------------------------------------------------------------


CUDA_SOURCES = sorted(CUPY_BACKEND.parent.glob("*.py"))
ROOTS = {"cupy", "cupyx", "array_api_compat"}


def names_of_cupy(source: Path) -> set[str]:
    """`cupy.cuda.Device` and the like, through whatever name a module of the CUDA backend has them by."""
    tree = ast.parse(source.read_text())
    known, used = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names if alias.name.partition(".")[0] in ROOTS}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and str(node.module).partition(".")[0] in ROOTS:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    used |= set(known.values())
    for path in filter(None, map(dotted, ast.walk(tree))):
        first, _, rest = path.partition(".")
        if first in ROOTS or (first in known and rest):
            used.add(f"{known.get(first, first)}.{rest}" if rest else first)
    return used


@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.stem)
def test_every_name_that_the_cuda_backend_uses_exists_in_cupy(source):
    pytest.importorskip("cupy")
    for name in names_of_cupy(source):
        root, _, path = name.partition(".")
        module = importlib.import_module(root)
        for part in path.split(".") if path else ():
            try:
                module = getattr(module, part)
            except AttributeError:
                module = importlib.import_module(f"{module.__name__}.{part}")


def test_names_of_cupy_are_read_off_all_sources():
    found = set().union(*map(names_of_cupy, CUDA_SOURCES))
    assert found >= {
        "cupy.empty", "cupy.cuda.Device", "cupy.cuda.nvrtc.compileProgram", "cupy.cuda.function.Module",
        "cupy.cuda.memory.OutOfMemoryError", "cupy.cuda.runtime.streamPerThread", "cupyx.scatter_add",
        "array_api_compat.cupy",
    }  # fmt: skip


def test_methods_of_cupy_objects_that_the_backend_calls_exist():
    """Those are called on values, where the source does not show a class."""
    cupy = pytest.importorskip("cupy")
    of_device = ("id", "__enter__", "attributes", "compute_capability", "mem_info")
    of_stream = ("synchronize", "is_capturing")
    of_array = (
        "shape", "ndim", "size", "dtype", "device", "mT", "item", "nbytes", "data", "flags", "strides", "fill", "view",
        "__dlpack__",
    )  # fmt: skip
    for kind, names in (
        (cupy.cuda.Device, of_device),
        (cupy.cuda.Stream, of_stream),
        (cupy.ndarray, of_array),
        (cupy.cuda.Module, ("load", "get_function")),
        (cupy.cuda.Function, ("__call__",)),
        (cupy.cuda.MemoryPool, ("used_bytes", "total_bytes", "free_bytes")),
        (cupy.cuda.MemoryPointer, ("ptr",)),
    ):
        for name in names:
            look_up(kind, name)


def test_every_name_that_bodies_of_ops_use_exists_on_cupy():
    pytest.importorskip("cupy")
    namespace = vars(importlib.import_module("array_api_compat.cupy"))
    extras, used = extras_of_cupy(), names_on_xp()
    assert {"linalg.svd", "scatter_add", "exp", "sum"} <= used.keys()
    missing = []
    for path in used:
        first, _, rest = path.partition(".")
        try:
            assert first in extras or (look_up(namespace[first], rest) if rest else namespace[first]) is not None
        except (KeyError, AttributeError):
            missing.append(path)
    assert missing == []


def test_cupy_takes_the_keywords_that_bodies_of_ops_give():
    pytest.importorskip("cupy")
    namespace = importlib.import_module("array_api_compat.cupy")
    refused, checked = [], 0
    for path, keywords in names_on_xp().items():
        if path.partition(".")[0] in extras_of_cupy() or not keywords:
            continue
        try:
            known = inspect.signature(look_up(namespace, path)).parameters.values()
        except (TypeError, ValueError):
            continue  # a ufunc or a compiled function does not tell
        checked += 1
        if not any(p.kind is p.VAR_KEYWORD for p in known):
            refused += [f"{path}({keyword}=)" for keyword in keywords - {p.name for p in known}]
    assert checked > 20
    assert refused == []


# --- what every backend has -------------------------------------------------------------------------------------------


def test_bodies_use_only_names_that_numpy_has():
    xp = backend_for("cpu").xp
    for path in names_on_xp():
        look_up(xp, path)


@pytest.mark.parametrize("source", sorted(CUPY_BACKEND.parents[1].rglob("*backend.py")), ids=lambda path: path.stem)
def test_a_backend_overrides_what_a_backend_has(source):
    classes = (node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef))
    (made,) = [node for node in classes if node.name.endswith("Backend")]
    for method in (node for node in made.body if isinstance(node, ast.FunctionDef)):
        if method.name.startswith("_"):
            continue
        expected = inspect.signature(getattr(Backend, method.name)).parameters.values()
        places = [a.name for a in expected if a.kind is not inspect.Parameter.KEYWORD_ONLY]
        names = [a.name for a in expected if a.kind is inspect.Parameter.KEYWORD_ONLY]
        arguments = method.args
        given = [a.arg for a in arguments.args]
        if arguments.kwarg and names:  # those that it hands on
            assert given == places, method.name
            continue
        given += [arguments.kwarg.arg] if arguments.kwarg else []
        assert (given, [a.arg for a in arguments.kwonlyargs]) == (places, names), method.name


def test_cupy_brings_the_extras_that_numpy_brings():
    """What the NumPy backend adds and NumPy itself lacks has to be written for CuPy too."""
    numpy_extras = {name for name in vars(backend_for("cpu").xp) if name not in vars(np)}
    assert numpy_extras <= extras_of_cupy()
    assert {"scatter_add", "scatter_set", "erf", "erfc"} <= numpy_extras


def test_bfloat16_is_a_real_floating_point_type_for_bodies_and_users():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for isdtype in (backend_for("cpu").xp.isdtype, pb.isdtype):
        dtype = np.dtype(bfloat16)
        assert isdtype(dtype, "real floating")
        assert isdtype(dtype, ("bool", "numeric"))
        assert isdtype(dtype, dtype)
        assert not isdtype(dtype, ("integral", "complex floating"))
        assert not isdtype(dtype, np.dtype(np.float32))
        assert isdtype(np.dtype(np.float32), "real floating")
        assert not isdtype(np.dtype(np.int8), "real floating")


def test_a_namespace_is_a_module_and_its_extras():
    namespace = Namespace(np, tanh="another", more=1)
    assert (namespace.tanh, namespace.more, namespace.exp) == ("another", 1, np.exp)
    with pytest.raises(AttributeError):
        namespace.no_such_function  # noqa: B018


def test_arrays_of_unknown_libraries_are_refused_by_name():
    class Stranger:
        shape, dtype = (2,), np.dtype("float32")

    with pytest.raises(errors.DtypeError, match=r"no backend holds values of .*Stranger; convert with pb\.asarray"):
        pb.asarray(Stranger())


def test_subclasses_of_known_arrays_find_their_backend():
    class Marked(np.ndarray):
        pass

    assert BACKENDS[Marked] is backend_for("cpu")
    assert pb.sum(np.ones(3).view(Marked)).item() == 3.0
