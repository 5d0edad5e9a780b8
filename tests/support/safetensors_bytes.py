"""Writes .safetensors files byte by byte, by the format's description."""

import json
import struct

import numpy as np

CODES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


def as_bfloat16(array):
    """The upper halves of float32 numbers, as uint16."""
    return (np.asarray(array, "<f4").view("<u4") >> 16).astype("<u2")


def write(path, arrays, bfloat16=(), **metadata):
    """arrays: {name: array}; those in bfloat16 are uint16 of `as_bfloat16`."""
    header, parts, end = {"__metadata__": metadata} if metadata else {}, [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        begin, end = end, end + len(content)
        header[name] = {
            "dtype": "BF16" if name in bfloat16 else CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        parts.append(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return path
