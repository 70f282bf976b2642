"""How fast this machine multiplies matrices and copies memory: measured once, and kept on disk."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..backends import Backend
from ..backends.cache import cache_folder
from ..errors import CheckpointError
from ..io.atomic import replacing
from .machine import blas, cores, processor

__all__ = ["Rate", "copy_rate", "matmul_rate"]

REPEATS = 5  # of which the best counts
LEAST = 0.01  # seconds that a product takes at least, unless the largest takes less
SIDES = {"cpu": 2048, "cuda": 8192}  # the largest square matrices
BYTES = {"cpu": 1 << 26, "cuda": 1 << 30}  # the array that is copied: more than caches hold
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured rate.

    Attributes:
        amount: Floating-point operations, or bytes read and written, per second: the best of several calls.
        of: What was measured, with its size.
    """

    amount: float
    of: str


def matmul_rate(backend: Backend, dtype: str) -> Rate | None:
    """Floating-point operations per second of a product of square matrices; None where the device has no memory."""
    return _known(backend, f"matmul {dtype}", lambda: _measured_matmul(backend, dtype))


def copy_rate(backend: Backend) -> Rate | None:
    """Bytes read and written per second as one array is copied into another; None where there is no memory."""
    return _known(backend, "copy", lambda: _measured_copy(backend))


# --- measuring --------------------------------------------------------------------------------------------------------


def _measured_matmul(backend: Backend, dtype: str) -> Rate:
    """The best of matrices of doubling sides, until a product takes long enough and larger ones are no faster."""
    best, side, largest = Rate(0.0, ""), 128, SIDES.get(backend.name, SIDES["cpu"])
    while side <= largest:
        seconds = _multiplied(backend, dtype, side)
        amount, before = 2 * side**3 / seconds, best.amount
        if amount > before:
            best = Rate(amount, f"{side} x {side} matrices of {dtype}")
        if seconds >= LEAST and amount < 1.1 * before:
            break
        side *= 2
    return best


def _multiplied(backend: Backend, dtype: str, side: int) -> float:
    xp = backend.xp
    numbers = xp.reshape(xp.arange(side * side, dtype=xp.float32), (side, side))
    a = xp.astype(xp.remainder(numbers, 127.0) / 127.0 - 0.5, dtype)
    return _best(backend, lambda: xp.matmul(a, a))


def _measured_copy(backend: Backend) -> Rate:
    xp, nbytes = backend.xp, BYTES.get(backend.name, BYTES["cpu"])
    source = xp.ones(nbytes // 4, dtype=xp.float32)
    target = xp.zeros_like(source)
    target[...] = source  # pages come with the first write

    def copied() -> None:
        target[...] = source

    return Rate(2 * nbytes / _best(backend, copied), f"an array of {nbytes >> 20} MiB")


def _best(backend: Backend, call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls; the first warms up."""
    call()
    found = []
    for _ in range(REPEATS):
        start = backend.mark()
        call()
        found.append(backend.seconds_between(start, backend.mark()))
    return max(min(found), 1e-9)


# --- keeping ----------------------------------------------------------------------------------------------------------

_found: dict[str, Rate | None] = {}


def _known(backend: Backend, what: str, measure: Callable[[], Rate]) -> Rate | None:
    """A rate that this process found, or another one on such a machine; else it is measured now."""
    facts = _facts(backend) | {"rate": what}
    name = _file_of(facts)
    if name not in _found:
        kept = _read(name, facts)
        if kept is None:
            try:
                kept = measure()
            except MemoryError:
                _found[name] = None
                return None
            _write(name, facts, kept)
        _found[name] = kept
    return _found[name]


def _facts(backend: Backend) -> dict[str, str]:
    """What a rate depends on."""
    import sys

    library = sys.modules[backend.array_types[0].__module__.partition(".")[0]]
    facts = {"library": f"{library.__name__} {getattr(library, '__version__', '')}"}
    if backend.name != "cpu":
        return facts | {"device": next(iter(backend.devices().values()))}
    return facts | {"device": processor(), "blas": blas(), "threads": _threads()}


def _threads() -> str:
    """How many threads multiply: by threadpoolctl where it is installed, else by what the environment asks for."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        asked = [f"{name}={os.environ[name]}" for name in _BLAS if name in os.environ]
        return " ".join([f"{cores()} cores", *asked])
    pools = sorted((str(p["user_api"]), int(p["num_threads"])) for p in threadpool_info())
    return " ".join(f"{kind}={count}" for kind, count in pools if kind == "blas") or "1"


def _file_of(facts: dict[str, str]) -> str:
    import hashlib

    return f"rate-{hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:32]}.json"


def _read(name: str, facts: dict[str, str]) -> Rate | None:
    """What is kept; None if there is nothing, or it is not what was written."""
    import json

    try:
        kept = json.loads((cache_folder("rates") / name).read_text(encoding="utf-8"))
        rate = Rate(float(kept["rate"]["amount"]), str(kept["rate"]["of"]))
        return rate if kept["facts"] == facts and 0 < rate.amount < float("inf") else None
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return None


def _write(name: str, facts: dict[str, str], rate: Rate) -> None:
    """Keep a rate. Where it cannot be written, the next process measures again."""
    import json

    try:
        folder = cache_folder("rates")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as temporary:
            temporary.write_text(json.dumps({"facts": facts, "rate": asdict(rate)}), encoding="utf-8")
    except (OSError, RuntimeError, CheckpointError):
        return
