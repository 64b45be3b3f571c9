"""Compile the kernel for a GPU on a machine that has none, and look at the result.

Triton ships NVIDIA's assembler, so a laptop can tell whether the kernel compiles for
an H100, whether it uses its tensor cores, and how much shared memory it asks for.
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

# Shared memory that one block of threads may have, in bytes (CUDA programming guide).
SHARED_MEMORY_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
INSTRUCTIONS = {
    "wgmma": r"wgmma\.mma_async",  # tensor cores, Hopper
    "mma.sync": r"mma\.sync",  # tensor cores, Ampere
    "cp.async": r"cp\.async\.cg",  # copies to shared memory behind the arithmetic
    "ex2": r"ex2\.approx",  # the exponential unit
    "fma": r"fma\.rn",
}


def compile_kernel(
    capability: int = 90,
    dtype: str = "float16",
    head_dim: int = 64,
    *,
    causal: bool = True,
    length: int = 4096,
) -> dict[str, Any]:
    """Compile the forward kernel ahead of time, in a process of its own.

    Args:
        capability: 80 (A100) or 90 (H100, H200).
        dtype: "float16", "bfloat16" or "float32".
        head_dim: 16 to 128.
        causal: which of the two kernels.
        length: of the queries; it decides the tile size.

    Returns:
        `shared_bytes`, `num_warps`, `ptx_lines`, and the number of each of the
        `INSTRUCTIONS` in the PTX.

    Raises:
        RuntimeError: the kernel does not compile; the message is the compiler's.
    """
    if capability not in SHARED_MEMORY_LIMIT:
        allowed = sorted(SHARED_MEMORY_LIMIT)
        raise ValueError(f"capability: got {capability}, allowed are {allowed}")
    arguments = (capability, dtype, head_dim, int(causal), length)
    source_root = str(Path(__file__).parents[2])
    search_path = [source_root, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "underhood.flash_attention.ahead_of_time"]
        + [str(argument) for argument in arguments],
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
    capability: int, dtype: str, head_dim: int, causal: bool, length: int
) -> dict[str, Any]:
    """What the other process does: compile as a launch on contiguous tensors would."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from underhood.flash_attention import kernel

    torch_dtype = getattr(torch, dtype)
    sizes = kernel.block_sizes(length, head_dim, torch_dtype)
    options = {name: sizes.pop(name) for name in ("num_warps", "num_stages")}
    constants: dict[str, Any] = {
        **kernel.constants(head_dim, torch_dtype, causal),
        **sizes,
        **{f"stride_{each}d": 1 for each in "qkvo"},
    }
    short = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}[dtype]
    signature, aligned = {}, {}
    for index, name in enumerate(kernel.attention_forward.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*fp32" if name == "lse_ptr" else f"*{short}"
            aligned[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name == "qk_scale" else "i32"
            if name.startswith("stride") and head_dim % 16 == 0:
                aligned[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel.attention_forward, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    ptx = compiled.asm["ptx"]
    return {
        "shared_bytes": compiled.metadata.shared,
        "num_warps": options["num_warps"],
        "ptx_lines": len(ptx.splitlines()),
        **{name: len(re.findall(form, ptx)) for name, form in INSTRUCTIONS.items()},
    }


if __name__ == "__main__":
    capability, dtype, head_dim, causal, length = sys.argv[1:]
    print(
        json.dumps(
            _compile_here(
                int(capability), dtype, int(head_dim), causal == "1", int(length)
            )
        )
    )
