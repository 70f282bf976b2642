"""One run of a function under a fresh stretch of tape, from which both walks start."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from .. import trees
from ..backends import BACKENDS, is_floating
from ..backends.batched.current import current_frame, within
from ..core.recording import enable_recording, recording
from ..core.tape import HEAD, Equation, equation, pull, push, reaching, tape_of, tick
from ..core.tensor import Tensor, asarray
from ..errors import DeviceError, DtypeError, ShapeError

__all__ = ["Trace", "as_it_was", "checked_like", "inside", "require_function", "where_it_is", "zeros_like"]


inside: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("inside", default=None)
"""In a function that is mapped: what makes a tensor one of each example, so that derivatives by it are by example."""


def where_it_is() -> tuple[Any, Any]:
    """In which mapped function this runs: what `as_it_was` takes."""
    return current_frame(), inside.get()


@contextmanager
def as_it_was(place: tuple[Any, Any]) -> Iterator[None]:
    """A context in the mapped function of another time, which may have been left since."""
    frame, by_example = place
    token = inside.set(by_example)
    try:
        with within(frame):
            yield
    finally:
        inside.reset(token)


class Trace:
    """`f(*primals)`, run once on *heads*: nodes of its own that are joined to the primals' nodes, so that derivatives
    outside of this one see through them.

    Attributes:
        out: The value of f, a tree; its tensors are on this trace's tape.
        outer: Nodes from before this trace that the value depends on besides the primals' (closed-over tensors).
        joined: Whether something outside may differentiate what is done here: then walks are recorded.
    """

    def __init__(
        self, name: str, f: Callable[..., Any], primals: Sequence[Any], argnums: Sequence[int] | None = None
    ) -> None:
        chosen = range(len(primals)) if argnums is None else argnums
        require_function(name, f)
        self.mark = tick()
        self.name = name
        self.specs: list[Any] = []
        self.heads: list[list[Tensor]] = []
        arguments = list(primals)
        for number in chosen:
            leaves, spec = trees.flatten(primals[number])
            heads = [self._head(leaf, number) for leaf in leaves]
            arguments[number] = trees.unflatten(spec, heads)
            self.specs.append(spec)
            self.heads.append(heads)
        self.flat_heads = [head for heads in self.heads for head in heads]
        self.ends: list[Equation] = [head.node for head in self.flat_heads]  # before f, which may write at an index
        with enable_recording():
            self.out = f(*arguments)

    def _head(self, leaf: Any, number: int) -> Tensor:
        try:
            x = leaf if isinstance(leaf, Tensor) else asarray(leaf)
        except DtypeError as error:
            raise DtypeError(f"{self.name}: argument {number}: {error}") from error
        if not is_floating(x.dtype):
            raise DtypeError(
                f"{self.name}: argument {number} holds {x.dtype}; "
                "derivatives are taken with respect to floating-point numbers"
            )
        if (by_example := inside.get()) is not None:
            x = by_example(x)
        return Tensor(x.data, equation(HEAD, (x.node,), (), None))

    def close(self, outputs: Sequence[Any]) -> None:
        """Fix which tensors are the outputs, and look along the tape once."""
        self.outputs = [x if isinstance(x, Tensor) else None for x in outputs]
        nodes = [x.node for x in self.outputs if x is not None]
        tape = tape_of(nodes, self.ends, self.mark)
        self.wanted = reaching(tape, self.ends)
        parents = {n: None for e in (*self.ends, *tape) for n in e.parents if n is not None and n.seq <= self.mark}
        parents |= {n: None for n in nodes if n is not None and n.seq <= self.mark}
        self.outer = list(parents)
        self.joined = bool(self.outer) and recording()
        self.tape = [e for e in tape if e in self.wanted]

    def leave(self, tree: Any) -> Any:
        """A tree of results as the caller may keep it: off this trace's tape unless something outside may need it."""
        if self.joined:
            return tree
        if isinstance(tree, Tensor):
            return Tensor(tree.data)
        return trees.map(lambda x: Tensor(x.data) if isinstance(x, Tensor) else x, tree)

    def pull(self, cotangents: Sequence[Any], free: bool = False) -> list[Tensor]:
        """Cotangents of the heads for cotangents of the outputs; None stands for zero."""
        higher = recording() and (self.joined or any(g is not None and g.node is not None for g in cotangents))
        found: dict[Any, Any] = {}
        for x, g in zip(self.outputs, cotangents, strict=True):
            if g is not None and x is not None and x.node is not None and x.node in self.wanted:
                g = g if higher else g.data
                found[x.node] = found[x.node] + g if x.node in found else g
        if found:
            with self.walking():
                pull(self.tape, found, higher, self.wanted, free and not higher)
        return [self._result(found.get(end), head) for end, head in zip(self.ends, self.flat_heads, strict=True)]

    def push(self, tangents: Sequence[Any]) -> list[Tensor]:
        """Tangents of the outputs for tangents of the heads; None stands for zero."""
        higher = recording() and (self.joined or any(t is not None and t.node is not None for t in tangents))
        given = zip(self.ends, tangents, strict=True)
        found = {end: t if higher else t.data for end, t in given if t is not None}
        with self.walking():
            push(self.tape, found, higher)
        return [self._result(found.get(x.node), x) if x is not None else asarray(0.0) for x in self.outputs]

    def walking(self) -> AbstractContextManager[Any]:
        """A context for walks along this tape."""
        if not self.flat_heads:
            return nullcontext()
        array = self.flat_heads[0].data
        return BACKENDS[array.__class__].walking(array)

    @staticmethod
    def _result(value: Any, like: Tensor) -> Tensor:
        if value is None:
            return zeros_like(like)
        return value if isinstance(value, Tensor) else Tensor(value)


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of the shape and dtype of `x`, where it is."""
    return Tensor(BACKENDS[x.data.__class__].beside(x.data).zeros_like(x.data))


def require_function(name: str, f: Any) -> None:
    """Raise DtypeError where a function is due and something else was given, such as its value."""
    if not callable(f):
        raise DtypeError(f"{name}: its first argument is a function; got {type(f).__name__}, which cannot be called")


def checked_like(name: str, what: str, tree: Any, spec: Any, like: Sequence[Any]) -> list[Tensor]:
    """The leaves of `tree` as tensors of the shapes and dtypes of `like`; numbers go to its devices.

    Raises ShapeError, DtypeError, or DeviceError for arrays of another device.
    """
    try:
        leaves = spec.flatten_up_to(tree)
    except ValueError as error:
        leaves, other = trees.flatten(tree)
        if other.paths() != spec.paths():  # a plain tuple serves for a named one
            raise ShapeError(f"{name}: the {what} must have the form of its value: {error}") from error
    made = []
    for leaf, value in zip(leaves, like, strict=True):
        x = leaf if isinstance(leaf, Tensor) else asarray(leaf)
        shape = value.shape if isinstance(value, Tensor) else ()
        if x.shape != shape:
            raise ShapeError(f"{name}: a {what} has shape {x.shape} where its value has shape {shape}; they must agree")
        if isinstance(value, Tensor):
            if x.device != value.device:
                if hasattr(leaf, "dtype"):
                    raise DeviceError(
                        f"{name}: a {what} is on {x.device}, its value on {value.device}; move one with .to()"
                    )
                x = x.to(value.device)
            x = x.astype(value.dtype)
        made.append(x)
    return made
