"""Training a `Seq2Seq` by teacher forcing, on pairs that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from underhood.transformer.seq2seq import Seq2Seq, sequence_loss, shift_right


def bucketed_batches(
    lengths: Tensor, batch: int, generator: torch.Generator, buckets: int = 8
) -> Iterator[Tensor]:
    """Endless random batches of indices in which sequences have similar lengths.

    `buckets * batch` examples are drawn, sorted by length and cut, so that little of a
    batch is padding.

    Args:
        lengths: (examples,), real tokens of each.
    """
    while True:
        drawn = torch.randint(len(lengths), (buckets * batch,), generator=generator)
        drawn = drawn[lengths[drawn].argsort()]
        cut = drawn.view(buckets, batch)
        yield from cut[torch.randperm(buckets, generator=generator)]


def warmup_then_linear(step: int, steps: int, warmup: int) -> float:
    """A factor for the learning rate: up to 1 at `warmup`, down to 0 after `steps`."""
    return min(step / warmup, (steps - step + 1) / (steps - warmup + 1))


def train(
    model: Seq2Seq,
    source: Tensor,
    target: Tensor,
    *,
    begin: int,
    steps: int,
    batch: int = 64,
    learning_rate: float = 4e-3,
    warmup: int = 50,
    seed: int = 0,
) -> list[float]:
    """Train in place; the model is left in evaluation mode.

    Adam with the betas of the paper (0.9, 0.98), gradients clipped to norm 1. The
    schedule ends at 0, unlike the paper's: a short run needs that more than it needs
    the square root.

    Args:
        source, target: (examples, length), ids, padded at the end.
        begin: the id that opens every target.

    Returns:
        The loss of each step.
    """
    if not 0 < warmup < steps:
        raise ValueError(f"warmup: got {warmup}; allowed is 0 < warmup < steps")
    generator = torch.Generator().manual_seed(seed)
    lengths = (source != model.padding).sum(dim=1)
    optimizer = torch.optim.Adam(
        model.parameters(), learning_rate, betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: warmup_then_linear(done + 1, steps, warmup)
    )
    losses = []
    batches = bucketed_batches(lengths, batch, generator)
    model.train()
    for _ in range(steps):
        rows = next(batches)
        read = source[rows, : int(lengths[rows].max())]
        logits = model(read, shift_right(target[rows], begin))
        loss = sequence_loss(logits, target[rows], model.padding)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return losses
