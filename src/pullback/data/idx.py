"""IDX, the file format of MNIST and its relatives: http://yann.lecun.com/exdb/mnist (foot of the page)."""

import os
from io import BufferedIOBase
from math import prod
from os import PathLike

import numpy as np

from ..errors import DataError
from .dataset import Dataset

__all__ = ["load_fashion_mnist", "load_mnist", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_MOST_AXES = 64  # NumPy's
_FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_idx(path: str | PathLike[str]) -> np.ndarray:
    """The array in an IDX file, plain or gzipped (told by its content), in the machine's byte order.

    Raises:
        DataError: the file is missing or unreadable, is no IDX file, is cut off, or is longer than it says.
    """
    import gzip
    import zlib

    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not 0 < head[3] <= _MOST_AXES:
                raise DataError(f"{path}: no IDX file; it starts with {head!r}, not with two zeros, a type and a rank")
            dtype, lengths = np.dtype(_DTYPES[head[2]]), file.read(4 * head[3])
            if len(lengths) < 4 * head[3]:
                raise DataError(f"{path}: cut off within its header")
            shape = tuple(np.frombuffer(lengths, ">u4").tolist())
            size = prod(shape) * dtype.itemsize
            body = _read(file, size + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(body) != size:
        met = f"only {len(body):,}" if len(body) < size else "more"
        raise DataError(f"{path}: shape {shape} of {dtype.name} needs {size:,} bytes; the file has {met}")
    try:
        return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # no elements, and lengths that overflow
        raise DataError(f"{path}: shape {shape} is too large for an array") from error


def _read(file: BufferedIOBase, size: int) -> bytes:
    """Up to `size` bytes, in pieces: a header may promise more than memory holds."""
    pieces, left = [], size
    while left > 0 and (piece := file.read(min(left, 1 << 24))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def load_mnist(folder: str | PathLike[str]) -> tuple[Dataset, Dataset]:
    """MNIST's training and test part from its four IDX files in `folder`, plain or gzipped.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not belong together.
    """
    return _load(folder, tuple(map(str, range(10))), "https://ossci-datasets.s3.amazonaws.com/mnist/")


def load_fashion_mnist(folder: str | PathLike[str]) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST's training and test part, as `load_mnist`."""
    return _load(folder, _FASHION, "https://github.com/zalandoresearch/fashion-mnist")


def _load(folder: str | PathLike[str], classes: tuple[str, ...], source: str) -> tuple[Dataset, Dataset]:
    def part(prefix: str) -> Dataset:
        images_path = _find(folder, f"{prefix}-images-idx3-ubyte", source)
        labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte", source)
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise DataError(
                f"{images_path}: images of shape {images.shape} do not go with labels of shape {labels.shape}"
            )
        if labels.dtype != np.uint8 or labels.max() >= len(classes):
            raise DataError(f"{labels_path}: labels are bytes from 0 to {len(classes) - 1}; got {labels.max()}")
        return Dataset(images.reshape(len(images), -1), labels.astype(np.int64), classes, one_unit=True)

    train, test = part("train"), part("t10k")
    if train.inputs.shape[1] != test.inputs.shape[1]:
        raise DataError(
            f"{folder}: training images have {train.inputs.shape[1]} pixels, test images {test.inputs.shape[1]}"
        )
    return train, test


def _find(folder: str | PathLike[str], name: str, source: str) -> str:
    for candidate in (name, name + ".gz"):
        path = os.path.join(folder, candidate)
        if os.path.isfile(path):
            return path
    raise DataError(f"{folder}: there is no {name} or {name}.gz here; get the four IDX files from {source}")
