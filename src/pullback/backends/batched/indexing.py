"""Reading and writing at indices, on arrays of many examples.

Where there are arrays in an index, the number of the example joins them as one more: then NumPy puts the axes of the
arrays first, whatever stands between them, and they are moved to where they belong.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import ArgumentError
from ...shapes import normalize_axis
from ..registry import BACKENDS
from .array import BatchedArray, Frame, as_of, beneath, have_examples, lowered, of_frame
from .functions import with_examples

__all__ = ["FUNCTIONS"]

_MASK = "vmap: a mask in an index differs by example, and so would the shapes; choose by pb.where"


def _entries(x: Any, index: Any) -> list[Any]:
    """An index of `x` without an Ellipsis, and with positions in place of masks.

    A single boolean that holds becomes a new axis; one that does not is seen to before.
    """
    given = index if isinstance(index, tuple) else (index,)
    found: list[Any] = []
    taken, gap = 0, None
    for entry in given:
        if entry is ...:
            gap = len(found)
        elif entry is None:
            found.append(entry)
        elif _is_mask(entry):
            taken += getattr(entry, "ndim", 0)
            found += _positions(x.frame, entry) if getattr(entry, "ndim", 0) else [None]
        else:
            taken += 1
            found.append(entry)
    gap = len(found) if gap is None else gap
    found[gap:gap] = [slice(None)] * (x.ndim - taken)
    return found


def _positions(frame: Frame, mask: Any) -> Sequence[Any]:
    """The indices at which a mask holds."""
    own = as_of(frame, mask)
    if own.batched:
        raise ArgumentError(_MASK)
    found: Sequence[Any] = BACKENDS[own.data.__class__].beside(own.data).nonzero(own.data)  # it has numbers
    return found


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, bool) or (hasattr(entry, "dtype") and entry.dtype.kind == "b")


def _chooses_nothing(index: Any) -> bool:
    """Whether there is a single boolean in an index that does not hold."""
    for entry in index if isinstance(index, tuple) else (index,):
        if _is_mask(entry) and not getattr(entry, "ndim", 0):
            if isinstance(entry, BatchedArray) and entry.batched:
                raise ArgumentError(_MASK)
            if not entry:
                return True
    return False


def _is_array(entry: Any) -> bool:
    return hasattr(entry, "dtype") or isinstance(entry, list)


class _Choice:
    """Where an index with arrays reads and writes in an array with examples.

    Attributes:
        index: For the array beneath; the axes of the arrays come out right behind the examples.
        many: How many axes the arrays have together.
        place: Before which axis of one example's result they belong.
    """

    def __init__(self, frame: Frame, space: Any, entries: Sequence[Any]) -> None:
        at = [i for i, entry in enumerate(entries) if _is_array(entry) or isinstance(entry, int)]
        operands = [as_of(frame, entries[i]) for i in at]
        self.many = max(o.ndim for o in operands)
        side_by_side = at[-1] - at[0] == len(at) - 1
        self.place = at[0] if side_by_side else 0
        numbers = frame.backend.xp.arange(frame.size)
        index: list[Any] = [space.reshape(numbers, (frame.size, *(1,) * self.many)), *entries]
        for i, o in zip(at, operands, strict=True):
            index[i + 1] = o.data
            if o.batched and o.ndim < self.many:
                size, *rest = o.data.shape
                index[i + 1] = space.reshape(o.data, (size, *(1,) * (self.many - o.ndim), *rest))
        self.index = tuple(index)

    def moves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes of the arrays as they come out, and where they belong."""
        return tuple(range(1, 1 + self.many)), tuple(range(1 + self.place, 1 + self.place + self.many))


def _lowered_entries(frame: Frame, entries: Sequence[Any]) -> tuple[Any, ...]:
    """Those for the array beneath, where nothing has examples."""
    return tuple([as_of(frame, entry).data if _is_array(entry) else entry for entry in entries])


def _getitem(x: BatchedArray, index: Any) -> Any:
    entries = _entries(x, index)
    if _chooses_nothing(index):
        return _getitem(_getitem(x, tuple(entries)), (*(slice(None),) * entries.index(None), slice(0, 0)))
    frame, operands = lowered([x, *filter(_is_array, entries)])
    own = operands[0]
    if not any(map(_is_array, entries)):
        return frame.array(own.data[(slice(None), *entries) if own.batched else tuple(entries)], own.batched)
    if not have_examples(operands):
        return frame.array(own.data[_lowered_entries(frame, entries)], False)
    space = beneath(frame, operands)
    choice = _Choice(frame, space, entries)
    found = with_examples(space, frame, own)[choice.index]
    return frame.array(space.moveaxis(found, *choice.moves()) if choice.place else found, True)


