"""`pullback info`: what this installation is and what it runs on."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version
from typing import Any

from ..backends import backend_for
from ..costs.machine import blas, cores, processor
from ..errors import DeviceError

__all__ = ["add_to"]

LIBRARIES = ("numpy", "scipy", "array-api-compat", "optree", "safetensors", "scikit-learn", "matplotlib")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("info", help="show versions, devices and threads", description=__doc__)
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    """Print the facts, one a line."""
    facts = {"pullback": version("pullback"), "python": f"{platform.python_version()} on {platform.platform()}"}
    facts |= {library: _version(library) for library in LIBRARIES} | {"cupy": _cupy()}
    facts |= {"device cpu": f"{processor()}, {cores()} cores"} | _devices("cuda") | _devices("meta")
    facts |= {"blas of numpy": blas()} | _threads()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _cupy() -> str:
    """CuPy's wheels carry the CUDA version in their names."""
    names = {str(found.metadata["Name"]) for found in distributions()}
    wheels = sorted(name for name in names if name == "cupy" or name.startswith("cupy-cuda"))
    return ", ".join(f"{name} {version(name)}" for name in wheels) or "not installed"


def _devices(kind: str) -> dict[str, str]:
    try:
        return {f"device {name}": what for name, what in backend_for(kind).devices().items()}
    except DeviceError as error:
        return {f"device {kind}": f"none: {error}"}


def _threads() -> dict[str, str]:
    """Threads of each BLAS and OpenMP here, where threadpoolctl can tell, and what the environment asks for."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        facts = {}
    else:
        facts = {
            f"threads of {pool.get('internal_api') or pool['user_api']}": str(pool["num_threads"])
            for pool in threadpool_info()
        }
    return facts | {name: os.environ.get(name, "not set") for name in THREADS}
