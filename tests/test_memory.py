"""Memory of a training step: what the tape keeps, in bytes, and the peak during a backward."""

import numpy as np
import pytest
from traced_memory import traced_memory

import pullback as pb
from pullback.core.tape import tape_of

LAYERS, WIDTH, BATCH = 12, 256, 512
ACTIVATION = BATCH * WIDTH * 4
PARAMETERS = GRADIENTS = LAYERS * (WIDTH * WIDTH + WIDTH) * 4
BOOKKEEPING = 64 * 1024  # Python objects of 36 equations and their like
INPUT = np.random.default_rng(0).standard_normal((BATCH, WIDTH)).astype("float32")


def make_parameters():
    rng = np.random.default_rng(1)
    return [
        (
            pb.tensor(rng.standard_normal((WIDTH, WIDTH)).astype("float32") / 16, requires_grad=True),
            pb.tensor(np.zeros(WIDTH, "float32"), requires_grad=True),
        )
        for _ in range(LAYERS)
    ]


def forward(parameters, activation):
    h = INPUT
    for weight, bias in parameters:
        h = activation(h @ weight + bias)
    return pb.sum(h)


def kept_arrays(loss):
    """Every array that the tape of `loss` keeps alive, once."""
    values = [value for e in tape_of((loss.node,)) for value in e.saved if isinstance(value, np.ndarray)]
    owners = [value if value.base is None else value.base for value in values]
    return list({id(owner): owner for owner in owners}.values())


@pytest.mark.parametrize("activation", [pb.tanh, pb.relu, pb.sigmoid])
def test_the_tape_keeps_one_activation_per_layer(activation):
    """The value that an activation's rule names is the input that the next product of matrices names."""
    parameters = make_parameters()
    given = {id(x.data) for pair in parameters for x in pair} | {id(INPUT)}
    activations = [x for x in kept_arrays(forward(parameters, activation)) if id(x) not in given]
    assert [x.nbytes for x in activations] == [ACTIVATION] * LAYERS


def test_the_tape_keeps_no_bias_and_no_pre_activation():
    parameters = make_parameters()
    kept = {id(x) for x in kept_arrays(forward(parameters, pb.tanh))}
    assert {id(weight.data) for weight, _ in parameters[1:]} <= kept
    assert not {id(bias.data) for _, bias in parameters} & kept
    assert id(parameters[0][0].data) not in kept  # its input is a constant, so nothing is pulled through it
    assert len(kept) == LAYERS + (LAYERS - 1) + 1


@pytest.mark.parametrize("activation", [pb.tanh, pb.relu])
def test_the_peak_of_a_step_is_parameters_gradients_activations_and_two_temporaries(activation):
    """In the first backward and in later ones, where the last step's gradients are still there when it begins."""
    bound = PARAMETERS + GRADIENTS + LAYERS * ACTIVATION + 2 * ACTIVATION + BOOKKEEPING

    def steps():
        parameters = make_parameters()
        for _ in range(3):
            forward(parameters, activation).backward()
            for pair in parameters:
                for x in pair:
                    x.zero_grad()

    _, peak, _ = traced_memory(steps)
    assert peak <= bound, f"{peak / ACTIVATION:.2f} activations; allowed are {bound / ACTIVATION:.2f}"
    assert peak >= PARAMETERS + LAYERS * ACTIVATION, "the measurement sees NumPy's arrays"


def test_after_a_backward_parameters_and_gradients_are_left():
    def step():
        parameters = make_parameters()
        loss = forward(parameters, pb.tanh)
        loss.backward()
        return parameters, loss

    _, _, left = traced_memory(step)
    assert PARAMETERS + GRADIENTS <= left <= PARAMETERS + GRADIENTS + BOOKKEEPING


def test_a_forward_without_recording_keeps_two_activations():
    parameters = make_parameters()
    with pb.no_grad():
        _, peak, _ = traced_memory(lambda: forward(parameters, pb.tanh))
    assert peak <= 3 * ACTIVATION + BOOKKEEPING, "the input of a layer, its product, and the sum with the bias"
