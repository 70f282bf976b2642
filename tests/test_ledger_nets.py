"""Device "meta" counts nets, training steps, nested transforms and odd layouts as they are executed."""

import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from counted_twice import same_counts, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from traced_memory import traced_memory

import pullback as pb

DTYPES = ["float16", "float32", "float64"]
DRAWN = np.random.default_rng(0)
ROWS, WIDTHS = 6, [5, 7, 4, 3]
ZEROS = pb.asarray([0, 0])
SQUARE = lambda x: x[..., None] * x[..., None, :] + pb.eye_like(x[..., None] * x[..., None, :])  # noqa: E731
LABELS = DRAWN.integers(0, WIDTHS[-1], ROWS)


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return DRAWN.normal(size=shape).astype(dtype)


# --- training ---------------------------------------------------------------------------------------------------------


def training(make: Callable[[pb.nn.Module], Any], dtype: str, steps: int = 2, clip: bool = False) -> Any:
    def setup(device: str) -> Any:
        model = pb.nn.MLP(WIDTHS, "relu", generator=pb.random.Generator(0), device=device).to(dtype)
        optimizer = make(model)
        x, labels = tensor(numbers(ROWS, WIDTHS[0], dtype=dtype), device), tensor(LABELS, device)

        def work() -> Any:
            for _ in range(steps):
                model.zero_grad()
                loss = pb.nn.cross_entropy(model(x), labels)
                loss.backward()
                if clip:
                    pb.optim.clip_grad_norm(model.parameters(), 1.0)
                optimizer.step()
            return loss

        return work

    return setup


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda model: pb.optim.SGD(model.parameters(), 0.1),
    "momentum": lambda model: pb.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda model: pb.optim.Adam(model.parameters(), 0.1),
    "adamw": lambda model: pb.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_training_are_counted_as_they_are_executed(name: str, dtype: str):
    counts = same_counts(training(OPTIMIZERS[name], dtype))
    pairs = list(itertools.pairwise(WIDTHS))
    forward = ROWS * sum(n * m for n, m in pairs)
    backward = 2 * forward - ROWS * pairs[0][0] * pairs[0][1]  # the inputs need no cotangent
    assert counts.multiply_adds == 2 * (forward + backward)


def test_clipping_gradients_is_counted_as_it_is_executed():
    same_counts(training(OPTIMIZERS["adam"], "float32", clip=True))


