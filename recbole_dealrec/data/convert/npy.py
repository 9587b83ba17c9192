"""NumPy files of a pickled object, read without running code of the pickle."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from recbole_dealrec.errors import InputError

# Classes in pickled arrays; built-in containers, texts and numbers need none.
_ADMITTED = {
    ("numpy", "ndarray"), ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("collections", "OrderedDict"),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Unpickler of containers, texts, numbers and NumPy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it uses {module}.{name}, but only containers, strings and arrays are allowed"
            )
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an external object")


def read_object(path: Path) -> Any:
    """Return the object in a ``.npy`` file, such as a dictionary.

    Raises:
        InputError: the file is invalid, or its pickle has anything but containers, texts, numbers and NumPy arrays.
    """
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](stream)
            if shape != () or not dtype.hasobject:
                raise InputError(f"{path}: holds an array of {dtype}, not one object")
            return _Unpickler(stream).load().item()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle may raise any error
        raise InputError(f"{path}: not a readable NumPy file: {error}") from error
