"""Batches of examples in a random order, whose place can be kept and found again."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backends import BACKENDS
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, CheckpointError, ShapeError
from ..random import Generator

__all__ = ["Batches"]


class Batches:
    """Passes over arrays that belong together, in batches of rows; each pass in a new random order.

    Iterating gives what is left of the running pass, as tuples of tensors where the arrays live; the next iteration
    begins the next pass. `state()` between two batches, given to `restore()` of an equal object, makes that go on with
    the very next batch, in the same order.

    Args:
        arrays: Tensors or arrays with equally many rows, on one device.
        size: Rows in a batch; the last batch of a pass may have fewer.
        generator: Draws the orders, and is this object's alone from now on; None keeps the rows as they are.
        drop_last: Leave out a last batch of fewer rows.

    Raises:
        ShapeError: there are no arrays, or they have different numbers of rows. ArgumentError: the size is less than 1,
            or no batch is full and `drop_last` is set.
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        size: int,
        generator: Generator | None = None,
        drop_last: bool = False,
    ) -> None:
        self._arrays = tuple(asarray(array).data for array in arrays)
        counts = {array.shape[0] if array.ndim else 0 for array in self._arrays}
        if len(counts) != 1:
            raise ShapeError(f"batches: arrays of {sorted(counts)} rows; give one or more with equally many")
        (self._rows,) = counts
        if size < 1 or not self._rows or (drop_last and size > self._rows):
            raise ArgumentError(f"batches: no batch of {size} can be made of {self._rows} rows")
        self.size, self.drop_last, self._generator = size, drop_last, generator
        self.position = 0  # batches given in the running pass
        self._order: Any = None
        self._before: Any = None  # the generator's state before it drew the running order

    def __len__(self) -> int:
        """Batches in a pass."""
        return self._rows // self.size if self.drop_last else -(-self._rows // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self._order is None:
            self._draw()
        take = BACKENDS[self._arrays[0].__class__].beside(self._arrays[0]).take
        while self.position < len(self):
            rows = self._order[self.position * self.size : (self.position + 1) * self.size]
            self.position += 1
            yield tuple(Tensor(take(array, rows, axis=0)) for array in self._arrays)
        self.position, self._order = 0, None

    def _draw(self) -> None:
        """The order of a pass, on the device of the arrays."""
        backend = BACKENDS[self._arrays[0].__class__]
        device = backend.device_of(self._arrays[0])
        if self._generator is None:
            self._order = backend.asarray(np.arange(self._rows), device=device)
        else:
            self._before = self._generator.get_state()
            self._order = self._generator.permutation(self._rows, device=device).data

    def state(self) -> dict[str, Any]:
        """The place between two batches, as a tree for `pb.io.save`."""
        drawn = self._order is not None
        generator = self._generator and (self._before if drawn else self._generator.get_state())
        return {
            "rows": self._rows,
            "size": self.size,
            "position": self.position,
            "drawn": drawn,
            "generator": generator,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to the place that `state()` gave.

        Raises:
            CheckpointError: it was given by batches of other rows or size, or is damaged; nothing is changed.
        """
        try:
            for what, here in (("rows", self._rows), ("size", self.size)):
                if state[what] != here:
                    raise CheckpointError(f"batches: the state is of {what} {state[what]}, these are of {what} {here}")
            position, drawn, generator = state["position"], bool(state["drawn"]), state["generator"]
            if (
                type(position) is not int
                or not 0 <= position <= len(self)
                or (generator is None) != (self._generator is None)
            ):
                raise ValueError("its place is outside a pass, or its order was drawn in another way")
            if self._generator is not None:
                self._generator.set_state(generator)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"batches: the state is damaged ({error})") from error
        self.position, self._order = position, None
        if drawn:
            self._draw()
