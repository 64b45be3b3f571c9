"""Compile the kernel for a GPU on a machine that has none, and look at the result.

The compiler and the interpreter exclude each other in one process: this module
runs the compiler in another one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

INSTRUCTIONS = {"wgmma": r"wgmma\.mma_async", "mma.sync": r"mma\.sync"}


def compile_kernel(
    dtype: str = "bfloat16",
    head_dim: int = 64,
    *,
    decay: bool = False,
    capability: int = 90,
    num_features: int | None = None,
    chunk_size: int = 64,
) -> dict[str, Any]:
    """Compile the chunked kernel ahead of time, in a process of its own.

    Args:
        dtype: "float16", "bfloat16" or "float32".
        head_dim: of keys and values.
        decay: with a decay per head.
        capability: 80 (A100) or 90 (H100, H200).
        num_features: of queries and keys; `head_dim` if not given.
        chunk_size: as of `triton_linear_attention`.

    Returns:
        `shared_bytes`, and how often each of the `INSTRUCTIONS` is in the PTX.

    Raises:
        RuntimeError: the kernel does not compile; the message is the compiler's.
    """
    search_path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
    }
    sizes = head_dim, int(decay), capability, num_features or head_dim, chunk_size
    arguments = [dtype, *map(str, sizes)]
    done = subprocess.run(
        [sys.executable, "-m", "underhood.linear_attention.ahead_of_time", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the kernel does not compile:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _compile_here(
    dtype: str,
    head_dim: int,
    decay: bool,
    capability: int,
    num_features: int,
    chunk_size: int,
) -> dict[str, Any]:
    """What the other process does."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from underhood.linear_attention import kernel

    fixed = kernel.constants(
        num_features,
        head_dim,
        getattr(torch, dtype),
        decay=decay,
        normalize=True,
        chunk_size=chunk_size,
    )
    options = {"num_warps": fixed.pop("num_warps")}
    pointer = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}[dtype]
    in_dtype = {"query_ptr", "key_ptr", "value_ptr", "out_ptr"}
    signature, aligned = {}, {}
    for index, name in enumerate(kernel.chunked_forward.arg_names):
        if name in fixed:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = pointer if name in in_dtype else "*fp32"
        else:
            signature[name] = "i32"
        # As a launch would find: pointers and dimensions are multiples of 16.
        if name.endswith(("_ptr", "_dim", "num_features")):
            aligned[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel.chunked_forward, signature, fixed, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    ptx = compiled.asm["ptx"]
    return {
        "shared_bytes": compiled.metadata.shared,
        **{name: len(re.findall(form, ptx)) for name, form in INSTRUCTIONS.items()},
    }


if __name__ == "__main__":
    head_dim, decay, *rest = map(int, sys.argv[2:])
    found = _compile_here(sys.argv[1], head_dim, bool(decay), *rest)
    print(json.dumps(found))
