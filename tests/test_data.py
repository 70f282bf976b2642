"""Readers of data files, as a new user's files would be; splits, standardisation, and batches that can be resumed."""

import gzip
import struct
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback.data import (
    Batches,
    Dataset,
    Standardization,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    read_csv,
    read_idx,
    split,
)
from pullback.errors import ArgumentError, CheckpointError, DataError, PullbackError, ShapeError
from pullback.io import load, save

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array, code=None, shape=None):
    shape = array.shape if shape is None else shape
    kind = array.dtype.str.lstrip("|") if code is None else None
    head = struct.pack(">BBBB", 0, 0, CODES[kind] if code is None else code, len(shape))
    return head + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


# --- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_gives_back_what_was_written(tmp_path, kind, shape, packed):
    array = (np.arange(np.prod(shape)).reshape(shape) - 3).astype(kind)
    content = idx_bytes(array)
    (tmp_path / "file").write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(tmp_path / "file")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.dtype.isnative
    assert found.flags.writeable


WHOLE = idx_bytes(np.arange(6, dtype="u1").reshape(2, 3))
BAD_IDX = {
    "empty": (b"", "no IDX file"),
    "text": (b"1,2,3\n4,5,6\n", "no IDX file"),
    "a png": (b"\x89PNG\r\n\x1a\n", "no IDX file"),
    "unknown type": (b"\0\0\x07\x01" + b"\0\0\0\0", "no IDX file"),
    "rank 0": (b"\0\0\x08\0", "no IDX file"),
    "rank 200": (b"\0\0\x08\xc8" + b"\0\0\0\1" * 200 + b"x", "no IDX file"),
    "cut off in the header": (WHOLE[:9], "cut off within its header"),
    "cut off in the data": (WHOLE[:-1], "needs 6 bytes; the file has only 5"),
    "longer than it says": (WHOLE + b"\0", "needs 6 bytes; the file has more"),
    "promises exabytes": (b"\0\0\x0e\x04" + b"\xff" * 16 + b"x" * 8, "the file has only 8"),
    "no elements, lengths that overflow": (b"\0\0\x0e\x05" + b"\0" * 4 + b"\xff" * 16, "too large"),
    "gzip cut off": (gzip.compress(WHOLE)[:-9], "cannot be read"),
    "gzip with a wrong checksum": (gzip.compress(WHOLE)[:-8] + b"\0" * 8, "cannot be read"),
    "gzip of nonsense": (b"\x1f\x8b" + b"\xff" * 30, "cannot be read"),
    "gzip whose inside is cut off": (gzip.compress(WHOLE[:-2]), "only 4"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_IDX.values(), ids=BAD_IDX)
def test_a_bad_idx_file_is_a_data_error_that_names_it(tmp_path, content, reason):
    (tmp_path / "bad-idx").write_bytes(content)
    with pytest.raises(DataError, match=f"bad-idx: .*{reason}"):
        read_idx(tmp_path / "bad-idx")


def test_a_missing_idx_file_and_a_folder_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.fixture
def mnist_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28)).astype("u1")
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes((np.arange(count) % 10).astype("u1")))
    return tmp_path


