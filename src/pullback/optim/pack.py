"""Parameters that one call updates."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..backends import BACKENDS, canonical_dtype
from ..core.tensor import Tensor

__all__ = ["Pack", "working_dtype"]


class Pack:
    """Parameters of one device, dtype and age: one flat buffer of which their arrays become views, and state beside it.

    Where a call costs more than its arithmetic (`Backend.packs`) small parameters share a pack. A parameter of 16 bits
    has its state in float32, and is the rounded copy of a master in float32: steps too small for it add up there.

    Attributes:
        members: Positions of the parameters in the optimizer.
        age: How often they were updated.
        values: The flat buffer.
        owned: Each member, its leaf, its view of `values`, which is its array once the pack is adopted, and its view of
            the gradient buffer (None where gradients are read where they are).
        working: The dtype of updates and state.
        state: Slot of state (such as "velocity") -> flat array, beside `values`.
        master: The values in the working dtype where that is wider, else None.
        parts: State, and "master", in the shapes of each member: for each slot a list of views.
        moment: When the members were last updated.
    """

    def __init__(
        self, members: Sequence[int], tensors: Sequence[Tensor], state: Mapping[str, Sequence[Any]], age: int
    ) -> None:
        """`state` gives, for each slot, what each member has of it so far; None stands for zeros."""
        self.members, self.age, self.moment = tuple(members), age, -1
        self.shapes = [x.shape for x in tensors]
        first = tensors[0].data
        self.backend = BACKENDS[first.__class__]
        self.device = self.backend.device_of(first)
        with self.backend.walking(first):
            self._allocate(tensors, state)

    def _allocate(self, tensors: Sequence[Tensor], state: Mapping[str, Sequence[Any]]) -> None:
        backend, xp, first = self.backend, self.backend.xp, tensors[0].data
        self.values = xp.concat([xp.reshape(x.data, (-1,)) for x in tensors])
        working = self.working = working_dtype(first.dtype)
        flats = {slot: xp.zeros_like(self.values, dtype=working) for slot in state}
        self.parts = {slot: self._views(flat) for slot, flat in flats.items()}
        for slot, given in state.items():
            for part, a in zip(self.parts[slot], given, strict=True):
                if a is not None:
                    owner = BACKENDS[a.__class__]
                    part[...] = backend.asarray(a if owner is backend else owner.to_numpy(a), device=self.device)
        self.master = flats.pop("master", None)
        self.state = flats
        # one gradient is read where it is; several are gathered
        self.gradient = xp.zeros_like(self.values) if len(tensors) > 1 else None
        places = [None] if self.gradient is None else self._views(self.gradient)
        leaves = [x.node for x in tensors]
        self.owned = list(zip(tensors, leaves, self._views(self.values), places, strict=True))

    def _views(self, flat: Any) -> list[Any]:
        """The parts of a flat buffer that belong to each member, in its shape."""
        found, start = [], 0
        for shape in self.shapes:
            end = start + prod(shape)
            found.append(self.backend.xp.reshape(flat[start:end], shape))
            start = end
        return found

    def adopt(self) -> None:
        """Make the members' arrays views of this pack."""
        for x, _, array, _ in self.owned:
            x.data = array

    def is_whole(self) -> bool:
        """Whether the members' arrays still are views of this pack: nothing was moved, replaced or packed by others."""
        return all(x.data is array and x.node is leaf for x, leaf, array, _ in self.owned)

    def current(self) -> Any:
        """What `backward` left as the members' gradients, as `gathered` gives it.

        None unless this pack is whole and every member has a gradient of its shape and dtype. (It is where its leaf is:
        a leaf that moves takes its gradient along, and then the pack is not whole.)
        """
        for x, leaf, array, part in self.owned:
            if x.data is not array or x.node is not leaf or leaf.stale:
                return None
            g = leaf.grad
            if g.shape != array.shape or g.dtype is not array.dtype:
                return None
            if part is not None:
                part[...] = g
        return self.gradient if part is not None else self.backend.xp.reshape(g, (-1,))

    def gathered(self, gradients: Sequence[Any]) -> Any:
        """The members' gradients, of those of all parameters, as one flat array that is only to be read."""
        for i, (_, _, _, part) in zip(self.members, self.owned, strict=True):
            if part is None:
                return self.backend.xp.reshape(gradients[i], (-1,))
            part[...] = gradients[i]
        return self.gradient

    def row(self, gradient: Any) -> tuple[Any, ...]:
        """What an update of the backend takes."""
        if self.master is not None and any(leaf.mutated != self.moment for _, leaf, _, _ in self.owned):
            with self.backend.on(self.device):  # written by others since: their numbers count
                xp = self.backend.xp
                kept = xp.astype(self.master, self.values.dtype) == self.values
                self.master[...] = xp.where(kept, self.master, xp.astype(self.values, self.working))
        return (self.values, gradient, *self.state.values(), self.master)


def working_dtype(dtype: Any) -> Any:
    """The dtype of updates and state for parameters of `dtype`."""
    return np.dtype("float32") if canonical_dtype(dtype).itemsize < 4 else dtype
