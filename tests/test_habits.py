"""How the house is kept: floors, names, documentation, import time, sizes of files."""

import ast
import inspect
import os
import subprocess
import sys
import tomllib
import types
from functools import cache
from pathlib import Path

import pytest

import pullback as pb
from pullback.core.op import OPS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pullback"
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC_NAMES = Path(__file__).with_name("public_names.txt")

# The floor of a module is that of the longest name here that it begins with.
FLOORS = {
    "pullback": 7,
    "pullback.__main__": 7,
    "pullback.cli": 6,
    "pullback.training": 5,
    "pullback.bench": 5,
    "pullback.nn": 5,
    "pullback.optim": 5,
    "pullback.data": 5,
    "pullback.io": 5,
    "pullback.interop": 5,
    "pullback.transforms": 4,
    "pullback.checks": 4,
    "pullback.costs": 4,
    "pullback.jacobians": 4,
    "pullback.linalg": 3,
    "pullback.random": 3,
    "pullback.ops": 3,
    "pullback.core": 2,
    "pullback.core.op": 1,
    "pullback.backends": 0,
    "pullback.dtypes": 0,
    "pullback.errors": 0,
    "pullback.io.atomic": 0,
    "pullback.shapes": 0,
    "pullback.trees": 0,
}
ON_DEMAND = {"pullback.backends.cuda.backend", "pullback.backends.meta.backend"}  # imported when a device is asked for


# --- imports ----------------------------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def floor_of(module: str) -> int | None:
    name = module
    while name not in FLOORS and name.count(".") > 1:
        name = name.rpartition(".")[0]
    return FLOORS.get(name)


def targets(node: ast.AST, path: Path) -> list[str]:
    """The modules that an import statement names: those of the package by their full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
    inside = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES]
    return [*inside, *([base] if len(inside) < len(node.names) else [])]


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, whether it is imported inside of a function) for every import of a file."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        found.extend((name, node.lineno, inside) for name in targets(node, path))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(parsed(path), False)
    return found


def test_every_module_has_a_floor():
    assert [module for module in MODULES if floor_of(module) is None] == []
    assert [name for name in FLOORS if name not in MODULES] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_or_sideways(module):
    wrong = [
        f"line {line}: {target}"
        for target, line, _ in imports(MODULES[module])
        if target.partition(".")[0] == "pullback" and floor_of(target) > floor_of(module)
    ]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_no_import_of_the_package_hides_in_a_function(module):
    hidden = [
        f"line {line}: {target}"
        for target, line, inside in imports(MODULES[module])
        if inside and target.partition(".")[0] == "pullback" and target not in ON_DEMAND
    ]
    assert hidden == []


def test_imports_go_in_no_circle():
    graph = {
        module: [target for target, _, _ in imports(path) if target in MODULES] for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_only_backends_import_cupy(module):
    named = [target for target, _, _ in imports(MODULES[module]) if "cupy" in target]
    assert named == [] or module.startswith("pullback.backends.")


FACTS = {"broadcast_shapes", "dtype", "finfo", "iinfo", "inf", "nan", "pi", "result_type"}  # no arrays come of these


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("pullback.ops.")])
def test_bodies_and_rules_work_on_any_backend(module):
    """What takes a namespace `xp` makes its arrays with it, and not with NumPy."""
    named = []
    for f in ast.walk(parsed(MODULES[module])):
        if isinstance(f, ast.FunctionDef | ast.Lambda) and f.args.args and f.args.args[0].arg == "xp":
            body = f.body if isinstance(f.body, list) else [f.body]
            for node in (node for statement in body for node in ast.walk(statement)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                    named.append(f"line {node.lineno}: np.{node.attr}")
    assert [name for name in named if name.rpartition(".")[2] not in FACTS] == []


# --- what an import brings --------------------------------------------------------------------------------------------

EXTRAS = ("cupy", "torch", "jax", "scipy", "matplotlib", "sklearn", "tqdm", "pandas", "autograd", "mygrad", "mpi4py")
IMPORTER = """
import sys, time
start = time.process_time()
import numpy
middle = time.process_time()
before = set(sys.modules)
import pullback
print((time.process_time() - middle) / (middle - start))
print(*set(sys.modules) - before)
"""


def imported() -> tuple[float, set[str]]:
    """The time that `import pullback` takes of the processor beside NumPy's import, in units of that one, and the
    modules it brings."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTER]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    share, modules = run.stdout.splitlines()
    return float(share), set(modules.split())


def test_importing_pullback_brings_none_of_the_extras():
    assert imported()[1] & set(EXTRAS) == set()


def test_importing_pullback_brings_nothing_that_waits_for_its_first_use():
    """What a function imports is imported by nothing else: neither by another module nor by one from elsewhere."""
    waiting = {"numpy.random"}  # comes by its name alone, even in an annotation
    for module, path in MODULES.items():
        if floor_of(module) < FLOORS["pullback.cli"]:
            waiting |= {target for target, _, inside in imports(path) if inside}
    assert {"optree", "json", "safetensors"} < waiting
    assert imported()[1] & waiting == set()


def test_importing_pullback_takes_less_than_importing_numpy():
    """Both are measured in one process: other load slows both."""
    imported()  # compiles what has changed
    assert min(imported()[0] for _ in range(5)) < 1.0


