"""WordPiece: from a text to the numbers that BERT reads.

Two steps. The text is cleaned and split at spaces, punctuation and Chinese
characters; then each word is cut from the left into the longest pieces that the
vocabulary has, where `##` marks a piece that continues a word.

Sources: Devlin et al., 2019, and the file `tokenization.py` of google-research/bert
(the cleaning, the cut, `##`). For pieces of words, Wu et al., 2016, section 4.1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class Encoded(NamedTuple):
    """A batch of token sequences; all three are (batch, length)."""

    input_ids: Tensor
    token_type_ids: Tensor  # 0: first text, 1: second text
    key_mask: Tensor  # bool, True = a real token, False = padding


class WordPiece:
    """A tokenizer with the vocabulary of a BERT.

    Args:
        vocabulary: token -> number; needs [PAD], [UNK], [CLS] and [SEP].
        lowercase: lower-case the text and strip its accents ("uncased" models).
        max_word_length: a longer word, in characters, becomes [UNK].

    The text "[SEP]" in an input is ordinary text: three pieces, never the separator.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        *,
        lowercase: bool = True,
        max_word_length: int = 100,
    ) -> None:
        missing = [token for token in SPECIAL if token not in vocabulary]
        if missing:
            raise ValueError(f"vocabulary: {', '.join(missing)} missing")
        if max_word_length < 1:
            raise ValueError(
                f"max_word_length: got {max_word_length}; it must be at least 1"
            )
        self.vocabulary = dict(vocabulary)
        self.tokens = {number: token for token, number in self.vocabulary.items()}
        self.lowercase, self.max_word_length = lowercase, max_word_length

    @classmethod
    def from_file(cls, path: Path | str, *, lowercase: bool = True) -> WordPiece:
        """Read a `vocab.txt`: one token per line, its number is the number of the line.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not UTF-8, repeats a token, or lacks a special one.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8: {error}") from error
        lines = text.removesuffix("\n").split("\n")
        vocabulary: dict[str, int] = {}
        for number, line in enumerate(lines):
            token = line.removesuffix("\r")
            if token in vocabulary:
                raise ValueError(
                    f"{path}: {token!r} on line {vocabulary[token] + 1} and again on "
                    f"line {number + 1}"
                )
            vocabulary[token] = number
        try:
            return cls(vocabulary, lowercase=lowercase)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without [CLS] and [SEP]."""
        words = split_words(normalize(text, lowercase=self.lowercase))
        return [piece for word in words for piece in self.split_word(word)]

    def split_word(self, word: str) -> list[str]:
        """The longest piece that fits, again and again; [UNK] if one is missing."""
        if len(word) > self.max_word_length:
            return ["[UNK]"]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)  # longest first
            candidates = ((end, prefix + word[start:end]) for end in ends)
            found = next((c for c in candidates if c[1] in self.vocabulary), None)
            if found is None:
                return ["[UNK]"]
            start, piece = found
            pieces.append(piece)
        return pieces

    def encode(
        self, text: str, pair: str | None = None, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

        Args:
            max_length: a longer sequence is cut, and still ends with [SEP]; only
                without `pair`.

        Returns:
            The numbers of the tokens, and 0 or 1 for each: first or second text.
        """
        pieces = ["[CLS]", *self.tokenize(text)]
        if max_length is not None:
            if pair is not None or max_length < 2:
                raise ValueError(
                    f"max_length: got {max_length}; allowed are 2 and more, and None "
                    f"with a pair"
                )
            pieces = pieces[: max_length - 1]
        pieces.append("[SEP]")
        types = [0] * len(pieces)
        if pair is not None:
            second = [*self.tokenize(pair), "[SEP]"]
            pieces += second
            types += [1] * len(second)
        return [self.vocabulary[piece] for piece in pieces], types

    def batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> Encoded:
        """Encode texts and pad them on the right to the longest.

        Args:
            texts: at least one. pairs: as many, or None. max_length: see `encode`.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts: got {texts!r}; a list of texts is needed")
        seconds = [None] * len(texts) if pairs is None else list(pairs)
        if len(seconds) != len(texts):
            raise ValueError(f"pairs: got {len(seconds)} for {len(texts)} texts")
        rows = [
            self.encode(text, pair, max_length)
            for text, pair in zip(texts, seconds, strict=True)
        ]
        length = max(len(ids) for ids, _ in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.vocabulary["[PAD]"])
        token_type_ids = torch.zeros(shape, dtype=torch.int64)
        key_mask = torch.zeros(shape, dtype=torch.bool)
        for row, (ids, types) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            token_type_ids[row, : len(ids)] = torch.tensor(types)
            key_mask[row, : len(ids)] = True
        return Encoded(input_ids, token_type_ids, key_mask)

    def decode(self, input_ids: Sequence[int]) -> list[str]:
        """The tokens with these numbers."""
        return [self.tokens[int(number)] for number in input_ids]


def normalize(text: str, *, lowercase: bool = True) -> str:
    """Drop control characters, free Chinese characters, strip accents, lower-case."""
    cleaned = []
    for character in text:
        if _is_control(character):
            continue
        if character.isspace():
            cleaned.append(" ")
        elif _is_chinese(character):
            cleaned.append(f" {character} ")
        else:
            cleaned.append(character)
    text = "".join(cleaned)
    if not lowercase:
        return text
    # An accent is a character of its own after NFD: é -> e + U+0301, category Mn.
    marked = unicodedata.normalize("NFD", text)
    plain = (c for c in marked if unicodedata.category(c) != "Mn")
    # One character at a time: "ΟΔΟΣ".lower() would end in ς, which looks at its place.
    return "".join(character.lower() for character in plain)


def split_words(text: str) -> list[str]:
    """Split at white space, and make each punctuation mark a word of its own."""
    words: list[str] = []
    for chunk in text.split():
        start_new = True
        for character in chunk:
            alone = _is_punctuation(character)
            if alone or start_new:
                words.append(character)
            else:
                words[-1] += character
            start_new = alone
    return words


def _is_control(character: str) -> bool:
    if character in "\t\n\r":
        return False
    if character in "\0\ufffd":
        return True
    # Not Cn, "unassigned": a character that only this Python does not know yet.
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")


def _is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in CHINESE)


def _is_punctuation(character: str) -> bool:
    # ASCII symbols such as $ and ^ count too, though Unicode calls them symbols.
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character)[0] == "P"
