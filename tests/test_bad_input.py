"""Bad input, tried as a new user would: a named error that says which op, which argument and what to do, and nothing
half done."""

import copy
import pickle

import numpy as np
import pytest

import pullback as pb
from pullback.errors import (
    ArgumentError,
    CheckpointError,
    DeviceError,
    DtypeError,
    IndexingError,
    LinearAlgebraError,
    MutationError,
    NonFiniteError,
    PullbackError,
    ShapeError,
    TapeError,
)


class World:
    """What a user has at hand: two parameters, a recorded loss, one that was pulled already, constants."""

    def __init__(self):
        self.x = pb.tensor([1.0, 2.0, 3.0], requires_grad=True)
        self.w = pb.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
        pb.sum(self.x * 2.0).backward()
        self.h = pb.tanh(self.w @ self.x.astype("float64"))
        self.loss = pb.sum(self.h)
        self.pulled = pb.sum(pb.exp(self.x))
        self.pulled.backward()
        self.ints = pb.tensor([0, 1, 2])

    def state(self):
        return [
            self.x.tolist(),
            self.x.grad.tolist(),
            self.w.tolist(),
            self.w.grad,
            self.h.tolist(),
            self.ints.tolist(),
        ]


def mutated_backward(u):
    y = pb.sum(pb.square(u.x))
    u.x.assign_(u.x.detach())  # the same numbers: a write is a write
    y.backward()


def mutated_pull(u):
    _, pull = pb.vjp(pb.square, u.x)
    u.x.assign_(u.x.detach())
    pull(np.ones(3))


