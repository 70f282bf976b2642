"""Parameters that one call updates."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ..backends import BACKENDS, canonical_dtype
from ..core.tensor import Tensor

__all__ = ["Pack"]


class Pack:
    """Parameters of one device, dtype and age: one flat buffer of which their arrays become views, and state beside it.

    Small parameters share a pack, since a call costs more than their arithmetic. A parameter of 16 bits is updated, and
    has its state, in float32.

    Attributes:
        members: Positions of the parameters in the optimizer.
        values: The flat buffer.
        owned: Each member with its view of `values`, which is its array once the pack is adopted.
        working: The dtype of updates and state.
        state: Slot of state (such as "velocity") -> flat array, beside `values`.
        parts: The same, in the shapes of each member: for each slot a list of views.
    """

    def __init__(self, members: Sequence[int], tensors: Sequence[Tensor], state: Mapping[str, Sequence[Any]]) -> None:
        """`state` gives, for each slot, what each member has of it so far; None stands for zeros."""
        self.members = tuple(members)
        self.shapes = [x.shape for x in tensors]
        first = tensors[0].data
        self.backend = BACKENDS[first.__class__]
        self.device = self.backend.device_of(first)
        with self.backend.on(self.device):
            self._allocate(tensors, state)

    def _allocate(self, tensors: Sequence[Tensor], state: Mapping[str, Sequence[Any]]) -> None:
        backend, xp, first = self.backend, self.backend.xp, tensors[0].data
        self.values = xp.concat([xp.reshape(x.data, (-1,)) for x in tensors])
        self.owned = list(zip(tensors, self._views(self.values), strict=True))
        working = self.working = xp.float32 if canonical_dtype(first.dtype).itemsize < 4 else first.dtype
        self.state = {slot: xp.zeros_like(self.values, dtype=working) for slot in state}
        self.parts = {slot: self._views(flat) for slot, flat in self.state.items()}
        for slot, given in state.items():
            for part, a in zip(self.parts[slot], given, strict=True):
                if a is not None:
                    owner = BACKENDS[a.__class__]
                    part[...] = backend.asarray(a if owner is backend else owner.to_numpy(a), device=self.device)
        self.gradient = None  # one gradient of the working dtype is read where it is; others are gathered
        if len(tensors) > 1 or working != first.dtype:
            self.gradient = xp.zeros_like(self.values, dtype=working)
            self.gathering = list(zip(self.members, self._views(self.gradient), strict=True))

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
        for x, array in self.owned:
            x.data = array

    def gathered(self, gradients: Sequence[Any]) -> Any:
        """The members' gradients as one flat array that is only to be read."""
        if self.gradient is None:
            return self.backend.xp.reshape(gradients[self.members[0]], (-1,))
        for i, part in self.gathering:
            part[...] = gradients[i]
        return self.gradient

    def working_values(self) -> Any:
        """`values` in the working dtype: the buffer itself, or a copy to be written back."""
        if self.working == self.values.dtype:
            return self.values
        return self.backend.xp.astype(self.values, self.working)
