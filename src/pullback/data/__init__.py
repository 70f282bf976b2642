"""Data sets from files, their split and standardisation, and batches of them."""

from .batches import Batches
from .dataset import Dataset, Standardization, split
from .digits import load_digits
from .idx import load_fashion_mnist, load_mnist, read_idx
from .tables import read_csv

__all__ = [
    "Batches",
    "Dataset",
    "Standardization",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "read_csv",
    "read_idx",
    "split",
]
