"""NumPy's .npz archives, read without ever unpickling and written with the same bytes each time.

Knows nothing of what the arrays mean.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from stores.exchange.naming import read_bytes, refusal

SAVE_AGAIN = "save it again with np.savez"


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of an archive by name, in the order of the file.

    Raises UsageError for a file that cannot be read, a torn archive, a name that is there twice, a
    member that is no array, and an array of Python objects, which would have to be unpickled.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            members = [(m.filename.removesuffix(".npy"), archive.read(m)) for m in archive.filelist]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: a password, or a compression that zipfile lacks. ValueError: a place before
        # the file's beginning, or a name that is not text.
        problem = f"it is not a whole .npz archive ({error})"
        raise refusal(path, problem, f"copy it again, or {SAVE_AGAIN}") from error
    found: dict[str, NDArray[np.generic]] = {}
    for name, payload in members:
        if name in found:
            raise refusal(path, f"array {name!r} is there twice", "keep one of them")
        found[name] = _parse_array(path, name, payload)
    return found


def _parse_array(path: Path, name: str, payload: bytes) -> NDArray[np.generic]:
    """One .npy member as an array over its bytes, after its header was found to tell the truth."""
    file = io.BytesIO(payload)
    try:
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = reads[npy.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise refusal(path, f"{name!r} is not a NumPy array", SAVE_AGAIN) from error
    if dtype.hasobject:
        problem = f"array {name!r} is a pickle, which can run code when it is opened"
        step = "save numbers as an array of floats, and names as np.array(names, dtype=str)"
        raise refusal(path, problem, step)
    if math.prod(shape) * dtype.itemsize != len(payload) - file.tell():
        raise refusal(path, f"array {name!r} is not as large as its header says", SAVE_AGAIN)
    order: Literal["C", "F"] = "F" if fortran else "C"
    return np.ndarray(shape, dtype, payload, file.tell(), order=order)


def npz_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> memoryview:
    """`arrays` as an archive that np.load opens: stored, with no date, in the order given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
    return file.getbuffer()
