"""`no_jacobian`: a context in which no rule and no loop may form a Jacobian."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from types import SimpleNamespace
from typing import Any, NoReturn
from weakref import ref

import numpy as np

from ..backends import Backend, backend_for, is_floating
from ..backends.batched.array import Frame, frame_of
from ..backends.batched.array import numbers as beneath_all
from ..backends.batched.current import current_frame
from ..backends.meta.array import outside
from ..backends.meta.metering import Meter, metering
from ..core.op import OPS, Op, wrapped_bodies
from ..core.places import Call, Line, current_call, here, input_name, layer_of, source_of
from ..core.recording import Observer, observing, unobserved
from ..core.tape import Equation, Leaf, pull, push
from ..core.tensor import Tensor
from ..errors import RuleError

__all__ = ["no_jacobian"]

Shape = tuple[int, ...]


def no_jacobian() -> Observer:
    """A context in which it is an error to form a Jacobian: by a rule of an op, or row by row.

        with pb.no_jacobian():
            pb.nn.cross_entropy(model(x), labels).backward()

    For an op with outputs of m numbers and inputs of n numbers in all, of which input i has n_i:

    - the pull or the push of one of its equations may not make an array of m n or more numbers (m, n > 1);
    - nor one of the shape of the Jacobian of an output by input i (m, n_i > 1; either side first, each with its own
      axes or flat) that is larger than every input and output of the equation;
    - and for a walk from outputs of m numbers, m VJPs by the same n_i > 1 numbers may not be joined in one array (by
      `stack`, `concat`, `x.at[i].set`, sums of outer products ...); nor n JVPs;
    - nor may `vmap` do m VJPs (n JVPs) of one function at once; fewer count as so many rows, which may not be joined;
    - `pb.jacobian` and `pb.hessian`, which walk many times at once, are errors where m, n > 1.

    What rules allocate is seen, temporary arrays inside of ops too: they are also run on arrays of the same shapes
    without numbers, once for each op and shapes. Rules that need numbers (`custom_rule`, data-dependent shapes) are
    watched as they run, by the values of the ops that they call. What is done outside of this library (by NumPy, on
    `.numpy()`) is not seen, nor is a block for each row of a batch, which has fewer numbers than the Jacobian.

    It holds for this thread and async context; bodies of ops in other threads run a little slower meanwhile.

    Raises (at the op):
        RuleError: an array as large as a Jacobian. It names the op, the layer and the user's line.
    """
    return _Guard()


class _Place(ref[Equation]):
    """Where an equation was recorded, in which call of `vmap`, and the shapes of its inputs and outputs, for as long as
    it lives."""

    __slots__ = ("call", "frame", "inputs", "line", "outputs", "seq")

    seq: int
    frame: Frame | None
    inputs: list[Shape]
    outputs: list[Shape]
    line: Line
    call: Call | None


@dataclass
class _Pass:
    """The pull or push of one equation: what its ops made, and whether it walked along a tape of its own."""

    pulls: bool
    made: dict[Shape, str] = field(default_factory=dict)
    walked: bool = False


@dataclass(frozen=True)
class _Rows:
    """Which derivatives of one function an array holds.

    Attributes:
        of: Names the function and the side that rows are by.
        numbers: Which walks they came from.
        size, needed: The numbers of a row, and how many rows are the Jacobian.
    """

    of: Any
    numbers: frozenset[int]
    size: int
    needed: int

    @property
    def kind(self) -> str:
        """What the rows are."""
        return "JVPs" if self.of[0] else "VJPs"


_passing: ContextVar[_Pass | None] = ContextVar("passing", default=None)
_tangents: ContextVar[Mapping[Any, Any]] = ContextVar("tangents")  # of the push that goes on


class _Guard(Observer):
    """The observer behind `no_jacobian`."""

    records = False

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        forget = self._places.pop
        self._gone: Callable[[Any], object] = lambda place: forget(place.seq, None)
        self._rows: dict[int, tuple[Any, Sequence[_Rows]]] = {}
        self._walks = count(1)
        self._known: dict[Any, Mapping[Shape, str]] = {}

    def __enter__(self) -> "_Guard":
        super().__enter__()
        self._wrapping = wrapped_bodies(self._wrapped)
        self._wrapping.__enter__()
        self._around = current_frame()
        return self

    def __exit__(self, *error: Any) -> None:
        self._wrapping.__exit__(*error)
        super().__exit__()
        self._places.clear()
        self._rows.clear()

    # --- what is told ---

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        place = _Place(equation, self._gone)
        place.seq, place.line, place.call = equation.seq, here(), current_call()
        place.inputs, place.outputs = [_shape(x) for x in inputs], _shapes(value)
        place.frame = _mapped(_arrays(value))
        self._places[equation.seq] = place
        super().recorded(equation, inputs, value)

    @contextmanager
    def calling(self, module: Any) -> Iterator[None]:
        with super().calling(module), Call(module):
            yield

    @contextmanager
    def walking(self, tape: Sequence[Any], found: dict[Any, Any], pushes: bool) -> Iterator[None]:
        around = _passing.get()
        if around is not None and around.pulls is not pushes:
            around.walked = True
        token, outer = _passing.set(None), _tangents.set(found)
        start = {n: _arrays(x) for n, x in found.items()}
        given = [array for arrays in start.values() for array in arrays]
        times = self._times(tape, given)  # before the tape is consumed
        try:
            with super().walking(tape, found, pushes):
                yield
        finally:
            _tangents.reset(outer)
            _passing.reset(token)
        needed = sum(array.size for array in given)
        if needed > 1:
            of = tuple(sorted((n.seq, id(n)) for n in start))
            numbers = frozenset([next(self._walks) for _ in range(max(times, 1))])
            for n, x in found.items():
                for k, array in enumerate(_arrays(x)):
                    if array.size > 1 and not any(array is x for x in given):
                        rows = _Rows((pushes, of, n.seq, id(n), k), numbers, array.size, needed)
                        if times >= needed:
                            self._refuse_rows("vmap", rows, f"it makes {times} {rows.kind}")
                        self._keep(beneath_all(array) if times else array, [rows])

    def _times(self, tape: Sequence[Any], given: Sequence[Any]) -> int:
        """How many walks `vmap` makes at once of one function from outside of it; 0 where it is none of that kind."""
        frame = _mapped(given)
        if frame is None or frame is self._around or any(self._is_inside(e, frame) for e in tape):
            return 0
        return frame.size

    def _is_inside(self, equation: Any, frame: Frame) -> bool:
        """Whether an equation differs by example of this call of `vmap`: then there is a function for each."""
        place = self._places.get(equation.seq)
        return (place is not None and place.frame is frame) or _mapped(_arrays(equation.saved)) is frame

    @contextmanager
    def pulling(self, equation: Any, found: dict[Any, Any]) -> Iterator[None]:
        parents, given, place = equation.parents, found[equation], self._places.get(equation.seq)
        if place is not None and _in_table(equation.op):
            self._rehearse(equation, place, given)
        with super().pulling(equation, found), self._passing_by(pulls=True) as passing:
            yield
        if not passing.walked:
            shown = _Shown([s for n in parents if n in found for s in _shapes(found[n])], _shapes(given))
            self._judge(equation, "pull", passing.made, place if place is not None and place.inputs else shown)

    @contextmanager
    def pushing(self, equation: Any) -> Iterator[None]:
        place = self._places.get(equation.seq)
        if place is not None and _in_table(equation.op):
            self._rehearse(equation, place, None)
        with super().pushing(equation), self._passing_by(pulls=False) as passing:
            yield
        if not passing.walked and place is not None:
            tangents = _tangents.get()
            shown = _Shown([s for n in equation.parents if n in tangents for s in _shapes(tangents[n])], place.outputs)
            self._judge(equation, "push", passing.made, place if place.inputs else shown)

    def forming(self, name: str, outputs: int, inputs: int) -> None:
        if outputs > 1 and inputs > 1:
            raise RuleError(
                f"{name}: no_jacobian: it forms the Jacobian of {outputs} numbers by {inputs}\n"
                f"  at {source_of(here())}\n"
                "  use products with it: pb.vjp, pb.jvp, pb.hvp, pb.linear_operator"
            )
        super().forming(name, outputs, inputs)

    # --- equations ---

    @contextmanager
    def _passing_by(self, pulls: bool) -> Iterator[_Pass]:
        """Around the rules of an equation: what their ops make is written down."""
        passing = _Pass(pulls)
        token = _passing.set(passing)
        try:
            yield passing
        finally:
            _passing.reset(token)

    def _rehearse(self, e: Any, place: _Place, given: Any) -> None:
        """Run the rules of an equation on arrays without numbers, and judge all that they allocate."""
        for i, n in enumerate(e.parents):
            if n is not None:
                start = place.inputs[i] if given is None else given
                made = self._allocated(e, i, start, pulls=given is not None)
                self._judge(e, "push" if given is None else "pull", made, place, i)

    def _allocated(self, e: Any, i: int, start: Any, pulls: bool) -> Mapping[Shape, str]:
        """The shapes that the rule for input `i` allocates, each with the op that did; none where numbers decide."""
        key: Any = (e.op, i, pulls, _form(start), _form(e.saved), _form(e.fit))
        try:
            if key in self._known:
                return self._known[key]
        except TypeError:
            key = None  # a parameter that cannot be looked up
        backend_for("meta")
        meter = _Shapes()
        end, double = Leaf(), Equation()
        double.seq, double.op, double.saved, double.fit = e.seq, e.op, _ghost(e.saved), _ghost(e.fit)
        double.parents = tuple(end if j == i else None for j in range(len(e.parents)))
        with unobserved(), metering(meter), suppress(Exception):  # it may need numbers: it is seen with them as well
            if pulls:
                pull([double], {double: _ghost(start)})
            else:
                push([double], {end: _ghost(np.broadcast_to(0.0, start))})
        if key is not None:
            self._known[key] = meter.made
        return meter.made

    def _judge(
        self, e: Any, walk: str, made: Mapping[Shape, str], place: "_Place | _Shown", only: int | None = None
    ) -> None:
        """Raise if an array of one of these shapes is as large as the Jacobian of the equation (by input `only`)."""
        m, n = (sum(map(prod, shapes)) for shapes in (place.outputs, place.inputs))
        largest = max(map(prod, (*place.outputs, *place.inputs)), default=0)
        names = [input_name(e.op, i) for i in range(len(place.inputs))]
        for shape, maker in made.items():
            size = prod(shape)
            if m > 1 and n > 1 and size >= m * n:
                self._refuse(e, walk, shape, maker, f"{m} numbers of its value by {n} of its inputs")
            if size <= largest:
                continue
            for i, by in enumerate(place.inputs):
                for out in place.outputs:
                    if only in (None, i) and _is_jacobian(shape, out, by):
                        self._refuse(e, walk, shape, maker, f"its value {out} by {names[i]} {by}")

    def _refuse(self, e: Any, walk: str, shape: Shape, maker: str, of: str) -> NoReturn:
        place = self._places.get(e.seq)
        layer = layer_of(place.call) if place is not None else ""
        lines = [
            f"no_jacobian: the {walk} of {e.op.name} made an array of shape {shape} (in {maker or 'its rule'}): "
            f"as large as the Jacobian of {of}",
            *([f"in layer {layer}"] if layer else []),
            f"at {source_of(place.line) if place is not None else 'a line from before the context'}",
            "write the rule as a product with the cotangent or the tangent: g * slope in place of g @ diag(slope)",
        ]
        raise RuleError("\n  ".join(lines))

    # --- rows ---

    def _wrapped(self, op: Op, backend: Backend, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, whose values are looked at where this guard watches."""
        if backend.absorbs:
            return run

        def watched(*args: Any, **kwargs: Any) -> Any:
            value = run(*args, **kwargs)
            observer = observing()
            while observer is not None and observer is not self:
                observer = observer.outer
            if observer is self:
                self._made(op, args, _arrays(value))
            return value

        return watched

    def _made(self, op: Op, args: Any, results: Sequence[Any]) -> None:
        """An op computed `results`."""
        passing = _passing.get()
        if passing is not None:
            given = {id(_owner(array)) for array in _arrays(args)}
            for array in results:
                owner = _owner(array)
                if id(owner) not in given and owner.size >= array.size:  # no view of an input, no broadcast
                    passing.made.setdefault(_shape(array), op.name)
        joined: dict[Any, _Rows] = {}
        for array in _arrays(args) if self._rows else ():
            for rows in self._rows_of(array):
                before = joined.get(rows.of)
                joined[rows.of] = replace(rows, numbers=rows.numbers | before.numbers) if before else rows
        for array in results if joined else ():
            held = [rows for rows in joined.values() if array.size >= len(rows.numbers) * rows.size]
            for rows in held:
                if len(rows.numbers) >= rows.needed:
                    what = f"its value of shape {_shape(array)} holds {len(rows.numbers)} {rows.kind}"
                    self._refuse_rows(op.name, rows, what)
            self._keep(array, held)

    def _refuse_rows(self, name: str, rows: _Rows, what: str) -> NoReturn:
        raise RuleError(
            f"{name}: no_jacobian: {what} of {rows.size} numbers each by one function, which is a Jacobian\n"
            f"  at {source_of(here())}\n"
            "  use each product where it is made, or ask for fewer of them"
        )

    def _keep(self, array: Any, rows: Sequence[_Rows]) -> None:
        """Note which rows an array holds, for as long as it lives."""
        forget, key = self._rows.pop, id(array)
        with suppress(TypeError):  # NumPy's scalars cannot be watched; they are no rows
            self._rows[key] = ref(array, lambda _: forget(key, None)), [*self._rows_of(array), *rows]

    def _rows_of(self, array: Any) -> Sequence[_Rows]:
        held, rows = self._rows.get(id(array), (None, ()))
        return rows if held is not None and held() is array else ()


