"""Random numbers from a counter: a key and a position give the same bits on every machine and device.

The bits are those of Philox 4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011):
block `position` of a stream is a function of (key, position) alone, four words of 64 bits, so a stream can be taken up
anywhere. Each draw starts at a fresh block. Numbers are drawn on the host and moved to the device asked for, but the
masks of dropout, of Philox 4x32-10 (see `backends.philox`), are computed where they are used.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from os import urandom
from threading import Lock
from typing import Any

import numpy as np

from ..backends import BACKENDS, backend_for, canonical_dtype, default_dtype, is_floating, philox
from ..core.define import Array, Sample, composite, op
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, DtypeError
from .creation import as_leaf, checked_shape

__all__ = ["dropout", "dropout_mask", "keyed_dropout"]

_ALGORITHM = "philox4x64-10"
_Lengths = int | Sequence[int]
_taking_a_step = Lock()


class Generator:
    """A stream of random numbers.

    Args:
        seed: An integer of at least 0; the same seed gives the same stream. None takes entropy from the system.

    Draws of several threads from one generator never overlap, but which thread gets which numbers is up to the
    scheduler: give each thread (and each process) a generator of its own by `spawn`.
    """

    def __init__(self, seed: int | None = None) -> None:
        if seed is None:
            self._key, self._spawned = [int.from_bytes(urandom(8)) for _ in range(2)], 0
            return
        try:
            sequence = np.random.SeedSequence(seed)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"Generator: a seed is an int of at least 0, or None; got {seed!r}") from error
        self._start(sequence.generate_state(2, np.uint64), 0, 0)

    def _start(self, key: Any, position: int, spawned: int) -> None:
        words = [int(word) for word in key]
        self._bits = np.random.Philox(key=np.array(words, np.uint64), counter=position)
        self._key, self._spawned = words, spawned

    @cached_property
    def _bits(self) -> "np.random.Philox":
        """Of a generator without a seed, made at its first draw: `import pullback` makes one and draws nothing."""
        made: np.random.Philox = vars(self).setdefault("_bits", np.random.Philox(key=np.array(self._key, np.uint64)))
        return made  # one for all threads

    def __repr__(self) -> str:
        state = self.get_state()
        return f"Generator(key={state['key']}, position={state['position']})"

    # --- state ---

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, as a dict that JSON can hold."""
        words = self._bits.state["state"]["counter"]
        position = sum(int(word) << (64 * i) for i, word in enumerate(words))
        return {"algorithm": _ALGORITHM, "key": list(self._key), "position": position, "spawned": self._spawned}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken. Raises ArgumentError for what `get_state` never gave."""
        try:
            key, position, spawned = state["key"], int(state["position"]), int(state["spawned"])
            if state["algorithm"] != _ALGORITHM or len(key) != 2:
                raise ValueError("it is of another algorithm")
            self._start(key, position, spawned)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(f"set_state: this is no state of a Generator ({error!r})") from error

    def spawn(self, n: int) -> list["Generator"]:
        """`n` generators with streams of their own, others at each call; this stream does not move."""
        (count,) = checked_shape("spawn", n)
        first, self._spawned = self._spawned, self._spawned + count
        children = []
        for number in range(first, first + count):
            child = Generator.__new__(Generator)
            child._start(np.random.SeedSequence([*self._key, number]).generate_state(2, np.uint64), 0, 0)
            children.append(child)
        return children

    # --- words: whole blocks, in the order of little-endian machines ---

    def _words64(self, n: int) -> np.ndarray:
        return np.asarray(self._bits.random_raw(-(-n // 4) * 4), "<u8")[:n]

    def _words32(self, n: int) -> np.ndarray:
        return np.asarray(self._bits.random_raw(-(-n // 8) * 4), "<u8").view("<u4")[:n]

    def _unit(self, n: int, wide: bool) -> np.ndarray:
        """Multiples of 2^-53 (or 2^-24 in float32) from [0, 1)."""
        if wide:
            return (self._words64(n) >> np.uint64(11)).view(np.int64) * 2.0**-53
        return _fractions(self._words32(n))

    def _standard_normal(self, n: int, wide: bool) -> np.ndarray:
        """Box and Muller, "A note on the generation of random normal deviates" (1958): two from two, without a branch.

        The radius comes from (word + 1/2) 2^-32 in float32, which reaches 6.7 deviations, or from 2^-53 (8.5).
        """
        half = -(-n // 2)
        chance: np.ndarray
        if wide:
            u = self._unit(2 * half, True)
            chance, turn = 1.0 - u[:half], u[half:]
        else:
            words = self._words32(2 * half)
            chance = (words[:half].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
            turn = _fractions(words[half:])
        radius = np.sqrt(chance.dtype.type(-2) * np.log(chance))
        angle = turn * turn.dtype.type(2 * np.pi)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]

    def _chosen(self, probability: float, n: int) -> np.ndarray:
        """Booleans, true with a probability, to 2^-32."""
        threshold = round(probability * 2**32)
        return self._words32(n) <= np.uint32(threshold - 1) if threshold else np.zeros(n, np.bool)

    # --- draws ---

    def uniform(
        self,
        shape: _Lengths = (),
        low: float = 0.0,
        high: float = 1.0,
        *,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Numbers from [low, high), each as likely. float64 draws have 53 random bits, others 24."""
        if not low <= high:
            raise ArgumentError(f"uniform: low is at most high; got {low!r} and {high!r}")
        draw = _Draw("uniform", shape, dtype, device, "floating-point")

        def numbers() -> np.ndarray:
            unit = self._unit(draw.size, draw.wide)
            if (low, high) == (0.0, 1.0):
                return unit
            scale = unit.dtype.type
            spread = scale(low) + scale(high - low) * unit
            return np.minimum(spread, np.nextafter(scale(high), scale(low)))  # rounding may have reached `high`

        return draw.of(numbers, requires_grad)

    def normal(
        self,
        shape: _Lengths = (),
        mean: float = 0.0,
        std: float = 1.0,
        *,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Normally distributed numbers of a mean and a standard deviation."""
        if not std >= 0:
            raise ArgumentError(f"normal: std is at least 0; got {std!r}")
        draw = _Draw("normal", shape, dtype, device, "floating-point")

        def numbers() -> np.ndarray:
            standard = self._standard_normal(draw.size, draw.wide)
            scale = standard.dtype.type
            return scale(mean) + scale(std) * standard

        return draw.of(numbers, requires_grad)

    def bernoulli(
        self, probability: float = 0.5, shape: _Lengths = (), *, dtype: Any = "bool", device: str | None = None
    ) -> Tensor:
        """True (1 in other dtypes) with a probability, which is rounded to a multiple of 2^-32; false else."""
        _check_probability("bernoulli: probability", probability)
        draw = _Draw("bernoulli", shape, dtype, device)
        return draw.of(lambda: self._chosen(probability, draw.size))

    def integers(
        self,
        low: int,
        high: int | None = None,
        shape: _Lengths = (),
        *,
        dtype: Any = "int64",
        device: str | None = None,
    ) -> Tensor:
        """Integers from low to high - 1 (from 0 to low - 1 if only one is given), as likely to (high - low) / 2^64."""
        low, high = (0, low) if high is None else (low, high)
        draw = _Draw("integers", shape, dtype, device, "integer")
        if not low < high or low < np.iinfo(draw.dtype).min or high - 1 > np.iinfo(draw.dtype).max:
            raise ArgumentError(f"integers: no number from {low} to below {high} in {draw.dtype}")
        span = high - low

        def numbers() -> np.ndarray:
            words = self._words64(draw.size)
            return (words if span == 2**64 else words % np.uint64(span)) + np.uint64(low % 2**64)

        return draw.of(numbers)

    def permutation(self, n: int, *, device: str | None = None) -> Tensor:
        """The integers 0 to n - 1 in a random order, every order as likely: the order of n random words."""
        draw = _Draw("permutation", n, "int64", device)
        return draw.of(lambda: np.argsort(self._words64(draw.size), stable=True))

    def take_step(self) -> tuple[int, int]:
        """(key, step), whole numbers of 64 bits, that no call gave before: a mask is a function of them.

        They are the first words of the key and of the position; the stream moves on by a block.
        """
        with _taking_a_step:
            step = int(self._bits.state["state"]["counter"][0])
            self._bits.random_raw(4)
        return self._key[0], step


def _fractions(words: np.ndarray) -> np.ndarray:
    """Multiples of 2^-24 from [0, 1) in float32, by the upper bits of words of 32."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


class _Draw:
    """What is asked of a draw, looked at before a number is taken from the stream."""

    def __init__(self, name: str, shape: _Lengths, dtype: Any, device: str | None, kind: str = "") -> None:
        self.name, self.device = name, device
        self.shape, self.dtype = (
            checked_shape(name, shape),
            canonical_dtype(default_dtype() if dtype is None else dtype),
        )
        if not {"": True, "floating-point": is_floating(self.dtype), "integer": self.dtype.kind in "iu"}[kind]:
            raise DtypeError(f"{name}: its numbers have a {kind} dtype; got {self.dtype}")
        self.size, self.wide = prod(self.shape), self.dtype.itemsize > 4
        self.backend = backend_for("cpu" if device is None else device)
        with self.backend.on(device):
            pass

    def of(self, numbers: Callable[[], np.ndarray], requires_grad: bool = False) -> Tensor:
        """The numbers, drawn in a row, in their shape and dtype and on their device; none where none are held."""
        if self.backend.absorbs:
            return as_leaf(self.name, self.backend.xp.empty(self.shape, dtype=self.dtype), requires_grad)
        host = numbers().astype(self.dtype, copy=False).reshape(self.shape)
        return as_leaf(self.name, self.backend.asarray(host, device=self.device), requires_grad)


def _check_probability(what: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ArgumentError(f"{what} is a number from 0 to 1; got {probability!r}")


default_generator = Generator()
"""Of this process: what `pb.random.uniform` and the others draw from, and dropout without a generator."""


def seed(n: int) -> None:
    """Start the default generator of this process again, at the stream of seed `n`.

    All threads share it: a run is repeatable if only one of them draws. A forked process goes on with a copy, which
    gives the same numbers as its parent: seed it, or spawn a generator for it.
    """
    default_generator.set_state(Generator(n).get_state())


def _generator(given: Generator | int | None) -> Generator:
    if given is None:
        return default_generator
    return given if isinstance(given, Generator) else Generator(given)


def _mask(x: Any, rate: float, key: int, step: int) -> Any:
    """What dropout multiplies a raw array by: drawn on the host, moved to where the array is."""
    _check_probability("rate", rate)
    if not (0 <= key < 2**64 and 0 <= step < 2**64):
        raise ArgumentError(f"key and step are whole numbers of 64 bits; got {key!r} and {step!r}")
    if not is_floating(x.dtype):
        raise DtypeError(f"x holds {x.dtype}; convert it with .astype('float32')")
    dtype, backend = canonical_dtype(x.dtype), BACKENDS[x.__class__]
    kept = philox.kept(key, step, prod(x.shape), philox.threshold_of(rate))
    mask = kept.reshape(x.shape).astype(dtype)
    mask *= philox.scale_of(rate, dtype)
    return backend.asarray(mask, device=backend.device_of(x))


def _mask_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(3, 4)), 0.5, 1, 2))
    yield Sample((rng.normal(size=7), 0.25, 2**64 - 1, 2**63))
    yield Sample((rng.normal(size=2), 1.0, 0, 0))


