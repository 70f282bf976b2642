"""The books: what native functions did, by phase, layer and op, and how many bytes lived at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass

from ..backends.meta.metering import Meter

__all__ = ["Count", "Entry", "Ledger"]


@dataclass(frozen=True, slots=True)
class Count:
    """Exact numbers of what was done.

    Attributes:
        flops: Floating-point operations: one for each number that a function or an operator computes from
            floating-point numbers, whatever the function; two for each multiply-add of a product.
        multiply_adds: Those of products of matrices and vectors alone.
        read, written: Bytes of arrays that native functions read and wrote. Views are free.
        launches: Calls of native functions that do something: on a GPU without fused kernels each is a launch at least.
    """

    flops: int = 0
    multiply_adds: int = 0
    read: int = 0
    written: int = 0
    launches: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> "Count":
        return Count(*(times * a for a in astuple(self)))

    @property
    def matmul_flops(self) -> int:
        """The floating-point operations of products of matrices and vectors."""
        return 2 * self.multiply_adds

    def to_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: what one op did in one layer in one phase ("forward", "vjp", "jvp")."""

    phase: str
    layer: str
    op: str
    calls: int
    count: Count


class Ledger(Meter):
    """A meter (see `backends.meta.metering`) that keeps books.

    Attributes:
        live, peak: Bytes of buffers that live now, and the most that lived at once in this phase.
        peaks, allocated: The peak, and the bytes of all buffers made, by phase.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        self._phase, self._layer, self._op = "forward", "", ""
        self._depth, self._owned = 0, False
        self.live, self.peaks, self.allocated = 0, {"forward": 0}, {"forward": 0}

    # --- who is at work ---

    def begin(self, phase: str) -> None:
        """What follows belongs to another phase."""
        self._phase, self._layer = phase, ""
        self.peaks[phase], self.allocated[phase] = self.live, 0

    def within(self, layer: str) -> None:
        """What follows belongs to another layer."""
        self._layer = layer

    @contextmanager
    def of_equation(self, layer: str, op: str) -> Iterator[None]:
        """Around the pull or push of an equation: what its rules call counts as its own."""
        outer = self._layer, self._op, self._owned
        self._layer, self._op, self._owned = layer, op, True
        self._called()
        try:
            yield
        finally:
            self._layer, self._op, self._owned = outer

    def enter(self, name: str) -> None:
        """An op begins; those inside of it count as its own."""
        self._depth += 1
        if self._depth == 1 and not self._owned:
            self._op = name
            self._called()

    def leave(self) -> None:
        """An op ends."""
        self._depth -= 1

    # --- what is done ---

    def work(self, name: str, flops: int, multiply_adds: int, read: int, written: int) -> None:
        """A native function ran."""
        line = self._line(self._op if self._depth or self._owned else name)
        for i, amount in enumerate((flops, multiply_adds, read, written, 1)):
            line[i + 1] += amount

    def allocate(self, nbytes: int, shape: tuple[int, ...] = ()) -> None:
        """A new buffer."""
        self.live += nbytes
        self.allocated[self._phase] += nbytes
        self.peaks[self._phase] = max(self.peaks[self._phase], self.live)

    def release(self, nbytes: int) -> None:
        """A buffer is gone."""
        self.live -= nbytes

    def _line(self, op: str) -> list[int]:
        return self._counts.setdefault((self._phase, self._layer, op), [0] * 6)

    def _called(self) -> None:
        self._line(self._op)[0] += 1

    # --- the books ---

    def entries(self) -> list[Entry]:
        """All lines, in the order in which they were opened."""
        return [Entry(*key, line[0], Count(*line[1:])) for key, line in self._counts.items()]

    def total(self, phase: str) -> Count:
        """All that was done in a phase."""
        return sum((e.count for e in self.entries() if e.phase == phase), Count())