# --- names ------------------------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """All names a user may write: those of the roof, and those of the modules that are named there."""
    names = []
    fresh = [sys.executable, "-c", "import pullback; print(*dir(pullback))"]  # other tests import more of its modules
    for name in subprocess.run(fresh, capture_output=True, text=True, check=True).stdout.split():
        if not name.startswith("_"):
            names.append(f"pb.{name}")
            thing = getattr(pb, name)
            if isinstance(thing, types.ModuleType) and name in (
                "data",
                "errors",
                "io",
                "linalg",
                "nn",
                "optim",
                "random",
            ):
                listed = getattr(thing, "__all__", None) or [n for n in vars(thing) if not n.startswith("_")]
                names.extend(f"pb.{name}.{n}" for n in listed)
    return sorted(names)


def test_public_names_are_those_that_were_promised():
    """A name may be added, here and in the file; it is not renamed."""
    promised = PUBLIC_NAMES.read_text().split()
    names = public_names()
    assert (sorted({*promised} - {*names}), sorted({*names} - {*promised})) == ([], []), (
        "(missing, not yet in the file)"
    )
    assert promised == sorted(promised)


def test_every_op_is_a_name_of_the_roof_and_has_its_own_name():
    internal = {"at_add", "at_set", "getitem", "to_device"} | {"trace"}  # pb.trace takes functions too
    missing = [name for name, op in OPS.items() if getattr(pb, name, None) is not op.call and name not in internal]
    assert [name for name in missing if not name.startswith("_")] == []


def test_lists_of_names_name_what_is_there():
    wrong = []
    for module in sys.modules.copy():
        if module in MODULES:
            listed = getattr(sys.modules[module], "__all__", [])
            wrong += [f"{module}.{name}" for name in listed if not hasattr(sys.modules[module], name)]
            assert len(set(listed)) == len(listed), module
    assert wrong == []


# --- documentation and types ------------------------------------------------------------------------------------------


def definitions(path: Path) -> list[tuple[str, ast.AST]]:
    """Public classes, functions and methods of a file, and the module itself."""
    found: list[tuple[str, ast.AST]] = [("", parsed(path))]

    def visit(prefix: str, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                if any(
                    getattr(d, "id", "") == "overload" or getattr(d, "attr", "") == "setter"
                    for d in node.decorator_list
                ):
                    continue
                found.append((prefix + node.name, node))
                if isinstance(node, ast.ClassDef):
                    visit(f"{prefix}{node.name}.", node.body)

    visit("", parsed(path).body)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring_that_renders(module):
    inherited = {f".{name.rpartition('.')[2]}" for name, _ in definitions(MODULES["pullback.backends.base"])}
    wrong = []
    for name, node in definitions(MODULES[module]):
        text = ast.get_docstring(node, clean=False)
        if text is None:
            overrides = module.startswith("pullback.backends.") and name[name.rfind(".") :] in inherited
            wrong += [] if overrides else [f"{name}: no docstring"]
            continue
        lines = inspect.cleandoc(text).splitlines()
        faults = {
            "a tab": "\t" in text,
            "an odd number of backticks": text.count("`") % 2 == 1,
            "a line that is too long": any(len(line) > 120 for line in text.splitlines()),
            "an empty first line": not text.strip() or text[0] in "\n ",
            "no full stop": not text.strip().endswith((".", "`", ":", ")")) and "\n" not in text,
            "blanks at the end of a line": any(line != line.rstrip() for line in lines),
        }
        wrong.extend(f"{name}: {fault}" for fault, present in faults.items() if present)
    assert wrong == []


def callables() -> list[tuple[str, object]]:
    found = []
    for name in public_names():
        thing: object = pb
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
        if inspect.isclass(thing):
            found += [(f"{name}.{m}", f) for m, f in vars(thing).items() if inspect.isfunction(f) and m[0] != "_"]
            if "__init__" in vars(thing) and inspect.isfunction(thing.__init__):
                found.append((f"{name}.__init__", thing.__init__))
        elif inspect.isroutine(thing):
            found.append((name, thing))
    return found


def test_everything_public_is_typed():
    untyped = []
    for name, f in callables():
        signature = inspect.signature(f)
        missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        if signature.return_annotation is signature.empty:
            missing.append("return")
        if missing:
            untyped.append(f"{name}: {', '.join(missing)}")
    assert untyped == []


def test_everything_public_has_a_docstring_at_run_time():
    assert [name for name, f in callables() if not name.endswith("__init__") and not inspect.getdoc(f)] == []


# --- files and settings -----------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_five_hundred_lines():
    files = [path for folder in ("src", "tests", "benchmarks", "kernels") for path in (ROOT / folder).rglob("*.*")]
    code = [path for path in files if path.suffix in (".py", ".cu", ".cuh", ".c", ".h")]
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code}
    assert {name: size for name, size in sizes.items() if size > 500} == {}


def test_no_file_is_a_drawer_for_odds_and_ends():
    assert [path.name for path in FILES if path.stem in ("utils", "helpers", "misc", "common", "util")] == []


def test_nothing_is_left_for_later():
    words = ("TODO", "FIX" + "ME", "X" * 3)
    assert [(path.name, word) for path in FILES for word in words if word in path.read_text()] == []


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_warnings_are_errors():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "error" in settings["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert settings["tool"]["mypy"]["strict"] is True
