"""From logits to sequences: greedy, beam, and every sequence there is.

All three ask a model for `start(source)` and `step(tokens, state)`, as `Seq2Seq` has
them, and extend one KV cache instead of reading the prefix again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from underhood.transformer.seq2seq import Seq2Seq, shift_right


@dataclass(frozen=True)
class Hypothesis:
    """A sequence without its begin token; `log_probability` sums over its tokens."""

    tokens: tuple[int, ...]
    log_probability: float


@torch.no_grad()
def greedy_decode(
    model: Seq2Seq, source: Tensor, *, begin: int, end: int, max_length: int
) -> Tensor:
    """The likeliest token at each step.

    Args:
        source: (batch, source_length), ids.
        begin, end: the ids that open and close a target.
        max_length: at most so many tokens, `end` included.

    Returns:
        (batch, length), `end` repeated after the first one.
    """
    if not len(source):
        raise ValueError(f"source: got shape {tuple(source.shape)}; no sequence at all")
    _check(max_length=max_length)
    state = model.start(source)
    token = torch.full((len(source), 1), begin, device=source.device)
    done = torch.zeros_like(token, dtype=torch.bool)
    tokens: list[Tensor] = []
    while len(tokens) < max_length and not done.all():
        token = model.step(token, state).argmax(dim=-1)  # (batch, 1)
        token = token.masked_fill(done, end)
        tokens.append(token)
        done = done | (token == end)
    return torch.cat(tokens, dim=1)


@torch.no_grad()
def beam_search(
    model: Seq2Seq,
    source: Tensor,
    *,
    begin: int,
    end: int,
    max_length: int,
    beam_size: int,
) -> list[Hypothesis]:
    """The likeliest sequences that a beam finds, best first.

    At each step every unfinished hypothesis is extended by every token, and the
    `beam_size` likeliest survive; those that end are set aside. No length penalty, so
    the search may stop as soon as no unfinished one can overtake.

    Args:
        source: (1, source_length), ids.
        begin, end, max_length: see `greedy_decode`; a hypothesis that reaches
            max_length counts as finished.
    """
    _check_source(source)
    _check(max_length=max_length, beam_size=beam_size)
    state = model.start(source)
    prefixes: list[tuple[int, ...]] = [()]
    scores = torch.zeros(1, device=source.device)
    token = torch.tensor([[begin]], device=source.device)
    finished: list[Hypothesis] = []
    for length in range(1, max_length + 1):
        log_probs = model.step(token, state)[:, -1].log_softmax(dim=-1)
        totals = (scores[:, None] + log_probs).flatten()  # (beams * vocabulary,)
        count = min(beam_size, len(totals))
        best, places = totals.topk(count)
        rows, ids = places // log_probs.shape[1], places % log_probs.shape[1]
        extended = [
            Hypothesis((*prefixes[row], token_id), score)
            for row, token_id, score in zip(
                rows.tolist(), ids.tolist(), best.tolist(), strict=True
            )
        ]
        over = [h.tokens[-1] == end or length == max_length for h in extended]
        finished += [h for h, is_over in zip(extended, over, strict=True) if is_over]
        finished = sorted(finished, key=lambda h: -h.log_probability)[:beam_size]
        alive = [i for i, is_over in enumerate(over) if not is_over]
        # A longer sequence is never likelier than its prefix.
        full = len(finished) == beam_size
        if not alive or (full and finished[-1].log_probability >= best[alive[0]]):
            break
        keep = torch.tensor(alive, device=source.device)
        state = state.select(rows[keep])
        prefixes = [extended[i].tokens for i in alive]
        scores, token = best[keep], ids[keep, None]
    return finished


@torch.no_grad()
def every_sequence(
    model: Seq2Seq, source: Tensor, *, begin: int, end: int, max_length: int
) -> list[Hypothesis]:
    """All sequences up to max_length with their probability, likeliest first.

    Each is scored by teacher forcing, without cache or beam: the referee of
    `beam_search`, for vocabularies that fit on one hand. Arguments as there.
    """
    _check_source(source)
    _check(max_length=max_length)
    vocabulary = range(model.embedding.num_embeddings)
    complete: list[tuple[int, ...]] = []
    open_: list[tuple[int, ...]] = [()]
    for length in range(1, max_length + 1):
        longer = [(*prefix, token) for prefix in open_ for token in vocabulary]
        over = [
            tokens for tokens in longer if tokens[-1] == end or length == max_length
        ]
        complete += over
        open_ = [t for t in longer if t[-1] != end] if length < max_length else []
    scored = []
    for length in range(1, max_length + 1):
        rows = [tokens for tokens in complete if len(tokens) == length]
        if not rows:
            continue
        target = torch.tensor(rows, device=source.device)  # (rows, length)
        logits = model(source.expand(len(rows), -1), shift_right(target, begin))
        log_probs = logits.log_softmax(dim=-1).gather(2, target[..., None])
        totals = log_probs.sum(dim=(1, 2)).tolist()
        scored += [Hypothesis(*pair) for pair in zip(rows, totals, strict=True)]
    return sorted(scored, key=lambda h: -h.log_probability)


def _check_source(source: Tensor) -> None:
    if source.dim() != 2 or len(source) != 1:
        raise ValueError(
            f"source: got shape {tuple(source.shape)}; (1, source_length) is needed, "
            f"one sequence at a time"
        )


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: got {number}; at least 1 is needed")
