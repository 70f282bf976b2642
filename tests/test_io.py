"""Saving and loading trees: bits survive, failed writes lose nothing, and no file can do harm or load half-way."""

import dataclasses
import json
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback.errors import ArgumentError, CheckpointError, DeviceError, DtypeError
from pullback.io import load, replacing, save


def same(left, right):
    """Equal in structure, types, dtypes, shapes and bits."""
    if isinstance(left, pb.Tensor):
        assert isinstance(right, pb.Tensor)
        assert left.requires_grad == right.requires_grad
        return same(left.numpy(), right.numpy())
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        return all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        assert len(left) == len(right)
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    return repr(left) == repr(right)  # tells -0.0 from 0.0, and NaN is NaN


def round_trip(folder, tree):
    save(folder / "tree.safetensors", tree)
    return load(folder / "tree.safetensors")


def test_a_tree_of_everything_comes_back_in_every_bit(tmp_path):
    tree = {
        "layers": [
            {
                "weight": pb.tensor(np.linspace(0, 1, 6).reshape(2, 3), requires_grad=True),
                "bias": pb.tensor([1.0, 2.0]),
            },
            (np.arange(4, dtype=np.int8), np.array(3.5), np.zeros((0, 3), np.float16), np.array([True, False])),
        ],
        "numbers": [1, -(2**100), 0.1, -0.0, math.nan, math.inf, -math.inf, True, False, None],
        "text": ["", "é\n\U0001f600"],
        "": {},
        "empty": [(), []],
        "a.b": np.array([1.0]),
        "a": {"b": np.array([2.0])},
        "__metadata__": np.array([3.0]),
        "../../escape": np.array([4.0]),
        "nan": np.array([math.nan, -0.0, 5e-324]),
    }
    assert same(tree, round_trip(tmp_path, tree))
    assert [p.name for p in tmp_path.iterdir()] == ["tree.safetensors"]


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.builds(
        lambda dtype, shape: np.arange(math.prod(shape)).reshape(shape).astype(dtype),
        st.sampled_from(["float16", "float32", "float64", "int8", "uint16", "int64", "bool"]),
        st.lists(st.integers(0, 3), max_size=3),
    )
)


@given(
    st.recursive(
        LEAVES,
        lambda t: (
            st.lists(t, max_size=4)
            | st.lists(t, max_size=4).map(tuple)
            | st.dictionaries(st.text(st.characters(codec="utf-8")), t, max_size=4)
        ),
        max_leaves=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_tree_comes_back(tmp_path_factory, tree):
    assert same(tree, round_trip(tmp_path_factory.mktemp("tree"), tree))


def test_bare_leaves_and_odd_layouts(tmp_path):
    assert round_trip(tmp_path, 3) == 3
    matrix = np.arange(12.0).reshape(3, 4)
    for array in (matrix[::2, ::-1], matrix.T, matrix.astype(">f8"), np.broadcast_to(np.float32(2), (2, 2))):
        found = round_trip(tmp_path, array)
        np.testing.assert_array_equal(found, array)
        assert found.dtype.isnative
        assert found.flags.writeable
    scalar = round_trip(tmp_path, np.float32(0.1))
    assert (scalar.dtype, scalar.shape) == (np.float32, ())


def test_dataclasses_become_dicts_and_named_tuples_tuples(tmp_path):
    @dataclasses.dataclass
    class Layer:
        weight: object
        name: str

    Pair = namedtuple("Pair", "left right")
    found = round_trip(tmp_path, [Layer(np.ones(2), "first"), Pair(1, "x")])
    assert same(found, [{"weight": np.ones(2), "name": "first"}, (1, "x")])


def test_bfloat16_survives_where_numpy_knows_it(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert same(round_trip(tmp_path, {"x": array}), {"x": array})


def test_equal_trees_give_equal_files(tmp_path):
    tree = {f"p{i}": np.full(i, i, np.float32) for i in range(20)} | {"step": 7}
    save(tmp_path / "one", tree)
    save(tmp_path / "two", tree)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_other_libraries_read_the_arrays_by_dotted_name(tmp_path):
    from safetensors.numpy import load_file

    save(tmp_path / "m", {"layers": [{"weight": pb.tensor([1.0])}]})
    assert list(load_file(tmp_path / "m")) == ["layers.0.weight"]


def test_a_file_of_another_library_gives_a_dict_of_arrays(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3)}, tmp_path / "m", {"format": "pt"})
    assert same(load(tmp_path / "m"), {"w": np.ones(3)})


# --- what cannot be saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "error", "where"),
    [
        ({"a": [1, {2, 3}]}, DtypeError, "a.1, a set"),
        ({"a": {1: 2}}, DtypeError, "the key 1"),
        ({"f": print}, DtypeError, "f, a builtin"),
        ({"z": np.array([1j])}, DtypeError, "z: complex128"),
        ({"o": np.array([None])}, DtypeError, "o: object"),
        ({"s": np.array(["text"])}, DtypeError, "s: <U4"),
        ({"b": b"bytes"}, DtypeError, "b, a bytes"),
    ],
)
def test_what_a_file_cannot_hold_is_named(tmp_path, tree, error, where):
    with pytest.raises(error, match=where):
        save(tmp_path / "x", tree)
    assert not list(tmp_path.iterdir())


def test_a_cyclic_tree_is_an_error(tmp_path):
    tree = {}
    tree["self"] = tree
    with pytest.raises(ArgumentError, match="nested more than 64 levels"):
        save(tmp_path / "x", tree)


