"""Second floor: whether ops are written on a tape here and now, and who watches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any

__all__ = ["Observer", "enable_recording", "no_grad", "observe", "observing", "recording", "unobserved"]

_on: ContextVar[Any] = ContextVar("recording", default=True)
recording = _on.get
"""Whether ops are recorded in this thread and async context: False, True, or the `Observer` to be told of equations."""
_observer: ContextVar["Observer | None"] = ContextVar("observing", default=None)
observing = _observer.get
"""Who watches in this thread and async context, also where nothing is recorded."""
_NOTHING: AbstractContextManager[Any] = nullcontext()


class _Recording:
    """A context (and decorator) that sets the state of recording, for this thread and this async context only."""

    def __init__(self, state: bool) -> None:
        self._state = state
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> None:
        self._tokens.append(_on.set(self._state and (observing() or True)))

    def __exit__(self, *_: object) -> None:
        _on.reset(self._tokens.pop())

    def __call__(self, f: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(f)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _Recording(self._state):
                return f(*args, **kwargs)

        return wrapped


def no_grad() -> _Recording:
    """A context, or a decorator, in which nothing is recorded. It holds for this thread and async context only."""
    return _Recording(False)


def enable_recording() -> _Recording:
    """A context in which ops are recorded, whatever is outside it."""
    return _Recording(True)


@contextmanager
def unobserved() -> Iterator[None]:
    """A context in which nobody watches and nothing is recorded."""
    observer, on = _observer.set(None), _on.set(False)
    try:
        yield
    finally:
        _on.reset(on)
        _observer.reset(observer)


class Observer:
    """A context in which ops are recorded, and a computation is watched: what it calls is told to these methods.

    Checks, ledgers and profiles are observers. What a method does not do itself it leaves to `super()`, which tells the
    observer outside of this one.
    """

    outer: "Observer | None" = None
    records = True  # whether ops are recorded inside also where they are not outside

    def __enter__(self) -> Any:
        self.outer = observing()
        self._tokens = _observer.set(self), _on.set(self if self.records or recording() else False)
        return self

    def __exit__(self, *_: object) -> None:
        observer, on = self._tokens
        _on.reset(on)
        _observer.reset(observer)

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        """An equation was written: its op computed `value` (a raw array, or a tuple of them) from `inputs`."""
        if self.outer is not None:
            self.outer.recorded(equation, inputs, value)

    def calling(self, module: Any) -> AbstractContextManager[Any]:
        """Around the call of a module."""
        return _NOTHING if self.outer is None else self.outer.calling(module)

    def walking(self, tape: Sequence[Any], found: dict[Any, Any], pushes: bool) -> AbstractContextManager[Any]:
        """Around a whole pull (or push) of the equations in `tape`; `found` is as `core.tape.pull` (`push`) takes it.

        What is raised at its end is raised by the walk: no gradient is written then.
        """
        return _NOTHING if self.outer is None else self.outer.walking(tape, found, pushes)

    def pulling(self, equation: Any, found: dict[Any, Any]) -> AbstractContextManager[Any]:
        """Around the pull of an equation that has a cotangent; `found` is as `core.tape.pull` takes it."""
        return _NOTHING if self.outer is None else self.outer.pulling(equation, found)

    def pushing(self, equation: Any) -> AbstractContextManager[Any]:
        """Around the push of an equation that has a tangent."""
        return _NOTHING if self.outer is None else self.outer.pushing(equation)

    def forming(self, name: str, outputs: int, inputs: int) -> None:
        """The transform `name` is about to form the Jacobian of so many numbers by so many."""
        if self.outer is not None:
            self.outer.forming(name, outputs, inputs)

    def updating(self, optimizer: str, backend: Any) -> AbstractContextManager[Any]:
        """Around a call of `backend` that changes parameters for an optimizer of that name."""
        return _NOTHING if self.outer is None else self.outer.updating(optimizer, backend)


class _Told(Observer):
    def __init__(self, told: Callable[[Any, Any, Any], None]) -> None:
        self._told = told

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        self._told(equation, inputs, value)
        super().recorded(equation, inputs, value)


def observe(told: Callable[[Any, Any, Any], None]) -> Observer:
    """A context in which ops are recorded and `told(equation, inputs, value)` is called for each."""
    return _Told(told)
