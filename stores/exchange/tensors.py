"""Safetensors files: named arrays with a few strings beside them.

A header (eight bytes of length, then JSON: name -> dtype, shape, place) and the numbers after it:
https://github.com/huggingface/safetensors#format. Knows nothing of what the arrays mean.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.exchange.naming import read_bytes, refusal

METADATA = "__metadata__"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
LENGTH_BYTES = 8


def read_tensors(path: Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """The arrays of a file by name, and its metadata. bfloat16 is widened to float32, exactly.

    Raises UsageError for a file that cannot be read, a torn one, a name that is there twice and a
    number format unknown here.
    """
    from safetensors import SafetensorError, deserialize

    payload = read_bytes(path)
    try:
        tensors = deserialize(payload)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        problem = f"it is not a whole .safetensors file ({error})"
        raise refusal(path, problem, "copy or save it again") from error
    arrays = {name: _parse_tensor(path, name, tensor) for name, tensor in sorted(tensors)}
    return arrays, _read_header(path, payload).get(METADATA, {})


def _parse_tensor(path: Path, name: str, tensor: Mapping[str, Any]) -> NDArray[np.generic]:
    dtype, shape = tensor["dtype"], tensor["shape"]
    if dtype == "BF16":
        upper = np.frombuffer(tensor["data"], "<u2").astype("<u4")
        return (upper << 16).view("<f4").reshape(shape)
    if dtype not in DTYPES:
        raise refusal(path, f"tensor {name!r} holds {dtype}", "save it as float32")
    return np.frombuffer(tensor["data"], DTYPES[dtype]).reshape(shape)


def _read_header(path: Path, payload: bytes) -> dict[str, Any]:
    """The header, which the library has checked but for a name that stands in it twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise refusal(path, f"tensor {name!r} is there twice", "keep one of them")
        return dict(pairs)

    size = int.from_bytes(payload[:LENGTH_BYTES], "little")
    header: dict[str, Any] = json.loads(
        payload[LENGTH_BYTES : LENGTH_BYTES + size], object_pairs_hook=once
    )
    return header


def tensor_bytes(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> bytes:
    """`arrays` and `metadata` as a file, with the same bytes for the same values.

    The library's own writer puts the metadata in another order each time.
    """
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))}
    parts, end = [], 0
    for name, values in sorted(arrays.items()):
        part = values.tobytes()
        place = [end, end := end + len(part)]
        header[name] = {
            "dtype": CODES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": place,
        }
        parts.append(part)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The numbers begin at a multiple of eight bytes.
    text += b" " * (-len(text) % LENGTH_BYTES)
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, *parts])