class Net(pb.nn.Module):
    """A residual net with what else nets are made of."""

    def __init__(self, device: str) -> None:
        generator = pb.random.Generator(0)
        self.first = pb.nn.Linear(5, 8, "tanh", generator=generator, device=device)
        self.norm = pb.nn.LayerNorm(8, device=device)
        self.second = pb.nn.Linear(8, 8, "gelu", generator=generator, device=device)
        self.dropout = pb.nn.Dropout(0.5, generator=pb.random.Generator(1))
        self.last = pb.nn.Linear(8, 3, generator=generator, device=device)

    def forward(self, x: pb.Tensor) -> pb.Tensor:
        x = self.first(x)
        x = x + self.dropout(self.second(self.norm(x)))
        return self.last(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rematerialised", [False, True], ids=["kept", "checkpoint"])
def test_a_residual_net_is_counted_as_it_is_executed(rematerialised: bool, dtype: str):
    def setup(device: str) -> Any:
        model = Net(device).to(dtype)
        x, labels = tensor(numbers(ROWS, 5, dtype=dtype), device), tensor(LABELS, device)
        run = pb.checkpoint(model) if rematerialised else model

        def work() -> Any:
            loss = pb.nn.cross_entropy(run(x), labels)
            loss.backward()
            return [loss, *[p.grad for p in model.parameters().values()]]

        return work

    same_counts(setup)


# --- losses and layers with all options -------------------------------------------------------------------------------

OPTIONS = [
    {"label_smoothing": e, "ignore_index": i, "class_weights": w, "reduction": r}
    for e in (0.0, 0.1)
    for i in (None, 1)
    for w in (None, np.array([0.5, 1.0, 2.0]))
    for r in ("mean", "sum", "none")
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_with_every_option_is_counted_as_it_is_executed(dtype: str):
    for options in OPTIONS:

        def setup(device: str, options: Any = options) -> Any:
            given = {name: tensor(x, device) for name, x in options.items()}
            x, labels = tensor(numbers(ROWS, 3, dtype=dtype), device), tensor(LABELS, device)
            return lambda: pb.grad(lambda x: pb.sum(pb.nn.cross_entropy(x, labels, **given)))(x)

        same_counts(setup)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_of_narrow_types_are_counted_as_they_are_executed(dtype: str):
    functions: list[Callable[..., Any]] = [
        lambda x: pb.layer_norm(x, axis=(0, -1)),
        lambda x: pb.softmax(x) * pb.log_softmax(x, axis=0),
        lambda x: pb.std(x, axis=1),
        lambda x: pb.dropout(x, 0.5, 3),
        lambda x: pb.gelu(x) + 2,
        lambda x: pb.mean(x, axis=0),
        lambda x: pb.cumulative_sum(x, axis=1),
        lambda x: pb.max(x, axis=1),
        lambda x: x.astype("float32") @ x.astype("float32").mT,
    ]
    for f in functions:

        def setup(device: str, f: Callable[..., Any] = f) -> Any:
            x = tensor(numbers(4, 3, dtype=dtype), device)
            return lambda: pb.value_and_grad(lambda x: pb.sum(f(x)))(x)

        same_counts(setup)


# --- nested transforms ------------------------------------------------------------------------------------------------


def f(x: pb.Tensor) -> pb.Tensor:
    """A function to one number, of a matrix of 4 columns."""
    y = pb.tanh(x @ x.mT)
    return pb.sum(pb.exp(y[0]) * pb.sin(x[:, 1:3] @ y[:2, :2]).sum(axis=0)[0]) + pb.logsumexp(x)


NESTED: dict[str, Callable[[pb.Tensor], Any]] = {
    "gradient of a gradient": pb.grad(lambda x: pb.sum(pb.grad(f)(x) ** 2)),
    "third order": pb.grad(lambda x: pb.sum(pb.grad(lambda x: pb.sum(pb.grad(f)(x) * x))(x) * x)),
    "hvp": lambda x: pb.hvp(f, (x,), (pb.ones_like(x),)),
    "hessian": pb.hessian(f),
    "push of a gradient": lambda x: pb.jvp(pb.grad(f), (x,), (x,)),
    "gradient of a push": pb.grad(lambda x: pb.sum(pb.jvp(f, (x,), (x,))[1])),
    "checkpoint": pb.grad(lambda x: f(pb.checkpoint(lambda x: pb.exp(x) / 9)(x))),
    "gradient of a gradient through a checkpoint": pb.grad(
        lambda x: pb.sum(pb.grad(lambda x: f(pb.checkpoint(pb.tanh)(x)))(x) ** 2)
    ),
    "linearize": lambda x: pb.linearize(f, x)[1](x),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_transforms_are_counted_as_they_are_executed(name: str):
    def setup(device: str) -> Any:
        x = tensor(numbers(3, 4, dtype="float64"), device)
        return lambda: NESTED[name](x)

    assert same_counts(setup).flops > 0


# --- layouts ----------------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An array of any order of axes, with steps and reversed axes, parts of it broadcast."""
    if shape is None:
        shape = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)))
    steps = [draw(st.sampled_from([1, 1, 2, -1])) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    lengths = [1 if draw(st.integers(0, 5)) == 0 else n for n in shape]
    whole = np.ones([lengths[a] * abs(steps[a]) for a in order])
    back = np.transpose(whole, np.argsort(order)) if order else whole
    return np.broadcast_to(back[tuple([slice(None, None, step) for step in steps])], shape)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_arrays_of_any_layout_are_counted_as_they_are_executed(data: Any):
    x = data.draw(layouts())
    y = data.draw(layouts(x.shape))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    axes = tuple(data.draw(st.permutations(range(x.ndim))))
    keepdims = data.draw(st.booleans())
    w = data.draw(layouts((x.shape[-1], 2)))
    nonempty = x.size > 0
    programs: list[Callable[..., Any]] = [
        lambda x, y, w: pb.reshape(x * y, (-1,)) if nonempty else x * y,
        lambda x, y, w: pb.reshape(pb.permute_dims(pb.tanh(x), axes), (x.size,)),
        lambda x, y, w: pb.reshape(pb.sum(x, axis=axis, keepdims=keepdims), (-1, 1)) if nonempty else x,
        lambda x, y, w: pb.reshape(pb.flip(x - y, axis=axis), (x.size,)),
        lambda x, y, w: pb.concat([x, y, x], axis=axis).reshape(3 * x.size),
        lambda x, y, w: pb.stack([x, y], axis=axis).reshape(2 * x.size),
        lambda x, y, w: (x @ w).reshape(x.size // max(x.shape[-1], 1) * 2) if nonempty else x @ w,
        lambda x, y, w: pb.where(x > y, x, y).reshape(x.size),
        lambda x, y, w: pb.cumulative_sum(x, axis=axis).reshape(x.size),
        lambda x, y, w: pb.softmax(x, axis=axis).reshape(x.size) if nonempty else x,
        lambda x, y, w: pb.matmul(x, pb.matrix_transpose(y)).reshape(-1) if x.ndim > 1 and nonempty else x,
        lambda x, y, w: pb.vecdot(x, y, axis=axis).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.inv(SQUARE(x)).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.qr(SQUARE(x))[1].reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.cholesky(SQUARE(x)).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.solve(SQUARE(x), SQUARE(y)).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.det(SQUARE(x)).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.linalg.eigh(SQUARE(x))[1].reshape(-1) if nonempty else x,
        lambda x, y, w: pb.roll(x, 1, axis=axis).reshape(x.size),
        lambda x, y, w: pb.roll(x, 1).reshape(x.size),
        lambda x, y, w: pb.triu(x.at[..., 0].set(2.0)).reshape(x.size) if x.ndim > 1 and nonempty else x,
        lambda x, y, w: x[None, ..., [0, 0], :].reshape(-1) if x.ndim > 1 and nonempty else x,
        lambda x, y, w: x[0, ..., [0, 0]].reshape(-1) if x.ndim > 1 and nonempty else x,
        lambda x, y, w: x[:, 0, [[0], [0]]].reshape(-1) if x.ndim > 2 and nonempty else x,
        lambda x, y, w: x[..., [0, 0], [0, 0]].reshape(-1) if x.ndim > 1 and nonempty else x,
        lambda x, y, w: x[..., [True] * x.shape[-1]].reshape(-1) if nonempty else x,
        lambda x, y, w: (
            pb.take_along_axis(x, pb.argmax(x, axis=axis, keepdims=True), axis=axis).reshape(-1) if nonempty else x
        ),
        lambda x, y, w: pb.mean(pb.mean(x, axis=axis, keepdims=True) * y, axis=axis).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.concat([x, y], axis=None).reshape(-1),
        lambda x, y, w: pb.einsum("...i,...i->...", x, y).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.layer_norm(x, axis=axis).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.max(x, axis=axis).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.cumulative_prod(x, axis=axis, include_initial=True).reshape(-1) if nonempty else x,
        lambda x, y, w: pb.tile(x, (1,) * x.ndim).reshape(x.size),
        lambda x, y, w: pb.pad(x, 1).reshape(-1),
        lambda x, y, w: pb.sort(x, axis=axis, descending=keepdims).reshape(x.size),
        lambda x, y, w: pb.repeat(x, 2, axis=axis).reshape(2 * x.size),
        lambda x, y, w: pb.tile(x, (2,)).reshape(2 * x.size),
        lambda x, y, w: pb.take(x, pb.to_device(ZEROS, x.device, "cpu"), axis=axis).reshape(-1) if nonempty else x,
        lambda x, y, w: x[..., [0, 0]].reshape(-1) if nonempty else x,
        lambda x, y, w: x[[0, 0]].reshape(-1) if nonempty else x,
        lambda x, y, w: pb.astype(x, "float32").reshape(x.size),
        lambda x, y, w: (pb.zeros_like(x) + x).reshape(x.size),
        lambda x, y, w: pb.clip(x, 0.0, 1.0).reshape(x.size),
        lambda x, y, w: pb.tril(x).reshape(x.size) if x.ndim > 1 else x,
    ]
    program = data.draw(st.sampled_from(programs))

    def setup(device: str) -> Any:
        given = [tensor(a, device) for a in (x, y, w)]

        def work() -> Any:
            out, pull = pb.vjp(program, *given)
            return out, pull(pb.ones_like(out))

        return work

    same_counts(setup)


# --- memory as Python sees it -----------------------------------------------------------------------------------------


def test_the_peak_is_what_python_traces():
    """NumPy tells `tracemalloc` of its buffers: what is not counted are Python's own objects, and nothing large."""

    def setup(device: str) -> Any:
        model = pb.nn.MLP((512,) * 5, "gelu", generator=pb.random.Generator(0), device=device)
        optimizer = pb.optim.Adam(model.parameters(), 0.1)
        x = tensor(np.ones((512, 512), "float32"), device)

        def work() -> Any:
            loss = pb.mean(pb.checkpoint(model)(x) ** 2) + pb.mean(model(x))
            loss.backward()
            optimizer.step()
            return loss

        return work

    counts = same_counts(setup)
    works = [setup("counting") for _ in range(3)]
    gc.collect()

    def first_step():
        return works.pop()()

    _, traced, _ = traced_memory(first_step)
    assert counts.peak <= traced < 1.02 * counts.peak