def _writing(name: str) -> Callable[..., Any]:
    """`x[index] = values`, or numbers added there; gives x."""

    def call(x: BatchedArray, index: Any, values: Any) -> Any:
        entries = _entries(x, index)
        if _chooses_nothing(index):
            return x
        frame, operands = lowered([x, values, *filter(_is_array, entries)])
        own, given, *_ = operands
        space = beneath(frame, operands)
        if have_examples(operands) and not own.batched:
            x.data, x.batched = space.asarray(with_examples(space, frame, own), copy=True), True
        if not x.batched:
            x.data = _write(space, name, x.data, _lowered_entries(frame, entries), given.data)
        elif any(map(_is_array, entries)):
            choice = _Choice(frame, space, entries)
            ndim = x.data[choice.index].ndim - 1
            target = _fitted(space, given, ndim)
            if choice.place and given.ndim:  # the axes of the arrays stand first there
                if not given.batched:
                    target = space.reshape(given.data, (1, *(1,) * (ndim - given.ndim), *given.shape))
                target = space.moveaxis(target, *reversed(choice.moves()))
            x.data = _write(space, name, x.data, choice.index, target)
        else:
            whole = (slice(None), *entries)
            x.data = _write(space, name, x.data, whole, _fitted(space, given, x.data[whole].ndim - 1))
        return x

    return call


def _fitted(space: Any, given: BatchedArray, ndim: int) -> Any:
    """Values to be written to `ndim` axes of each example."""
    if not given.batched:
        return given.data
    size, *rest = given.data.shape
    while len(rest) > ndim and rest[0] == 1:
        rest = rest[1:]
    return space.reshape(given.data, (size, *(1,) * (ndim - len(rest)), *rest))


def _write(space: Any, name: str, array: Any, index: Any, values: Any) -> Any:
    if name == "setitem":
        array[index] = values
        return array
    return getattr(space, name)(array, index, values)


def _take(x: Any, indices: Any, axis: int | None = None, **_: Any) -> Any:
    frame, (own, places) = lowered((x, indices))
    place = normalize_axis(axis or 0, own.ndim)
    if places.batched:
        return _getitem(own, (*(slice(None),) * place, places))
    space = beneath(frame, [own, places])
    return frame.array(space.take(own.data, places.data, axis=place + own.batched), own.batched)


def _take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    frame, (own, places) = lowered((x, indices))
    space = beneath(frame, [own, places])
    batched = own.batched or places.batched
    place = normalize_axis(axis, own.ndim) + batched
    arrays = [with_examples(space, frame, o) if batched else o.data for o in (own, places)]
    return frame.array(space.take_along_axis(*arrays, axis=place), batched)


def _one_by_one(name: str) -> Callable[..., Any]:
    """A function that no axis can be added to: called for each example."""

    def call(*args: Any, **kwargs: Any) -> Any:
        names = [n for n, value in kwargs.items() if hasattr(value, "dtype")]
        frame, operands = lowered([*args, *(kwargs[n] for n in names)])
        space = beneath(frame, operands)
        batched = have_examples(operands)
        count = frame.size if batched else 1
        found = []
        for i in range(count or 1):  # of no examples the shape is that of one without numbers
            given = [_example(space, o, i) for o in operands]
            named = kwargs | dict(zip(names, given[len(args) :], strict=True))
            found.append(getattr(space, name)(*given[: len(args)], **named))
        return frame.array(space.stack(found)[:count] if batched else found[0], batched)

    return call


def _example(space: Any, o: BatchedArray, i: int) -> Any:
    if not o.batched:
        return o.data
    return o.data[i] if o.data.shape[0] else space.zeros(o.shape, dtype=o.dtype)


def _depends_on_numbers(name: str) -> Callable[..., Any]:
    """A function whose result has another shape for each example."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        own = of_frame(x)
        if own.batched:
            raise ArgumentError(
                f"vmap: {name} would give every example another shape; do it outside, or mask by pb.where"
            )
        found = getattr(own.beneath, name)(own.data, *args, **kwargs)
        parts = [own.like(part) for part in (found if isinstance(found, tuple) else [found])]
        return tuple(parts) if isinstance(found, tuple) else parts[0]

    return call


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "getitem": _getitem,
    "setitem": _writing("setitem"),
    "scatter_set": _writing("scatter_set"),
    "scatter_add": _writing("scatter_add"),
    "take": _take,
    "take_along_axis": _take_along_axis,
    "searchsorted": _one_by_one("searchsorted"),
}
FUNCTIONS |= {
    name: _depends_on_numbers(name)
    for name in ("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values")
}