CASES = {
    # --- making tensors
    "text": (lambda u: pb.tensor("abc"), DtypeError, "not supported: tensors hold real numbers"),
    "None": (lambda u: pb.tensor(None), DtypeError, "cannot make a tensor of NoneType"),
    "a ragged list": (
        lambda u: pb.tensor([[1.0], [1.0, 2.0]]),
        DtypeError,
        "cannot make a tensor of list: .*inhomogeneous",
    ),
    "a list with text": (lambda u: pb.tensor([1.0, "a"]), DtypeError, "not supported"),
    "complex numbers": (lambda u: pb.tensor([1j]), DtypeError, "complex128 is not supported"),
    "objects": (lambda u: pb.asarray(np.array([None])), DtypeError, "object is not supported"),
    "dates": (lambda u: pb.asarray(np.array(["2020-01-01"], "M8[D]")), DtypeError, "datetime64.* is not supported"),
    "a dict": (lambda u: pb.tensor({"a": 1.0}), DtypeError, "cannot make a tensor of dict"),
    "a generator": (lambda u: pb.tensor(i for i in range(3)), DtypeError, "cannot make a tensor of generator"),
    "a complex dtype": (lambda u: pb.tensor([1.0], dtype="complex64"), DtypeError, "complex64 is not supported"),
    "an unknown dtype": (lambda u: u.x.astype("float33"), DtypeError, "'float33' is not a dtype; use a name such as"),
    "no dtype": (lambda u: u.x.astype(None), DtypeError, "None is not a dtype"),
    "a gradient of integers": (
        lambda u: pb.tensor([1], requires_grad=True),
        DtypeError,
        "needs a floating-point dtype.*pass dtype=",
    ),
    "a default dtype of integers": (
        lambda u: pb.set_default_dtype("int32"),
        DtypeError,
        "the default is a floating-point type",
    ),
    "an unknown device": (
        lambda u: pb.tensor([1.0], device="gpu"),
        DeviceError,
        "no device 'gpu'; devices are .*cpu, cuda",
    ),
    "a device that is no text": (lambda u: pb.tensor([1.0], device=3), DeviceError, "no device 3"),
    "a second CPU": (lambda u: u.x.to("cpu:1"), DeviceError, "the CPU is called 'cpu'"),
    "moving nowhere": (lambda u: u.x.to("gpu"), DtypeError, "to: 'gpu' is not a dtype.*devices are .*cpu, cuda"),
    "the class called with a list": (lambda u: pb.Tensor([1.0]), DtypeError, r"convert with pb\.asarray"),
    "a new tensor of a recorded one": (lambda u: pb.tensor(u.h), TapeError, r"cut the tape; call \.detach\(\)"),
    "a list of recorded tensors": (
        lambda u: pb.tensor([u.loss, u.loss]),
        TapeError,
        r"cut the tape; call \.detach\(\)",
    ),
    "a conversion without a copy": (
        lambda u: pb.asarray(np.ones(2), dtype="int8", copy=False),
        ArgumentError,
        "asarray: .*copy",
    ),
    # --- operators
    "shapes that do not broadcast": (
        lambda u: u.x + np.ones(7),
        ShapeError,
        r"^add: .*x \(3,\) float32 on cpu, y \(7,\) float64",
    ),
    "a tensor plus text": (lambda u: u.x + "a", DtypeError, "^add: argument y: "),
    "text times a tensor": (lambda u: "a" * u.x, DtypeError, "^multiply: argument x: "),
    "a tensor minus None": (
        lambda u: u.x - None,
        DtypeError,
        "^subtract: argument y: cannot make a tensor of NoneType",
    ),
    "a tensor times a complex number": (
        lambda u: u.x * 1j,
        DtypeError,
        "^multiply: argument y: complex128 is not supported",
    ),
    "a tensor divided by an object": (
        lambda u: u.x / object(),
        DtypeError,
        "^divide: argument y: cannot make a tensor of object",
    ),
    "a comparison with text": (lambda u: u.x < "a", DtypeError, "^less: argument y: "),
    "bits of floating-point numbers": (lambda u: u.x & 1, DtypeError, "^bitwise_and: "),
    "a number too large for its dtype": (
        lambda u: u.ints.astype("uint8") + 300,
        ArgumentError,
        "^add: .*out of bounds for uint8",
    ),
    "matrices that do not fit": (lambda u: u.w @ np.ones((2, 2)), ShapeError, r"^matmul: .*\(2, 3\).*3 is not 2"),
    "a matrix product with a number": (lambda u: u.w @ 2.0, ShapeError, r"^matmul: .*multiply by a number with \*"),
    # --- axes, shapes and arguments
    "an axis out of range": (lambda u: pb.sum(u.x, axis=3), ShapeError, "^sum: .*axis 3 is out of"),
    "an axis that is text": (
        lambda u: pb.mean(u.x, axis="rows"),
        ArgumentError,
        "^mean: an axis is an int; got 'rows'",
    ),
    "the same axis twice": (lambda u: pb.max(u.w, axis=(0, -2)), PullbackError, "^max: "),
    "an unknown keyword": (
        lambda u: pb.sum(u.x, dim=0),
        ArgumentError,
        "^sum: no argument is called dim; it has x, axis",
    ),
    "too many arguments": (
        lambda u: pb.sum(u.x, 0, True, 1, 2),
        ArgumentError,
        "^sum: takes at most . positional arguments",
    ),
    "too few arguments": (lambda u: pb.reshape(u.x), ArgumentError, "^reshape: argument shape is missing"),
    "a shape of another size": (lambda u: u.x.reshape(2, 2), ShapeError, r"^reshape: .*size 3 into shape \(2,2\)"),
    "two unknown lengths": (lambda u: u.w.reshape(-1, -1), ShapeError, "^reshape: "),
    "a vector transposed": (lambda u: u.x.T, ShapeError, r"^T: .*use \.mT or pb\.permute_dims"),
    "axes that are no permutation": (lambda u: pb.permute_dims(u.w, (0, 0)), PullbackError, "^permute_dims: "),
    "a shape to broadcast to": (lambda u: pb.broadcast_to(u.x, (2, 2)), ShapeError, r"^broadcast_to: .*x \(3,\)"),
    "nothing to join": (lambda u: pb.concat([]), ArgumentError, "^concat: arrays is a non-empty list or tuple"),
    "None among arrays to join": (lambda u: pb.concat([u.x, None]), DtypeError, r"^concat: argument arrays\[1\]: "),
    "shapes that do not stack": (lambda u: pb.stack([u.x, u.w]), ShapeError, "^stack: "),
    "an axis to squeeze that is not 1": (lambda u: pb.squeeze(u.w, 0), ShapeError, "^squeeze: "),
    # --- indices
    "an index out of range": (lambda u: u.x[5], IndexingError, "^getitem: index 5 is out of bounds"),
    "too many indices": (lambda u: u.x[0, 0], IndexingError, "^getitem: .*too many indices"),
    "text as an index": (lambda u: u.x["a"], DtypeError, "^getitem: an index is made of integers, slices.*got str"),
    "a fraction as an index": (
        lambda u: u.x[1.5],
        DtypeError,
        "^getitem: an index is made of integers, slices.*got float",
    ),
    "a mask of another length": (lambda u: u.x[np.ones(4, bool)], IndexingError, "^getitem: "),
    "a write to a leaf": (lambda u: u.x.__setitem__(0, 1.0), TapeError, r"use y = x\.at\[index\]\.set\(value\)"),
    "an update out of range": (lambda u: u.x.at[5].set(1.0), IndexingError, "^at_set: index 5 is out of bounds"),
    "an update of another shape": (lambda u: u.x.at[:2].add(np.ones(3)), ShapeError, "^at_add: "),
    # --- backward, gradients and assignment
    "a backward of a constant": (
        lambda u: u.ints.backward(),
        TapeError,
        "no recorded op made this value.*requires_grad=True",
    ),
    "a backward of many numbers": (lambda u: u.h.backward(), ShapeError, r"shape \(2,\) needs a cotangent.*or sum it"),
    "a second backward": (lambda u: u.pulled.backward(), TapeError, "already pulled and its tape freed.*retain=True"),
    "a cotangent of another shape": (
        lambda u: u.h.backward(np.ones(3)),
        ShapeError,
        r"cotangent has shape \(3,\), the value \(2,\)",
    ),
    "a cotangent of text": (lambda u: u.h.backward("ones"), DtypeError, "not supported"),
    "a cotangent of complex numbers": (
        lambda u: u.h.backward(np.ones(2) * 1j),
        DtypeError,
        "complex128 is not supported",
    ),
    "a backward after an assignment": (mutated_backward, MutationError, "^square: its input x was changed in place"),
    "a pull after an assignment": (mutated_pull, MutationError, "pull first, or change a detached copy"),
    "a gradient of another shape": (
        lambda u: setattr(u.x, "grad", np.ones(4)),
        ShapeError,
        r"^\.grad: .*\(3,\), the value \(4,\)",
    ),
    "a gradient of text": (lambda u: setattr(u.x, "grad", "a"), DtypeError, "not supported"),
    "a gradient for what is no leaf": (lambda u: setattr(u.h, "grad", np.ones(2)), TapeError, "only a leaf"),
    "an assignment of another shape": (
        lambda u: u.x.assign_(np.ones(4)),
        ShapeError,
        r"^assign_: .*\(3,\), the value \(4,\)",
    ),
    "an assignment of one number": (lambda u: u.x.assign_(0.0), ShapeError, "^assign_: "),
    "an assignment of text": (lambda u: u.x.assign_("abc"), DtypeError, "not supported"),
    # --- Python and NumPy
    "the truth of many numbers": (lambda u: bool(u.x > 0), ShapeError, r"use pb\.any or pb\.all"),
    "the number of many": (lambda u: u.x.item(), ShapeError, r"only a tensor of one number.*shape \(3,\)"),
    "a float of many numbers": (lambda u: float(u.x), ShapeError, "only a tensor of one number"),
    "a format of many numbers": (lambda u: f"{u.x:.3f}", ShapeError, "only a tensor of one number"),
    "the length of a number": (lambda u: len(u.loss), ShapeError, r"no length; use \.item\(\)"),
    "a float as an index": (lambda u: [1, 2][u.loss], DtypeError, "only a tensor of integers can be an index"),
    "NumPy's view of a recorded tensor": (lambda u: np.asarray(u.h), TapeError, r"call \.detach\(\) or \.numpy\(\)"),
    "a copy of a recorded tensor": (lambda u: copy.deepcopy(u.h), TapeError, r"call \.detach\(\) first"),
    "a pickle of a recorded tensor": (lambda u: pickle.dumps(u.h), TapeError, r"call \.detach\(\) first"),
    # --- transforms
    "the gradient of a tensor": (
        lambda u: pb.grad(u.loss),
        DtypeError,
        "grad: its first argument is a function; got Tensor",
    ),
    "the vjp of a tensor": (lambda u: pb.vjp(u.loss, u.x), DtypeError, "vjp: its first argument is a function"),
    "a gradient without arguments": (
        lambda u: pb.grad(pb.sum)(),
        ArgumentError,
        "argnums 0 .*the 0 positional arguments",
    ),
    "argnums out of range": (lambda u: pb.grad(pb.sum, 1)(u.x), ArgumentError, "argnums 1 does not name one of the 1"),
    "argnums twice": (lambda u: pb.grad(pb.add, (0, 0))(1.0, 2.0), ArgumentError, "must name each argument once"),
    "argnums that are text": (
        lambda u: pb.grad(pb.sum, "x")(u.x),
        ArgumentError,
        "argnums is an int or several; got 'x'",
    ),
    "a gradient for integers": (lambda u: pb.grad(pb.sum)(u.ints), DtypeError, "argument 0 holds int64"),
    "a gradient for text": (lambda u: pb.grad(pb.sum)("abc"), DtypeError, "grad: argument 0: .*not supported"),
    "a loss that is a float": (
        lambda u: pb.grad(lambda x: pb.sum(x).item())(u.x),
        TapeError,
        r"returned float.*not \.item\(\)",
    ),
    "a loss that is None": (lambda u: pb.grad(lambda x: None)(u.x), TapeError, "returned NoneType, not a tensor"),
    "a loss that is a pair": (lambda u: pb.grad(lambda x: (x, x))(u.x), TapeError, "returned tuple.*pass has_aux=True"),
    "a loss of many numbers": (
        lambda u: pb.grad(lambda x: x)(u.x),
        ShapeError,
        r"shape \(3,\); sum it, or use pb\.vjp",
    ),
    "a loss of integers": (
        lambda u: pb.grad(pb.argmax)(u.x),
        DtypeError,
        "of floating point, this one is int64",
    ),
    "a second result that is missing": (
        lambda u: pb.grad(pb.sum, has_aux=True)(u.x),
        ArgumentError,
        r"returns \(value, aux\)",
    ),
    "a pull of another shape": (
        lambda u: pb.vjp(pb.tanh, u.x)[1](np.ones(4)),
        ShapeError,
        r"cotangent has shape \(4,\).*\(3,\)",
    ),
    "a pull of another form": (
        lambda u: pb.vjp(lambda x: [x], u.x)[1](u.x),
        ShapeError,
        "the cotangent must have the form",
    ),
    "primals that are no tuple": (
        lambda u: pb.jvp(pb.tanh, u.x, u.x),
        ArgumentError,
        r"are tuples.*jvp\(f, \(x,\), \(t,\)\)",
    ),
    "one tangent too many": (
        lambda u: pb.jvp(pb.tanh, (u.x,), (u.x, u.x)),
        ShapeError,
        "jvp: 2 tangents for 1 primals",
    ),
    "a tangent of another shape": (
        lambda u: pb.jvp(pb.tanh, (u.x,), (np.ones(4),)),
        ShapeError,
        r"tangent has shape \(4,\)",
    ),
    "a push without a tangent": (lambda u: pb.linearize(pb.tanh, u.x)[1](), ShapeError, "0 tangents for 1 primals"),
    "an hvp without tuples": (lambda u: pb.hvp(pb.sum, u.x, u.x), ArgumentError, r"^hvp: .*hvp\(f, \(x,\), \(t,\)\)"),
    "a hessian of several arguments": (
        lambda u: pb.hessian(pb.sum, (0,))(u.x),
        ArgumentError,
        "^hessian: argnums is one int",
    ),
    "a hessian of many numbers": (lambda u: pb.hessian(pb.tanh)(u.x), ShapeError, "the value is one number"),
    "a rule without rules": (lambda u: pb.custom_rule(pb.tanh), ArgumentError, "give vjp=, jvp= or both"),
    "a checkpoint of a tensor": (
        lambda u: pb.checkpoint(u.x),
        DtypeError,
        "checkpoint: its first argument is a function",
    ),
    "a check of nothing": (lambda u: pb.check_gradients(pb.tanh), ArgumentError, "at least one argument"),
    # --- losses, linear algebra, random numbers
    "labels out of range": (lambda u: pb.cross_entropy(u.w, np.array([0, 3])), IndexingError, "^cross_entropy: .*3"),
    "negative labels": (lambda u: pb.cross_entropy(u.w, np.array([0, -1])), IndexingError, "^cross_entropy: .*-1"),
    "labels that are NaN": (
        lambda u: pb.cross_entropy(u.w, np.array([0.0, np.nan])),
        NonFiniteError,
        "^cross_entropy: labels hold NaN; drop",
    ),
    "labels of another number": (lambda u: pb.cross_entropy(u.w, u.ints), ShapeError, "^cross_entropy: "),
    "a loss of shapes that differ": (lambda u: pb.mse_loss(u.x, np.ones(4)), ShapeError, "^mse_loss: "),
    "a singular matrix": (lambda u: pb.linalg.inv(np.zeros((2, 2))), LinearAlgebraError, "^inv: "),
    "a matrix that is not square": (lambda u: pb.linalg.det(u.w), ShapeError, "^det: "),
    "a matrix that is not positive": (lambda u: pb.linalg.cholesky(-np.eye(2)), LinearAlgebraError, "^cholesky: "),
    "a vector for a matrix": (lambda u: pb.linalg.solve(u.x, u.x), ShapeError, "^solve: "),
    "a subscript without an operand": (lambda u: pb.einsum("ij,jk->ik", u.w), PullbackError, "^einsum: "),
    "a rate above one": (lambda u: pb.random.dropout(u.x, 1.5), ArgumentError, "dropout: "),
    # --- files
    "a checkpoint that is not there": (
        lambda u: pb.io.load("nowhere.safetensors"),
        CheckpointError,
        r"nowhere\.safetensors",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), CASES.values(), ids=CASES)
