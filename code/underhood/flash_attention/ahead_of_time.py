"""Compile the kernels for a GPU on a machine that has none, and look at the result.

Triton ships NVIDIA's assembler, so a laptop can tell whether a kernel compiles for an
H100, whether it uses the tensor cores, how much shared memory it asks for, and whether
its numbers fit into registers. Compiler and interpreter exclude each other in one
process, so this module runs the compiler in another one. There, the same code that
launches the kernels is called, with a stand-in for the driver that only compiles.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Shared memory that one block of threads may have, in bytes (CUDA programming guide).
SHARED_MEMORY_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
INSTRUCTIONS = {
    "wgmma": r"wgmma\.mma_async",  # tensor cores, Hopper
    "mma.sync": r"mma\.sync",  # tensor cores, Ampere
    "cp.async": r"cp\.async\.cg",  # copies to shared memory behind the arithmetic
    "tma": r"cp\.async\.bulk\.tensor",  # copies of whole tiles, Hopper
    "ex2": r"ex2\.approx",  # the exponential unit
    "div.full": r"div\.full",  # a division that may be 2 ulp off
    "atom": r"\b(?:atom|red)\.",
}


def compile_kernels(
    capability: int = 90,
    dtype: str = "float16",
    head_dim: int = 64,
    *,
    backward: bool = True,
    **options: Any,
) -> dict[str, dict[str, int]]:
    """Compile what a call of `triton_attention` launches, in a process of its own.

    Args:
        capability: 80 (A100), 89 (RTX 4090) or 90 (H100, H200).
        dtype: "float16", "bfloat16" or "float32".
        head_dim: 16 to 256.
        backward: also the kernels of the backward pass.
        options: causal, window, softcap, length, key_heads (of 4 heads);
            key_lengths and alibi_slopes, True or False.

    Returns:
        By kernel: `registers` per thread, `spilled` bytes per thread, `shared_bytes`,
        `num_warps`, and the number of each of the `INSTRUCTIONS` in its PTX.

    Raises:
        RuntimeError: a kernel does not compile; the message is the compiler's.
    """
    if capability not in SHARED_MEMORY_LIMIT:
        allowed = sorted(SHARED_MEMORY_LIMIT)
        raise ValueError(f"capability: got {capability}, allowed are {allowed}")
    arguments = [capability, dtype, head_dim, backward, options]
    source_root = str(Path(__file__).parents[2])
    search_path = [source_root, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
    }
    module = "underhood.flash_attention.ahead_of_time"
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a kernel does not compile:\n{done.stderr[-2000:]}")
    result: dict[str, dict[str, int]] = json.loads(done.stdout)
    return result


def _compile_here(
    capability: int, dtype: str, head_dim: int, backward: bool, options: dict[str, Any]
) -> dict[str, dict[str, int]]:
    """What the other process does."""
    import torch

    from underhood.flash_attention import kernel

    compiled = _only_compile(kernel, capability)
    heads, length = 4, options.pop("length", 4096)
    shapes = [
        (2, n, length, head_dim) for n in (heads, *[options.pop("key_heads", 4)] * 2)
    ]
    tensors = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in shapes]
    if options.pop("key_lengths", False):
        options["key_lengths"] = torch.tensor([length, 1])
    if options.pop("alibi_slopes", False):
        options["alibi_slopes"] = torch.ones(heads)
    for tensor in tensors:
        tensor.requires_grad_(backward)
    output, _ = kernel.triton_attention(*tensors, **options)
    if backward:
        torch.autograd.grad(output, tensors, torch.zeros_like(output))
    return {name: _look_at(each) for name, each in compiled.items()}


def _only_compile(kernel: Any, capability: int) -> dict[str, Any]:
    """Make the launches of `kernel` compile, and collect what they compile."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    triton.runtime.driver.set_active(Driver())
    compiled: dict[str, Any] = {}

    def collect(function: Any) -> None:
        run = type(function).run

        def compile_only(*args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            made = run(function, *args, grid=grid, warmup=True, **kwargs)
            asked, limit = made.metadata.shared, SHARED_MEMORY_LIMIT[capability]
            if asked > limit:  # as a launch would
                raise triton.OutOfResources(asked, limit, "shared memory")
            compiled[function.__name__] = made

        function.run = compile_only

    for function in kernel.CONFIGS:
        collect(function)
    return compiled


def _look_at(compiled: Any) -> dict[str, int]:
    """Ask NVIDIA's cuobjdump about the machine code, and the PTX by pattern."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0]
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(registers),
        "spilled": int(spilled),
        "shared_bytes": compiled.metadata.shared,
        "num_warps": compiled.metadata.num_warps,
        **{name: len(re.findall(form, ptx)) for name, form in INSTRUCTIONS.items()},
    }


if __name__ == "__main__":
    print(json.dumps(_compile_here(*json.loads(sys.argv[1]))))
