"""What a backend is: an array namespace, creation and transfer, and the little that the tape must know of arrays."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError

__all__ = ["Backend", "Namespace", "isdtype"]


class Namespace:
    """The functions that bodies of ops may call: those of an array API module, and `extras`.

    They are copied: a look-up that could fail over to the module would take five times as long.
    """

    def __init__(self, module: ModuleType | Any, **extras: Any) -> None:
        self.__dict__.update(vars(module) | extras)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def isdtype(dtype: Any, kind: Any) -> bool:
    """As `np.isdtype`, which does not know bfloat16: a real floating-point type."""
    if dtype.name != "bfloat16":
        return bool(np.isdtype(dtype, kind))
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return "real floating" in kinds or "numeric" in kinds or dtype in kinds


class Backend:
    """One array library on one kind of device.

    Attributes:
        name: The device kind users write, such as "cpu" or "cuda".
        xp: The native `Namespace` that bodies of ops run on. Beyond the standard it has `scatter_add`, `scatter_set`,
            `erf`, `erfc` and `dtype`.
        array_types: Classes of the arrays this backend owns.
        absorbs: Whether its arrays have no numbers: those of other devices that stand beside them count as such.
        rank: Arrays of a backend with a lower one may stand beside its own, and become such.
    """

    absorbs = False
    rank = 0
    name: str
    xp: Namespace
    array_types: tuple[type, ...]

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        """`data` (host data or an array of this backend) as an array of this backend on `device`."""
        raise NotImplementedError(self.name)

    def to_numpy(self, array: Any) -> np.ndarray:
        """The array's numbers in host memory (shared with it where that is possible)."""
        raise NotImplementedError(self.name)

    def inspected(self, array: Any) -> np.ndarray:
        """The numbers for a report: where an array stands for many examples, those of all."""
        return self.to_numpy(array)

    def shown(self, array: Any, prefix: str) -> str:
        """The array as it is printed behind `prefix`: its numbers, or its shape where there are none."""
        if self.absorbs:
            return f"shape={array.shape}"
        return np.array2string(self.to_numpy(array), separator=", ", prefix=prefix, threshold=100)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        """`array.__dlpack__(**options)`, by which other libraries read it."""
        return array.__dlpack__(**options)

    def device_of(self, array: Any) -> str:
        """The device string of `array`."""
        return self.name

    def devices(self) -> dict[str, str]:
        """The devices of this kind here: what users write, and what it is."""
        return {self.name: self.name}

    def on(self, device: str | None) -> AbstractContextManager[Any]:
        """A context in which `xp` makes new arrays on `device` (None: the current one of this kind)."""
        if device not in (None, self.name):
            raise DeviceError(f"no device {device!r}; this one is called {self.name!r}")
        return nullcontext()

    def beside(self, array: Any) -> Namespace:
        """`xp` for work outside the bodies of ops, on the device of `array`."""
        return self.xp

    def walking(self, array: Any) -> AbstractContextManager[Any]:
        """A context for work from `array` on: quiet, on its device, with a named error when memory runs out."""
        return self.on(self.device_of(array))

    def quiet(self) -> AbstractContextManager[Any]:
        """A context in which floating-point exceptions inside rules are not reported one op at a time."""
        return nullcontext()

    def joined(self, array: Any, node: Any, other: Any) -> tuple[Any, Any]:
        """`array`, which is of a backend of lower rank and comes from `node` of the tape, as one of this backend that
        may stand beside `other`, and the node that it comes from then."""
        return self.asarray(array), node

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """What runs the op `name` on raw arrays here: `plain` (its body, with the namespace bound), or a faster
        function of the same arguments with the same value, which may call `plain` for what it does not take."""
        return plain

    def elementwise(
        self, count: int, run: Callable[..., Any], beneath: Callable[[type], Callable[..., Any]]
    ) -> Callable[..., Any]:
        """What runs an elementwise op of `count` arrays here: `run` (from `fused`), or, where arrays stand on others,
        what runs it on those, which `beneath` gives for their class."""
        return run

    def by_rule(
        self, batching: Callable[..., Any], names: Sequence[str], inputs: Sequence[str], run: Callable[..., Any],
        beneath: Callable[[type], Any],
    ) -> Callable[..., Any]:  # fmt: skip
        """What runs an op with a batching rule here: `run` (from `fused`), or, where arrays stand on others, the rule
        with the ops on those, which `beneath` gives for their class. Arguments have `names`, those of arrays are
        `inputs`."""
        return run

    def out_of_memory(self, error: MemoryError) -> MemoryError:
        """The named error for an allocation of this backend that failed."""
        return error

    def free_memory(self) -> int | None:
        """Bytes that arrays could still take; None where it cannot be told."""
        return None

    def keep_freed_memory(self) -> None:
        """Have the memory of large arrays that are let go at hand for the next ones, where the system would take it."""

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    # --- time ---

    def holder(self, values: Sequence[Any]) -> "Backend":
        """The backend that holds the numbers of arrays of this one, also of those in lists: most often itself."""
        return self

    def mark(self) -> Any:
        """A moment in the work given to the (current) device: nothing is waited for."""
        return perf_counter()

    def seconds_between(self, start: Any, end: Any) -> float:
        """The seconds between two marks; it waits until the device has come to the later one."""
        return float(end - start)

    # --- gradients as one vector: arrays of one device ---

    def norm_and_factor(self, arrays: Sequence[Any], most: float) -> tuple[Any, Any]:
        """The Euclidean norm of all arrays together, and the factor min(1, most / (norm + 1e-6)) that limits it.

        Both are arrays of one number, in float32 or wider, as the sums are.
        """
        xp = self.xp
        total = xp.asarray(0.0, dtype=xp.float32)
        for array in arrays:
            flat = xp.reshape(array, (-1,))
            if getattr(flat.dtype, "itemsize", 4) < 4:  # the standard has no narrower type
                flat = xp.astype(flat, xp.float32)
            total = total + xp.vecdot(flat, flat)
        norm = xp.sqrt(total)
        return norm, xp.minimum(most / (norm + 1e-6), xp.ones_like(norm))

    def scaled(self, arrays: Sequence[Any], owned: Sequence[bool], factor: Any) -> list[Any]:
        """Each array times `factor` (an array of one number), in place where it is `owned`."""
        found = []
        for array, in_place in zip(arrays, owned, strict=True):
            factor_here = self.xp.astype(factor, array.dtype)
            if in_place:
                array *= factor_here
            else:
                array = array * factor_here
            found.append(array)
        return found

    def nonfinite(self, arrays: Sequence[Any]) -> Any:
        """Whether there is a NaN or an infinity in any array: a bool, or a number of the device that is 1 or 0."""
        found = self.xp.asarray(False)
        for array in arrays:
            found = found | ~self.xp.all(self.xp.isfinite(array))
        return bool(found)  # read from the device once

    # --- optimizers' updates, in place ---
    # Rows are parameters that take one step together: flat arrays of one length each, all on one device. The last of a
    # row is None, or the parameter in the wider dtype of its state, which is what is updated; the parameter becomes its
    # rounded copy then. Gradients are only read. Where `skip` (what `nonfinite` gives) is true nothing is changed. A
    # backend may bring fused kernels that do the same.

    packs = False  # whether small parameters of one dtype are handed over as one row

    def update_sgd(
        self, rows: Sequence[tuple[Any, Any, Any, Any]], *,
        rate: float, momentum: float, dampening: float, nesterov: bool, decay: float,
        skip: Any = None,
    ) -> None:  # fmt: skip
        """One step of gradient descent for rows (p, g, velocity, master); without momentum velocity is None.

        With `g = g + decay p`:

            velocity = momentum velocity + (1 - dampening) g
            p = p - rate (g + momentum velocity if nesterov, else velocity; g without momentum)
        """
        with self.on(self.device_of(rows[0][0])):
            if skip is not None and bool(skip):
                return
            for p, g, velocity, master in rows:
                w = p if master is None else master
                g = self.xp.astype(g, w.dtype, copy=False)
                if decay:
                    g = g + decay * w
                if velocity is not None:
                    velocity *= momentum
                    velocity += (1.0 - dampening) * g
                    g = g + momentum * velocity if nesterov else velocity
                w -= rate * g
                if master is not None:
                    p[...] = self.xp.astype(w, p.dtype)

    def update_adam(
        self, rows: Sequence[tuple[Any, Any, Any, Any, Any]], *,
        rate: float, betas: tuple[float, float], eps: float, decay: float, shrink: float,
        skip: Any = None,
    ) -> None:  # fmt: skip
        """One step of Adam for rows (p, g, m, v, master); the constant factors of its averages are left to `rate` and
        `eps`.

        With `g = g + decay p`:

            m = beta1 m + g;   v = beta2 v + g^2;   p = shrink p - rate m / (sqrt(v) + eps)
        """
        with self.on(self.device_of(rows[0][0])):
            if skip is not None and bool(skip):
                return
            for p, g, m, v, master in rows:
                w = p if master is None else master
                g = self.xp.astype(g, w.dtype, copy=False)
                if decay:
                    g = g + decay * w
                m *= betas[0]
                m += g
                v *= betas[1]
                v += g * g
                w *= shrink
                w -= rate * m / (self.xp.sqrt(v) + eps)
                if master is not None:
                    p[...] = self.xp.astype(w, p.dtype)
