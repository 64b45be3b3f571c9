"""Weight files, read without running anything that they contain.

A pickle is a program: whoever unpickles it runs it. The two formats here need no
unpickling: safetensors cannot hold a program, and npz is read with
`allow_pickle=False`, without which an array of objects in it would be a pickle again.
Every error names the file and, where there is one, the key.

Sources: the format of safetensors (https://github.com/huggingface/safetensors,
section "Format"); `numpy.lib.format` for npz.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names the file and the key."""


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    The file is: the length of the header (8 bytes, little-endian), the header in JSON
    (key -> dtype, shape, where its bytes begin and end), the bytes of all tensors.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is cut short, or its header and its bytes disagree.
    """
    path = Path(path)
    content = bytearray(path.read_bytes())
    if is_pickle(content[:9]):
        raise WeightsError(
            f"{path}: a pickle (of torch.save), not safetensors; it is not opened, "
            f"because a pickle can run any code"
        )
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise WeightsError(
            f"{path}: the header should end at byte {8 + size}, but the file has "
            f"{len(content)} bytes: it is cut short, or not safetensors"
        )
    header = _read_header(path, bytes(content[8 : 8 + size]))
    tensors, end = {}, 0
    # In the order of their bytes, which must follow one another without a gap.
    for key, entry in sorted(header.items(), key=lambda item: item[1][2]):
        dtype, shape, start, stop = entry
        count = math.prod(shape)
        if start != end or stop - start != count * dtype.itemsize:
            raise WeightsError(
                f"{path}: {key}: bytes {start} to {stop} do not fit shape "
                f"{shape} of {dtype} that begins at {end}"
            )
        if 8 + size + stop > len(content):
            raise WeightsError(
                f"{path}: {key}: needs bytes up to {8 + size + stop}, but the file has "
                f"{len(content)}: it is cut short"
            )
        end = stop
        flat = torch.empty(0, dtype=dtype)
        if count:
            flat = torch.frombuffer(
                content, dtype=dtype, count=count, offset=8 + size + start
            )
        tensors[key] = flat.reshape(shape)
    if 8 + size + end != len(content):
        raise WeightsError(
            f"{path}: {len(content) - 8 - size - end} bytes after the last tensor"
        )
    return tensors


def is_pickle(head: bytes | bytearray) -> bool:
    """Whether a file whose first 9 bytes are these is a pickle, bare or in a zip.

    The length of a header of safetensors may begin like a pickle (640 bytes: 0x80,
    2), but a brace follows it.
    """
    bare = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return (bare or head[:2] == b"PK") and head[8:9] != b"{"


Entry = tuple[torch.dtype, tuple[int, ...], int, int]  # dtype, shape, start, stop


def _read_header(path: Path, text: bytes) -> dict[str, Entry]:
    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise WeightsError(f"{path}: {twice[0]}: appears twice in the header")
        return made

    try:
        header = json.loads(text, object_pairs_hook=no_repeats)
    except WeightsError:
        raise
    # ValueError: of JSON, of UTF-8, or of a number of more than 4300 digits.
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: the header is no JSON object")
    header.pop("__metadata__", None)
    return {key: _read_entry(path, key, entry) for key, entry in header.items()}


def _read_entry(path: Path, key: str, entry: Any) -> Entry:
    try:
        name, shape = entry["dtype"], tuple(entry["shape"])
        start, stop = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: {key}: needs dtype, shape and data_offsets, got {entry!r}"
        ) from error
    if not isinstance(name, str) or name not in DTYPES:
        raise WeightsError(
            f"{path}: {key}: dtype {name!r}; allowed are {', '.join(DTYPES)}"
        )
    for number in (*shape, start, stop):
        if type(number) is not int or not 0 <= number < 2**63:
            raise WeightsError(f"{path}: {key}: {number!r} is no size and no offset")
    return DTYPES[name], shape, start, stop


def read_npz(path: Path | str) -> dict[str, Tensor]:
    """All arrays of an npz file, read with `allow_pickle=False`.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is no npz, or an array is cut short or holds objects.
    """
    path, where = Path(path), ""
    tensors = {}
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise WeightsError(f"{path}: not an npz file, or cut short")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                # Zip checks what is read to its end, numpy reads what its header says.
                if damaged := arrays.zip.testzip():
                    where = f"{damaged.removesuffix('.npy')}: "
                    raise ValueError("its bytes do not have their checksum")
                for key in arrays.files:
                    where = f"{key}: "
                    # numpy refuses arrays of objects, which it would have to unpickle.
                    tensors[key] = torch.from_numpy(arrays[key])
        # A damaged file raises anything from zlib.error to tokenize.TokenError here.
        except Exception as error:
            raise WeightsError(f"{path}: {where}{error}") from error
    return tensors


def check_weights(
    path: Path | str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Refuse weights that do not fit the model exactly.

    Args:
        path: where `found` is from. wanted: the `state_dict` of the model.

    Raises:
        WeightsError: a key is missing or unknown, a shape differs, a tensor does not
            hold floating-point numbers, or one of its values is not finite.
    """
    missing = [key for key in wanted if key not in found]
    if missing:
        raise WeightsError(f"{path}: missing {_some(missing)}")
    extra = [key for key in found if key not in wanted]
    if extra:
        raise WeightsError(f"{path}: no place in the model for {_some(extra)}")
    for key, tensor in found.items():
        if tensor.shape != wanted[key].shape:
            raise WeightsError(
                f"{path}: {key}: shape {tuple(tensor.shape)}; the model needs "
                f"{tuple(wanted[key].shape)}"
            )
        if not tensor.is_floating_point():
            raise WeightsError(f"{path}: {key}: {tensor.dtype} is no floating type")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {key}: holds a value that is not finite")


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + rest