@dataclass
class _Shown:
    """Shapes of the inputs and outputs of an equation, as its cotangents show them."""

    inputs: list[Shape]
    outputs: list[Shape]


class _Shapes(Meter):
    """A meter that writes down the shape of every new buffer, with the op that is at work."""

    def __init__(self) -> None:
        self.made: dict[Shape, str] = {}
        self._ops: list[str] = []

    def allocate(self, nbytes: int, shape: Shape = ()) -> None:
        self.made.setdefault(shape, self._ops[-1] if self._ops else "")

    def enter(self, name: str) -> None:
        self._ops.append(name)

    def leave(self) -> None:
        self._ops.pop()


def _is_jacobian(shape: Shape, out: Shape, by: Shape) -> bool:
    """Whether an array of this shape may be the Jacobian of `out` by `by`, with its own axes or flat, or transposed."""
    m, n = prod(out), prod(by)
    if m < 2 or n < 2 or prod(shape) != m * n:
        return False
    forms = [(a, b) for a in (out, (m,)) for b in (by, (n,))]
    return _long(shape) in {_long(form) for a, b in forms for form in ((*a, *b), (*b, *a))}


def _long(shape: Shape) -> Shape:
    return tuple(length for length in shape if length > 1)


def _in_table(op: Op) -> bool:
    return OPS.get(op.name) is op


