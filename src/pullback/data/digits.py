"""The UCI handwritten digits, which scikit-learn ships."""

import numpy as np

from ..errors import DataError
from .dataset import Dataset

__all__ = ["load_digits"]


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8 by 8 pixels from 0 to 16, of the UCI test set (Alpaydin and Kaynak, 1998).

    Raises:
        DataError: scikit-learn, which holds them, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(f"digits: they come with scikit-learn ({error}): pip install 'pullback[data]'") from error
    found = datasets.load_digits()
    classes = tuple(str(name) for name in found.target_names)
    return Dataset(found.data.astype(np.float32), found.target.astype(np.int64), classes, one_unit=True)