@op(None, samples=_mask_samples)
def dropout_mask(xp: Any, x: Array, rate: float, key: int, step: int) -> Any:
    """What `keyed_dropout` multiplies `x` by, in its shape and dtype: 0 with probability `rate`, else `1 / (1 - rate)`.

    Only the shape and the dtype of `x` are looked at. Arguments are those of `keyed_dropout`.
    """
    return _mask(x, rate, key, step)


@op(
    lambda xp, g, kept, rate, key, step: xp.keyed_dropout(g, rate, key, step) if kept is None else g * kept,
    jvp=lambda xp, t, kept, rate, key, step: xp.keyed_dropout(t, rate, key, step) if kept is None else t * kept,
    kept="dropout_mask",
    samples=_mask_samples,
)
def keyed_dropout(xp: Any, x: Array, rate: float, key: int, step: int) -> Any:
    """`x` times the mask of a step: 0 with probability `rate`, rounded to a multiple of 2^-16, else `1 / (1 - rate)`.

    The mask is a function of (key, step) and of the number of elements, the same in every dtype and on every device;
    see `backends.philox`. The tape keeps it, unless a kernel computes it anew when it is needed.

    Args:
        x: Floating-point numbers.
        rate: From 0 to 1.
        key, step: Whole numbers of 64 bits. `dropout` takes them from a generator.
    """
    mask = _mask(x, rate, key, step)
    return x * mask, mask