def _arrays(x: Any) -> list[Any]:
    """The raw arrays in a Tensor, an array, or a tuple or list of them."""
    if isinstance(x, list | tuple):
        return [array for entry in x for array in _arrays(entry)]
    if isinstance(x, Tensor):
        x = x.data
    return [x] if hasattr(x, "dtype") and hasattr(x, "shape") else []


def _mapped(arrays: Sequence[Any]) -> Frame | None:
    """The innermost call of `vmap` by whose examples arrays differ."""
    return frame_of([array for array in arrays if getattr(array, "batched", False)])


def _owner(array: Any) -> Any:
    """The array that owns the memory of `array`."""
    while hasattr(base := getattr(array, "base", None), "size"):
        array = base
    return array


def _shape(x: Any) -> Shape:
    return tuple(getattr(x, "shape", ()))


def _shapes(x: Any) -> list[Shape]:
    return [_shape(array) for array in _arrays(x)]


def _ghost(x: Any) -> Any:
    """`x` with arrays without numbers for its arrays, all of float64 where they are of floating point."""
    if isinstance(x, Tensor):
        x = x.data
    if isinstance(x, list | tuple):
        entries = [_ghost(entry) for entry in x]
        return x._make(entries) if hasattr(x, "_make") else type(x)(entries)
    if isinstance(x, np.dtype):
        return np.dtype("float64") if is_floating(x) else x
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        return x
    return outside(SimpleNamespace(shape=_shape(x), dtype=np.dtype("float64")) if is_floating(x.dtype) else x)


def _form(x: Any) -> Any:
    """What `_ghost` depends on, as a key."""
    if isinstance(x, list | tuple):
        return tuple(map(_form, x))
    return (_shape(x), str(x.dtype)) if hasattr(x, "dtype") and hasattr(x, "shape") else x
