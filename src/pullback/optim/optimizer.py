"""What the optimizers share: parameters in packs, everything checked before a write, and state that can be saved."""

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Any

from ..backends import BACKENDS, Backend
from ..core.recording import observing
from ..core.tape import Leaf, mutate
from ..core.tensor import as_array
from ..errors import ArgumentError, CheckpointError, PullbackError, ShapeError, TapeError
from .pack import Pack, working_dtype
from .parameters import called, current_gradients, given_gradients, named_parameters, nonfinite_flags, refuse_nonfinite
from .schedules import Schedule

__all__ = ["LearningRate", "Optimizer", "checked_number"]

LearningRate = float | Schedule
INFINITY = float("inf")
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
        self._ages = [0] * len(self._tensors)  # how often each parameter outside the packs was updated
        self._state: list[dict[str, Any]] = [{} for _ in self._tensors]
        self._packs: list[Pack] = []
        self._active: list[int] = []  # parameters with a gradient in the last step
        self._calls: list[list[int]] = []  # packs that one call of the backend updates
        self._leaves: list[Leaf] = []
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
        if rate.__class__ is float and 0.0 <= rate < INFINITY:
            return rate
        return checked_number(self._who, "lr", rate(self.steps) if callable(rate) else rate)

    def _checked(self, *args: Any, **hyperparameters: Any) -> dict[str, Any]:
        """The hyperparameters, or ArgumentError."""
        raise NotImplementedError

    def _slots(self, hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the arrays of state beside each parameter."""
        raise NotImplementedError

    def _update(self, backend: Backend, rows: Sequence[Any], rate: float, age: int, skip: Any) -> None:
        """Change parameters and state in place for the `age`-th time (from 1) unless `skip`; rows as in `Pack.row`."""
        raise NotImplementedError

    # --- steps ---

    def step(self, gradients: Any = None, *, error_if_nonfinite: bool = False, skip_if_nonfinite: bool = False) -> None:
        """Change the parameters along their gradients.

        Args:
            gradients: A tree of the form of the parameters, as `pb.grad` gives it; None takes what `backward` left in
                `.grad`. Parameters that the tree leaves out have no gradient.
            error_if_nonfinite: Look at all gradients first and refuse NaN and infinity.
            skip_if_nonfinite: Where a gradient holds NaN or infinity leave parameters and state as they are; the step
                counts all the same. On a CUDA device this waits for nothing. For loss scaling with 16-bit types.

        Raises:
            TapeError: no parameter has a gradient. ShapeError, DtypeError, DeviceError: a gradient does not fit its
            parameter. NonFiniteError: see above. ArgumentError: the schedule gave no learning rate, or a gradient is of
            no parameter. Nothing has changed then.
        """
        rate = self._rate()
        flats = self._current() if gradients is None and not error_if_nonfinite else None
        if flats is None:
            flats = self._examined(gradients, error_if_nonfinite)
        packs = self._packs
        skip = _joint_flag(nonfinite_flags(flats)) if skip_if_nonfinite else None
        observer = observing()
        for places in self._calls:
            lead = packs[places[0]]
            rows = [packs[i].row(flats[i]) for i in places]
            if observer is None:
                self._update(lead.backend, rows, rate, lead.age + 1, skip)
            else:
                with observer.updating(self._who, lead.backend):
                    self._update(lead.backend, rows, rate, lead.age + 1, skip)
        moment = mutate(self._leaves)
        for pack in packs:
            pack.age, pack.moment = pack.age + 1, moment
        self.steps += 1

    def _current(self) -> list[Any] | None:
        """The gradients that `backward` left, by pack, if the packs hold all parameters and all is as it was."""
        if len(self._active) != len(self._tensors):
            return None
        found = []
        for pack in self._packs:
            flat = pack.current()
            if flat is None:
                return None
            found.append(flat)
        return found

    def _examined(self, gradients: Any, error_if_nonfinite: bool) -> list[Any]:
        """The gradients by pack; parameters and gradients are looked at one by one, and packed anew where needed."""
        who, named = self._who, self._named
        found = current_gradients(who, named) if gradients is None else given_gradients(who, named, gradients)
        if error_if_nonfinite:
            refuse_nonfinite(who, named, found)
        active = [i for i, g in enumerate(found) if g is not None]
        if not active:
            raise TapeError(f"{who}: no parameter has a gradient; call loss.backward() first")
        if active != self._active or not all(pack.is_whole() for pack in self._packs):
            self._pack(active)
        flats = []
        for pack in self._packs:
            with pack.backend.on(pack.device):
                flats.append(pack.gathered(found))
        return flats

    def zero_grad(self) -> None:
        """Mark all gradients as none."""
        for x in self._tensors:
            x.node.stale = True

    def _pack(self, active: list[int]) -> None:
        """Form packs: at first, when other parameters have gradients, and when arrays were moved or replaced."""
        groups: dict[Any, list[int]] = {}
        ages = self._counted()
        for i, name in enumerate(self._named):
            x, shape = self._tensors[i], self._shapes[i]
            if x.shape != shape:
                raise ShapeError(
                    f"{self._who}: {called(name)} had shape {shape} and now has {x.shape}; make a new optimizer"
                )
            if i in active:
                packs = BACKENDS[x.data.__class__].packs
                alone = i if x.size >= ALONE or not packs else None
                groups.setdefault((x.device, x.dtype, ages[i], alone), []).append(i)
        kept = {pack.members: pack for pack in self._packs if pack.is_whole()}
        made: list[Pack] = []
        calls: dict[Any, list[int]] = {}
        for (device, _, age, _), members in groups.items():
            slots = self._slots_of(self.hyperparameters, self._tensors[members[0]].dtype)
            state = {slot: [self._state[i].get(slot) for i in members] for slot in slots}
            calls.setdefault((device, age), []).append(len(made))
            made.append(kept.get(tuple(members)) or Pack(members, [self._tensors[i] for i in members], state, age))
        for pack in made:  # all memory is had by now: from here on nothing fails
            pack.adopt()
            for place, i in enumerate(pack.members):
                self._state[i] = {slot: parts[place] for slot, parts in pack.parts.items()}
        self._ages, self._packs, self._active, self._calls = ages, made, active, list(calls.values())
        self._leaves = [leaf for pack in made for _, leaf, _, _ in pack.owned]

    def _slots_of(self, hyperparameters: Mapping[str, Any], dtype: Any) -> tuple[str, ...]:
        """Names of the arrays of state beside a parameter of `dtype`."""
        return (*self._slots(hyperparameters), *(() if working_dtype(dtype) == dtype else ("master",)))

    def _counted(self) -> list[int]:
        """How often each parameter was updated."""
        ages = list(self._ages)
        for pack in self._packs:
            for i in pack.members:
                ages[i] = pack.age
        return ages

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on bit by bit: a tree of numbers, text and arrays in host memory (copies).

        The learning rate is in it when it is a number; a schedule is code, and is given again with its optimizer.
        """
        parameters = {
            name: {"age": age, "state": {slot: _host_copy(array) for slot, array in state.items()}}
            for name, age, state in zip(self._named, self._counted(), self._state, strict=True)
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
        ages, arrays = [], []
        for (name, x), shape in zip(self._named.items(), self._shapes, strict=True):
            age, found = given[name]["age"], {slot: _host_copy(as_array(a)) for slot, a in given[name]["state"].items()}
            if found.keys() != (set(self._slots_of(hyperparameters, x.dtype)) if age else set()):
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
        self._ages, self._state, self._packs, self._active, self._calls = ages, arrays, [], [], []
        self.lr, self.steps, self.hyperparameters = lr, steps, MappingProxyType(hyperparameters)


def _joint_flag(flags: Mapping[str, Any]) -> Any:
    """One flag of several devices: that of a single one stays there."""
    return next(iter(flags.values())) if len(flags) == 1 else any(bool(flag) for flag in flags.values())


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