def _dropout_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(3, 4)), 0.5), {"generator": 1})
    yield Sample((rng.normal(size=7), 0.25), {"generator": 2})
    yield Sample((rng.normal(size=2), 0.0))
    yield Sample((rng.normal(size=2), 1.0))


@composite(samples=_dropout_samples)
def dropout(xp: Any, x: Array, rate: float, generator: Generator | int | None = None) -> Any:
    """`x` with each number made 0 with probability `rate`, and the others divided by `1 - rate`: the mean stays.

    Args:
        x: Floating-point numbers.
        rate: From 0 (x itself) to 1 (zeros).
        generator: What the mask is drawn from: a Generator, None for the default one of the process, or an int for
            `Generator(int)`, which gives the same mask at every call.

    It is one product with a mask of 0 and `1 / (1 - rate)`, drawn with a chance of a multiple of 2^-16 (see
    `keyed_dropout`). Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting"
    (2014), in the form that leaves evaluation alone.
    """
    _check_probability("dropout: rate", rate)
    if not hasattr(x, "dtype"):
        x = asarray(x)
    if not is_floating(x.dtype):  # before the stream moves on
        raise DtypeError(f"dropout: x holds {x.dtype}; convert it with .astype('float32')")
    return xp.keyed_dropout(x, float(rate), *_generator(generator).take_step()) if rate else x