def test_structure_too_large_to_read_back_is_refused_and_the_old_file_stays(tmp_path):
    save(tmp_path / "x", 1)
    with pytest.raises(CheckpointError, match="header too large"):
        save(tmp_path / "x", "x" * 100_000_001)
    assert load(tmp_path / "x") == 1


# --- failed writes ----------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
import numpy as np
from pullback.errors import CheckpointError
from pullback.io import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save(sys.argv[1], {"x": np.ones(100_000)})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs POSIX file size limits")
def test_a_write_that_the_system_cuts_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "model"
    save(path, {"x": np.zeros(3)})
    old = path.read_bytes()
    found = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert "cannot write" in found.stdout
    assert "untouched" in found.stdout
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "model"
    save(path, {"x": np.zeros(3)})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(path, {"x": np.ones(3)})
    monkeypatch.undo()
    np.testing.assert_array_equal(load(path)["x"], np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "notes"
    path.write_text("old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    save(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "file") == 1


def test_permissions_are_those_of_the_old_file_or_the_usual_ones(tmp_path):
    (tmp_path / "usual").touch()
    save(tmp_path / "new", 1)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "new").chmod(0o600)
    save(tmp_path / "new", 2)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_missing_or_in_the_way_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        save(tmp_path / "missing" / "x", 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        save(tmp_path / "folder", 1)


# --- hostile and damaged files ----------------------------------------------------------------------------------------


def container(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def structured(tree, version=1, **entries):
    record = tree if isinstance(tree, str) else json.dumps({"version": version, "tree": tree})
    return container({"__metadata__": {"pullback": record}, **entries}, b"\0" * 8 * len(entries))


BAD_FILES = {
    "empty": b"",
    "a few bytes": b"abc",
    "zeros": b"\0" * 64,
    "a pickle": pickle.dumps({"x": print}),
    "text": b"epoch,loss\n1,0.5\n",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "header of 2**63 bytes": container({}, length=2**63),
    "header of 90 MB that is not there": container({}, length=90_000_000),
    "header is no JSON": container(b"{{{"),
    "header is a list": container([1]),
    "deeply nested header": container(b'{"x":' * 100_000),
    "overlapping offsets": container({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12),
    "offsets beyond the end": container({"x": entry(offsets=(0, 8))}, b"\0" * 4),
    "offsets backwards": container({"x": entry(offsets=(8, 0))}, b"\0" * 8),
    "data that no entry covers": container({"x": entry()}, b"\0" * 16),
    "shape does not fit the offsets": container({"x": entry(shape=(3,))}, b"\0" * 8),
    "shape overflows": container({"x": entry(shape=(2**62, 2**62))}, b"\0" * 8),
    "negative shape": container({"x": entry(shape=(-2,))}, b"\0" * 8),
    "unknown dtype": container({"x": entry("Q99")}, b"\0" * 8),
    "dtype that NumPy lacks": container({"x": entry("F8_E4M3", (8,))}, b"\0" * 8),
    "metadata that is no text": container({"__metadata__": {"pullback": 1}}),
    "structure is no JSON": structured("{{{"),
    "structure is nested too deeply": structured('{"version":1,"tree":' + '{"list":[' * 100_000),
    "structure without a version": structured("{}"),
    "structure is no object": structured("7"),
    "another version": structured(1, version=99),
    "unknown kind of node": structured({"eval": "print()"}),
    "node of two kinds": structured({"list": [], "tuple": []}),
    "node that is a list": structured([1]),
    "list that is text": structured({"list": "abc"}),
    "float that is code": structured({"float": "__import__('os')"}),
    "entry that is missing": structured({"array": "x"}),
    "entry used twice": structured({"list": [{"array": "x"}, {"array": "x"}]}, x=entry()),
    "entry that is not used": structured(1, x=entry()),
    "entry by a number": structured({"array": 0}, x=entry()),
    "gradient of integers": structured({"leaf": "x"}, x=entry("I32")),
    "integer of 10,000 digits": structured('{"version":1,"tree":' + "1" * 10_000 + "}"),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_damaged_or_hostile_file_is_a_checkpoint_error_that_names_it(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*bad\.safetensors: .+"):
        load(path)
    assert path.read_bytes() == content


def test_every_truncation_is_an_error(tmp_path):
    save(tmp_path / "whole", {"w": np.arange(6.0), "b": pb.tensor([1.0]), "n": 3})
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(tmp_path / "cut")


def test_a_flipped_header_byte_never_gives_anything_but_a_checkpoint_error_or_a_tree(tmp_path):
    save(tmp_path / "whole", {"w": np.arange(2.0), "n": [3, math.nan]})
    whole = bytearray((tmp_path / "whole").read_bytes())
    refused = 0
    for position in range(len(whole) - 16):
        changed = whole.copy()
        changed[position] ^= 0x11
        (tmp_path / "changed").write_bytes(changed)
        try:
            load(tmp_path / "changed")
        except CheckpointError:
            refused += 1
    assert refused > len(whole) // 3


def test_a_missing_file_and_a_folder_are_checkpoint_errors(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="it is no file"):
        load(tmp_path)


def test_loading_to_a_device_that_is_not_there(tmp_path):
    save(tmp_path / "x", pb.tensor([1.0]))
    with pytest.raises(DeviceError, match="no device 'tpu'"):
        load(tmp_path / "x", device="tpu")
