"""What the optimizers share: parameters in packs, everything checked before a write, and state that can be saved."""

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any

from ..backends import BACKENDS
from ..core.tape import mutate
from ..core.tensor import as_array
from ..errors import ArgumentError, CheckpointError, PullbackError, ShapeError, TapeError
from .pack import Pack
from .parameters import called, current_gradients, given_gradients, named_parameters, refuse_nonfinite
from .schedules import Schedule

__all__ = ["LearningRate", "Optimizer", "checked_number"]

LearningRate = float | Schedule
ALONE = 1 << 15  # a parameter of at least so many numbers is a pack of its own


class Optimizer:
    """Parameters that are changed in place, step by step, along their gradients.

    What holds for each optimizer:

    - It takes a tree of leaf tensors (or any iterable of them, or `model.parameters()`), each at most once. For other
      hyperparameters on some of them make two optimizers.
    - `lr` is a number, which may be assigned between steps, or a schedule: a function of the steps taken so far.
    - Parameters without a gradient are passed by, and their state stays as it is.
    - A step that raises an error leaves parameters and state as they were. (Ctrl-C inside a step is no such error: take
      signals between steps, as the Trainer does.)
    - Parameters stay the tensors they are; their arrays become views of larger ones. Tapes that still need a value from
      before a step refuse to be pulled (MutationError).

    Attributes:
        lr: The learning rate or its schedule.
        hyperparameters: The others, by name; they are fixed when the optimizer is made or its state loaded.
        steps: How many steps were taken.
    """

    def __init__(self, params: Any, lr: LearningRate, **hyperparameters: Any) -> None:
        self._who = type(self).__name__
        self._named = named_parameters(self._who, params)
        self._tensors = list(self._named.values())
        self._shapes = [x.shape for x in self._tensors]
        self._ages = [0] * len(self._tensors)  # how often each parameter was updated
        self._state: list[dict[str, Any]] = [{} for _ in self._tensors]
        self._packs: list[Pack] = []
        self._active: list[int] = []
        self.hyperparameters: Mapping[str, Any] = MappingProxyType(self._checked(**hyperparameters))
        self.lr, self.steps = lr, 0
        self._rate()

    def __repr__(self) -> str:
        options = {"lr": self.lr} | dict(self.hyperparameters)
        count = sum(x.size for x in self._tensors)
        return f"{self._who}({', '.join(f'{k}={v!r}' for k, v in options.items())}): {count:,} parameters"

    def _rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.lr
        return checked_number(self._who, "lr", rate(self.steps) if callable(rate) else rate)

    def _checked(self, *args: Any, **hyperparameters: Any) -> dict[str, Any]:
        """The hyperparameters, or ArgumentError."""
        raise NotImplementedError

    def _slots(self, hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the arrays of state beside each parameter."""
        raise NotImplementedError

    def _update(self, pack: Pack, values: Any, gradient: Any, rate: float, age: int) -> None:
        """Change the flat `values`, and the state of `pack`, in place, for the `age`-th time (from 1)."""
        raise NotImplementedError

    # --- steps ---

    def step(self, gradients: Any = None, *, error_if_nonfinite: bool = False) -> None:
        """Change the parameters along their gradients.

        Args:
            gradients: A tree of the form of the parameters, as `pb.grad` gives it; None takes what `backward` left in
                `.grad`. Parameters that the tree leaves out have no gradient.
            error_if_nonfinite: Look at all gradients first and refuse NaN and infinity.

        Raises:
            TapeError: no parameter has a gradient. ShapeError, DtypeError, DeviceError: a gradient does not fit its
            parameter. NonFiniteError: see above. ArgumentError: the schedule gave no learning rate, or a gradient is of
            no parameter. Nothing has changed then.
        """
        rate = self._rate()
        named = self._named
        if gradients is None:
            found = current_gradients(self._who, named)
        else:
            found = given_gradients(self._who, named, gradients)
        if error_if_nonfinite:
            refuse_nonfinite(self._who, named, found)
        active = [i for i, g in enumerate(found) if g is not None]
        if not active:
            raise TapeError(f"{self._who}: no parameter has a gradient; call loss.backward() first")
        if active != self._active or not self._is_packed():
            self._pack(active)
        for pack in self._packs:
            with pack.backend.on(pack.device), pack.backend.quiet():
                values = pack.working_values()
                self._update(pack, values, pack.gathered(found), rate, self._ages[pack.members[0]] + 1)
                if values is not pack.values:
                    pack.values[...] = values
        tensors, ages = self._tensors, self._ages
        for i in active:
            ages[i] += 1
            mutate(tensors[i].node)
        self.steps += 1

    def zero_grad(self) -> None:
        """Mark all gradients as none."""
        for x in self._tensors:
            x.node.stale = True

    def _is_packed(self) -> bool:
        """Whether all arrays still are views of the packs: nothing was moved, replaced or packed by others since."""
        for pack in self._packs:
            for x, array in pack.owned:
                if x.data is not array:
                    return False
        return True

    def _pack(self, active: list[int]) -> None:
        """Form packs: at first, when other parameters have gradients, and when arrays were moved or replaced."""
        groups: dict[Any, list[int]] = {}
        for i, name in enumerate(self._named):
            x, shape = self._tensors[i], self._shapes[i]
            if x.shape != shape:
                raise ShapeError(
                    f"{self._who}: {called(name)} had shape {shape} and now has {x.shape}; make a new optimizer"
                )
            if i in active:
                alone = i if x.size >= ALONE else None
                groups.setdefault((x.device, x.dtype, self._ages[i], alone), []).append(i)
        kept = {pack.members: pack for pack in self._packs if all(x.data is array for x, array in pack.owned)}
        packs, slots = [], self._slots(self.hyperparameters)
        for members in groups.values():
            state = {slot: [self._state[i].get(slot) for i in members] for slot in slots}
            pack = kept.get(tuple(members)) or Pack(members, [self._tensors[i] for i in members], state)
            packs.append(pack)
        for pack in packs:  # all memory is had by now: from here on nothing fails
            pack.adopt()
            for place, i in enumerate(pack.members):
                self._state[i] = {slot: parts[place] for slot, parts in pack.parts.items()}
        self._packs, self._active = packs, active

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on bit by bit: a tree of numbers, text and arrays in host memory (copies).

        The learning rate is in it when it is a number; a schedule is code, and is given again with its optimizer.
        """
        parameters = {
            name: {"age": age, "state": {slot: _host_copy(array) for slot, array in state.items()}}
            for name, age, state in zip(self._named, self._ages, self._state, strict=True)
        }
        return {
            "optimizer": self._who,
            "steps": self.steps,
            "lr": None if callable(self.lr) else float(self.lr),
            "hyperparameters": dict(self.hyperparameters),
            "parameters": parameters,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave: all of it or, when that raises an error, nothing.

        Raises:
            CheckpointError: it is of another kind of optimizer, of other parameters, or damaged.
        """
        try:
            self._load(state)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, PullbackError) as error:
            raise CheckpointError(f"{self._who}: this is no state of it ({type(error).__name__}: {error})") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        if state["optimizer"] != self._who:
            raise CheckpointError(f"{self._who}: this is the state of {state['optimizer']}")
        given = state["parameters"]
        if given.keys() != self._named.keys():
            missing = ", ".join(sorted(self._named.keys() - given.keys())) or "none"
            unexpected = ", ".join(sorted(given.keys() - self._named.keys())) or "none"
            raise CheckpointError(
                f"{self._who}: the state is of other parameters; missing: {missing}; unexpected: {unexpected}"
            )
        hyperparameters = self._checked(**state["hyperparameters"])
        slots = set(self._slots(hyperparameters))
        ages, arrays = [], []
        for name, shape in zip(self._named, self._shapes, strict=True):
            age, found = given[name]["age"], {slot: _host_copy(as_array(a)) for slot, a in given[name]["state"].items()}
            if found.keys() != (slots if age else set()):
                raise CheckpointError(f"{self._who}: the state of {called(name)} is not that of {age} steps")
            for slot, a in found.items():
                if a.shape != shape:
                    raise CheckpointError(
                        f"{self._who}: {slot} of {called(name)} has shape {a.shape}, the parameter {shape}"
                    )
            ages.append(_count(age))
            arrays.append(found)
        if (state["lr"] is None) != callable(self.lr):
            was, now = ("a schedule", "a number") if state["lr"] is None else ("a number", "a schedule")
            raise CheckpointError(f"{self._who}: the state was saved with {was} as lr, this optimizer has {now}")
        lr = self.lr if state["lr"] is None else checked_number(self._who, "lr", state["lr"])
        steps = _count(state["steps"])
        self._ages, self._state, self._packs, self._active = ages, arrays, [], []
        self.lr, self.steps, self.hyperparameters = lr, steps, MappingProxyType(hyperparameters)


def checked_number(who: str, name: str, value: Any, below: float = float("inf")) -> float:
    """`value` as a float when it is a finite number in [0, below). Raises ArgumentError when it is not."""
    try:
        number = float(value * 1.0)  # text is none
    except (TypeError, ValueError):
        raise ArgumentError(f"{who}: {name} is a number; got {value!r}") from None
    if not (isfinite(number) and 0 <= number < below):
        limit = "finite and not negative" if below == float("inf") else f"at least 0 and below {below:g}"
        raise ArgumentError(f"{who}: {name} has to be {limit}; got {value!r}")
    return number


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count of steps")
    return value


def _host_copy(array: Any) -> Any:
    return BACKENDS[array.__class__].to_numpy(array).copy()