def test_mnist_is_read_from_plain_and_gzipped_files(mnist_folder):
    train, test = load_mnist(mnist_folder)
    assert (train.inputs.shape, test.inputs.shape) == ((30, 784), (10, 784))
    np.testing.assert_array_equal(train.labels, np.arange(30) % 10)
    assert train.classes == tuple("0123456789")
    assert load_fashion_mnist(mnist_folder)[0].classes[2] == "Pullover"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train-images-idx3-ubyte.gz", None, "there is no train-images-idx3-ubyte or"),
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(29, "u1")), "do not go with labels of shape"),
        ("train-labels-idx1-ubyte", idx_bytes(np.full(30, 10, "u1")), "from 0 to 9; got 10"),
        ("t10k-images-idx3-ubyte.gz", idx_bytes(np.zeros((10, 3, 3), "u1")), "784 pixels, test images 9"),
        ("t10k-images-idx3-ubyte.gz", idx_bytes(np.zeros((10, 9), "u1")), "do not go"),
    ],
)
def test_an_incomplete_or_mixed_up_mnist_folder_is_a_data_error(mnist_folder, name, content, reason):
    if content is None:
        (mnist_folder / name).unlink()
    else:
        (mnist_folder / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_mnist(mnist_folder)


# --- CSV --------------------------------------------------------------------------------------------------------------


def csv_file(folder, text, name="table.csv"):
    path = folder / name
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


GOOD_CSV = {
    "no header": ("1,2,0\n3,4,1\n", {}, [[1, 2], [3, 4]], ("0", "1"), [0, 1]),
    "header": ("a,b,c\n1,2,7\n3,4,-5\n", {}, [[1, 2], [3, 4]], ("-5", "7"), [1, 0]),
    "header of numbers but for the label": ("0,1,label\n1,2,1\n3,4,0\n", {}, [[1, 2], [3, 4]], ("0", "1"), [1, 0]),
    "label by name": ("kind,b\nyes,2\nno,4e-3\n", {"label_column": "kind"}, [[2], [0.004]], ("no", "yes"), [1, 0]),
    "label by position": ("2,yes,1\n4,no,0\n", {"label_column": 1}, [[2, 1], [4, 0]], ("no", "yes"), [1, 0]),
    "text labels without a header": ("1,b\n2,a\n", {}, [[1], [2]], ("a", "b"), [1, 0]),
    "blank lines, spaces, CRLF": ("\r\n 1 , 2 , x \r\n\r\n3, 4,x\r\n", {}, [[1, 2], [3, 4]], ("x",), [0, 0]),
    "semicolons": ("1,5;0\n".replace(",", "."), {"delimiter": ";"}, [[1.5]], ("0",), [0]),
    "quotes": ('"1","x, y"\n"2","z"\n', {}, [[1], [2]], ("x, y", "z"), [0, 1]),
    "byte order mark": ("\ufeff1,0\n2,1\n", {}, [[1], [2]], ("0", "1"), [0, 1]),
    "labels in order of value": ("1,10\n2,9\n3,10.0\n", {}, [[1], [2], [3]], ("9", "10"), [1, 0, 1]),
}


@pytest.mark.parametrize(("text", "options", "inputs", "classes", "labels"), GOOD_CSV.values(), ids=GOOD_CSV)
@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_csv_gives_numbers_and_classes(tmp_path, name, text, options, inputs, classes, labels):
    found = read_csv(csv_file(tmp_path, text, name), **options)
    np.testing.assert_array_equal(found.inputs, inputs)
    assert found.classes == classes
    np.testing.assert_array_equal(found.labels, labels)


BAD_CSV = {
    "empty": ("", {}, "the file is empty"),
    "only blank lines": ("\n\n  \n", {}, "the file is empty"),
    "only a header": ("a,b,c\n", {}, "no row below"),
    "one column": ("1\n2\n", {}, "one column"),
    "ragged, too short": ("a,b,c\n1,2,0\n1,0\n", {}, "line 3: 2 fields, where the first row has 3"),
    "ragged, too long": ("1,2,0\n1,2,3,0\n", {}, "line 2: 4 fields"),
    "text in a column of numbers": ("1,2,0\n1,two,0\n", {}, "line 2, column 2: 'two' where a number"),
    "text behind the label": ("y,a\n0,1\n1,x\n", {"label_column": 0}, "line 3, column 2: 'x'"),
    "a missing number": ("1,2,0\n1,,0\n", {}, "line 2, column 2: nothing where a number"),
    "NaN": ("1,2,0\n\n1,nan,0\n", {}, "line 3: a number is NaN or infinite"),
    "infinity": ("1,2,0\n1,1e999,0\n", {}, "line 2: a number is NaN"),
    "a missing label": ("1,2,0\n1,2,\n", {}, "line 2: the label is missing"),
    "labels that are fractions": ("1,2,0\n1,2,0.5\n", {}, "line 2: the label 0.5 is no whole number"),
    "labels that are NaN": ("1,2,0\n1,2,nan\n", {}, "line 2: the label nan is no whole number"),
    "an unknown label column": ("a,b\n1,2\n", {"label_column": "c"}, "no column is called 'c'; there are a, b"),
    "a label column out of range": ("1,2\n", {"label_column": 2}, "no label column 2; there are 2 columns"),
    "not UTF-8": (b"1,2\n\xff\xfe,3\n", {}, "not a text file in UTF-8"),
    "a quote that is not closed": ('1,2\n"3,4\n', {}, "cannot be read"),
    "a field of a megabyte": ("1," + "x" * 1_000_000 + "\n", {}, "cannot be read"),
}


@pytest.mark.parametrize(("text", "options", "reason"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_csv_file_is_an_error_that_names_file_and_line(tmp_path, text, options, reason):
    with pytest.raises(PullbackError, match=rf"table\.csv.*{reason}"):
        read_csv(csv_file(tmp_path, text), **options)


def test_a_csv_file_that_is_missing_a_folder_or_a_damaged_gzip_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_csv(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"1,2,0\n" * 1000)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "cut.csv.gz")


# --- digits, split, standardisation -----------------------------------------------------------------------------------


def test_the_digits_are_the_real_ones():
    pytest.importorskip("sklearn")
    digits = load_digits()
    assert digits.inputs.shape == (1797, 64)
    assert (digits.inputs.min(), digits.inputs.max()) == (0, 16)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install 'pullback\[data\]'"):
        load_digits()


def labelled(labels, features=2):
    labels = np.asarray(labels)
    inputs = np.arange(len(labels) * features, dtype=np.float64).reshape(len(labels), features)
    return Dataset(inputs, labels, tuple(map(str, range(labels.max() + 1))))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_a_split_parts_the_examples_by_the_share_of_each_class(labels, share, seed):
    whole = labelled(labels)
    train, held = split(whole, share, seed)
    rows = np.concatenate([train.inputs[:, 0], held.inputs[:, 0]])
    np.testing.assert_array_equal(np.sort(rows), whole.inputs[:, 0])
    assert len(held) == min(max(round(share * len(labels)), 1), len(labels) - 1)
    for kind in set(labels):
        expected = labels.count(kind) * len(held) / len(labels)
        assert abs(np.sum(held.labels == kind) - expected) <= 1.0 + 1e-9
    again = split(whole, share, seed)[1]
    np.testing.assert_array_equal(again.inputs, held.inputs)


def test_another_seed_holds_out_other_examples():
    whole = labelled([0, 1] * 50)
    assert not np.array_equal(split(whole, seed=0)[1].inputs, split(whole, seed=1)[1].inputs)


@pytest.mark.parametrize(("labels", "share"), [([0, 1], 0.0), ([0, 1], 1.0), ([0, 1], float("nan")), ([0], 0.5)])
def test_a_split_that_leaves_nothing_is_an_error(labels, share):
    with pytest.raises(ArgumentError, match="split: cannot hold out"):
        split(labelled(labels), share)


def test_inputs_and_labels_that_do_not_fit_are_an_error():
    with pytest.raises(ShapeError, match="inputs of shape"):
        Dataset(np.ones((3, 2)), np.zeros(2, np.int64), ("0",))


def test_standardisation_knows_the_training_part_only():
    part = Dataset(np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 10.0]]), np.array([0, 1]), ("a", "b"))
    to = Standardization.of(part)
    found = to(part.inputs)
    np.testing.assert_allclose(found, [[-1, 0, -1], [1, 0, 1]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(to(np.array([[2.0, 6.0, 20.0]]), np.float64), [[0, 1, 3]])


def test_pixels_share_one_mean_and_one_scale():
    images = np.array([[0, 0, 255], [0, 255, 255]], np.uint8)
    found = Standardization.of(Dataset(images, np.array([0, 1]), ("a", "b"), one_unit=True))(images, np.float64)
    assert found.mean() == pytest.approx(0, abs=1e-15)
    assert found.std() == pytest.approx(1)
    assert np.unique(found).size == 2


# --- batches ----------------------------------------------------------------------------------------------------------


def make(rows=10, size=3, seed=0, **options):
    generator = None if seed is None else pb.random.Generator(seed)
    return Batches([np.arange(rows), np.arange(rows) * 10], size, generator, **options)


def passes(batches, count):
    return [[batch[0].tolist() for batch in batches] for _ in range(count)]


def test_a_pass_gives_every_row_once_and_each_pass_in_another_order():
    first, second = passes(make(), 2)
    assert [len(rows) for rows in first] == [3, 3, 3, 1]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert passes(make(), 2) == [first, second]
    assert passes(make(seed=1), 1) != [first]


def test_rows_stay_together_and_are_tensors():
    for x, y in make():
        assert isinstance(x, pb.Tensor)
        np.testing.assert_array_equal(x.numpy() * 10, y.numpy())


def test_without_a_generator_the_rows_keep_their_order_and_a_short_batch_can_be_dropped():
    assert passes(make(7, 3, None), 1) == [[[0, 1, 2], [3, 4, 5], [6]]]
    dropping = make(7, 3, None, drop_last=True)
    assert len(dropping) == 2
    assert passes(dropping, 1) == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("stop", range(10))
def test_a_saved_place_goes_on_with_the_very_next_batch(tmp_path, stop, seed):
    def stream(batches):
        while True:
            for x, _ in batches:
                yield x.tolist()

    whole, cut = stream(make(seed=seed)), make(seed=seed)
    expected = [next(whole) for _ in range(20)]
    running = stream(cut)
    assert [next(running) for _ in range(stop)] == expected[:stop]
    save(tmp_path / "place", cut.state())
    resumed = make(seed=None if seed is None else 99)
    resumed.restore(load(tmp_path / "place"))
    assert resumed.state() == cut.state()
    later = stream(resumed)
    assert [next(later) for _ in range(20 - stop)] == expected[stop:]


def test_a_place_of_other_batches_or_a_damaged_one_changes_nothing():
    batches = make()
    before = batches.state()
    good = make(seed=5).state()
    for bad in (
        make(rows=11).state(),
        make(size=4).state(),
        make(seed=None).state(),
        {},
        {**good, "position": 99},
        {**good, "position": "x"},
        {**good, "position": 1.5},
        {**good, "generator": {"algorithm": "mt19937"}},
        {**good, "generator": {**good["generator"], "key": [-1, 1]}},
        {**good, "generator": {**good["generator"], "position": "x"}},
    ):
        with pytest.raises(CheckpointError, match="batches: the state"):
            batches.restore(bad)
        assert batches.state() == before


@pytest.mark.parametrize(
    ("arrays", "size", "options", "error"),
    [
        ([], 1, {}, ShapeError),
        ([np.ones(3), np.ones(4)], 1, {}, ShapeError),
        ([np.ones(3)], 0, {}, ArgumentError),
        ([np.ones(0)], 1, {}, ArgumentError),
        ([np.float32(1)], 1, {}, ArgumentError),
        ([np.ones(3)], 4, {"drop_last": True}, ArgumentError),
    ],
)
def test_batches_that_cannot_be_made_are_an_error(arrays, size, options, error):
    with pytest.raises(error, match="batches: "):
        Batches(arrays, size, **options)
