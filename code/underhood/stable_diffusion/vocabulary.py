"""Learn the merges of a byte-pair encoding from a few texts.

Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
2016, algorithm 1; letters and end of word as in CLIP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from underhood.stable_diffusion.tokenizer import (
    END_OF_WORD,
    Pair,
    byte_letters,
    clean,
    merge_pair,
    words,
)


def learn_merges(texts: Iterable[str], limit: int, least: int = 2) -> list[Pair]:
    """The pairs to merge, the most frequent first, each counted after those before.

    Of equally frequent pairs the first in the order of their letters is taken.

    Args:
        limit: merges at most. least: how often a pair must occur to be merged.

    >>> learn_merges(["red red rope"], limit=2)
    [('e', 'd</w>'), ('r', 'ed</w>')]
    """
    letters = byte_letters()
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in words(clean(text)):
            pieces = [letters[byte] for byte in word.encode("utf-8")]
            pieces[-1] += END_OF_WORD
            counts[tuple(pieces)] += 1
    pairs: Counter[Pair] = Counter()
    for pieces_of_word, count in counts.items():
        for pair in pairwise(pieces_of_word):
            pairs[pair] += count
    merges: list[Pair] = []
    while pairs and len(merges) < limit:
        most = max(pairs.values())
        if most < least:
            break
        best = min(pair for pair, count in pairs.items() if count == most)
        merges.append(best)
        # Only words with both halves of the pair in them can change.
        for old in [w for w in counts if best[0] in w and best[1] in w]:
            count, new = counts.pop(old), tuple(merge_pair(list(old), best))
            counts[new] += count
            for pair in pairwise(old):
                pairs[pair] -= count
            for pair in pairwise(new):
                pairs[pair] += count
    return merges