def test_bad_input_is_a_named_error_and_changes_nothing(call, kind, message):
    user = World()
    before = user.state()
    with pytest.raises(kind, match=message) as caught:
        call(user)
    assert isinstance(caught.value, PullbackError)
    assert user.state() == before
    user.loss.backward()  # the tape is as it was
    assert user.w.grad is not None


def test_every_error_is_also_the_nearest_builtin():
    builtin = {
        ShapeError: ValueError, DtypeError: TypeError, DeviceError: RuntimeError, ArgumentError: ValueError,
        IndexingError: IndexError, LinearAlgebraError: ArithmeticError, TapeError: RuntimeError,
        MutationError: TapeError, NonFiniteError: ArithmeticError,
    }  # fmt: skip
    for error, nearest in builtin.items():
        assert issubclass(error, PullbackError)
        assert issubclass(error, nearest)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04K\x01.", b"\xff" * 40, pickle.dumps({"w": 1})],
    ids=["empty", "a pickle", "noise", "a dict"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pb.io.load(path)
    assert path.read_bytes() == content


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    pb.io.save(path, {"w": pb.tensor(np.ones((4, 4)))})
    whole = path.read_bytes()
    for length in (4, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            pb.io.load(path)


def test_a_device_that_is_not_here_says_what_to_install():
    try:
        import cupy

        if cupy.cuda.is_available():
            pytest.skip("there is a GPU")
    except ImportError:
        pass
    with pytest.raises(DeviceError, match=r"pip install 'pullback\[cuda1|needs an NVIDIA GPU"):
        pb.tensor([1.0], device="cuda")


def test_calls_that_python_itself_refuses_name_the_op():
    """Ops of one or two arrays are plain functions, so that a call costs nothing more."""
    x = pb.tensor([1.0])
    with pytest.raises(TypeError, match=r"tanh\(\) got an unexpected keyword argument 'axis'"):
        pb.tanh(x, axis=0)
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'y'"):
        pb.add(x)
