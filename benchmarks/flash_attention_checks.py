"""Is the operator right on this machine? Every feature, held to float64.

Used by benchmarks/flash_attention.py, which needs no test runner on the machine that
has the GPU. The rule is that of flash-attn's own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from underhood.flash_attention import flash_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES: list[dict[str, Any]] = [
    {"n": 1, "m": 1, "d": 16},
    {"n": 97, "m": 97, "d": 40, "causal": True},
    {"n": 200, "m": 128, "d": 64, "causal": True},
    {"n": 128, "m": 217, "d": 128},
    {"n": 1024, "m": 1023, "d": 64, "causal": True},
    {"n": 257, "m": 300, "d": 192, "causal": True, "kv": 2},
    {"n": 130, "m": 130, "d": 256},
    {"n": 300, "m": 500, "d": 64, "window": (64, 0)},
    {"n": 130, "m": 97, "d": 80, "causal": True, "softcap": 20.0},
    {"n": 113, "m": 203, "d": 128, "causal": True, "alibi": True, "kv": 1},
    {"n": 90, "m": 300, "d": 64, "causal": True, "lengths": [300, 70]},
    {"n": 1, "m": 1000, "d": 128, "lengths": [1000, 0], "kv": 1},
]


def formula(case: dict[str, Any], q: Any, k: Any, v: Any) -> torch.Tensor:
    """Attention with everything written out, in the dtype of the inputs."""
    (batch, heads, n, d), m = q.shape, k.shape[2]
    k, v = (each.repeat_interleave(heads // each.shape[1], 1) for each in (k, v))
    scores = q @ k.mT * d**-0.5
    if cap := case.get("softcap", 0.0):
        scores = cap * torch.tanh(scores / cap)
    own = torch.tensor(case.get("lengths", [m] * batch), device=q.device)
    own = own.view(batch, 1, 1, 1)
    place = torch.arange(n, device=q.device)[:, None] + own - n
    column = torch.arange(m, device=q.device)
    if case.get("alibi"):
        slopes = torch.tensor([0.5, 0.25, 0.1, 0.05], device=q.device).view(4, 1, 1)
        scores = scores - (slopes * (place - column).abs()).to(scores)
    left, right = case.get("window", (-1, -1))
    right = 0 if case.get("causal") else right
    hidden = column >= own
    hidden = hidden | (column > place + right) if right >= 0 else hidden
    hidden = hidden | (column < place - left) if left >= 0 else hidden
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return weights.nan_to_num(0.0).masked_fill(hidden, 0.0) @ v


def check(case: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The share that the errors take up of what flash-attn's rule allows."""
    torch.manual_seed(case["n"] + case["m"])
    n, m, d = case["n"], case["m"], case["d"]
    shapes = [(2, heads, length, d) for heads, length in
              ((4, n), (case.get("kv", 4), m), (case.get("kv", 4), m))]  # fmt: skip
    start = [torch.randn(shape, device=DEVICE).to(dtype) for shape in shapes]
    d_out = torch.randn(shapes[0], device=DEVICE).to(dtype)
    options: dict[str, Any] = {
        key: case[key] for key in ("causal", "window", "softcap") if key in case
    }
    if "lengths" in case:
        options["key_lengths"] = torch.tensor(case["lengths"], device=DEVICE)
    if case.get("alibi"):
        options["alibi_slopes"] = torch.tensor([0.5, 0.25, 0.1, 0.05], device=DEVICE)

    def run(attend: Callable[..., Any], like: torch.Tensor) -> list[torch.Tensor]:
        leaves = [each.to(like).detach().requires_grad_() for each in start]
        out = attend(*leaves)
        grads = torch.autograd.grad(out, leaves, d_out.to(like))
        return [each.double().to(DEVICE) for each in (out.detach(), *grads)]

    ours, again = (
        run(lambda *t: flash_attention(*t, backend="triton", **options), start[0])
        for _ in range(2)
    )
    # In float32 the kernel adds the products of two rows in one chain, as a CPU does,
    # and not in several, as cuBLAS does.
    single = dtype == torch.float32
    place = torch.empty(0, dtype=dtype, device="cpu" if single else DEVICE)
    plain, exact = (
        run(lambda *t: formula(case, *t), like) for like in (place, start[0].double())
    )
    query, key, value = (each.detach().double() for each in start)
    # With one key dS = P * (dP - Delta) is 0, and the plain formula gets exactly that.
    # On a GPU, in float32, the kernel gets a rounding of dP: it adds up the two in two
    # orders.
    alone = single and m == 1 and DEVICE == "cuda"
    d_weights = d_out.double() @ value.repeat_interleave(4 // value.shape[1], 1).mT
    d_scores = float(d_weights.abs().max()) * d**-0.5 * alone
    sizes = [1.0, *(d_scores * float(t.abs().max()) for t in (key, query)), 1.0]
    shares = []
    for factor, size, a, b, c in zip(
        (2, 3, 3, 3), sizes, ours, plain, exact, strict=True
    ):
        rounding = torch.finfo(dtype).eps * max(1.0, size, float(c.abs().max()))
        allowed = factor * (float((b - c).abs().max()) + rounding)
        shares.append(float((a - c).abs().max()) / allowed)
    same = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    return {"case": case, "dtype": str(dtype), "shares": shares, "same_bits": same}
