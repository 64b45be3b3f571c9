"""CLIP's tokenizer: byte-pair encoding of lower-cased text.

A text becomes words, a word becomes its UTF-8 bytes, and neighbors are merged in the
order in which the vocabulary learned them. Bytes are written as printable letters, so
that the vocabulary is a text file; the last piece of a word ends in `</w>`.

Sources: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
2016; what is computed matches `CLIPTokenizer` of transformers, which also decides what
OpenAI's first version did otherwise (it lower-cased a final Σ to ς).
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
Pair = tuple[str, str]


@cache
def byte_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of CLIP's vocabulary.

    Bytes that print stand for themselves; the others take the letters from U+0100 on.
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    letters = {byte: chr(byte) for byte in printing}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


def clean(text: str) -> str:
    """Composed, lower case, one blank between words."""
    text = unicodedata.normalize("NFC", text)
    # Letter by letter: a final Σ becomes σ, as in `tokenizers`.
    return "".join(" " if kind(c) == "space" else c.lower() for c in text)


def kind(character: str) -> str:
    """ "letter", "number", "space" or "other", by its Unicode category."""
    category = unicodedata.category(character)
    if category[0] == "Z" or character in "\t\n\v\f\r\x85":
        return "space"
    return {"L": "letter", "N": "number"}.get(category[0], "other")


def words(text: str) -> list[str]:
    """Runs of letters, single digits, runs of anything else, and `'s` and the like.

    >>> words("it's 42!")
    ['it', "'s", '4', '2', '!']
    """
    found, i = [], 0
    while i < len(text):
        what, end = kind(text[i]), i + 1
        contraction = text.startswith(CONTRACTIONS, i)
        if contraction:
            end = i + next(len(c) for c in CONTRACTIONS if text.startswith(c, i))
        elif what in ("letter", "other"):
            while end < len(text) and kind(text[end]) == what:
                end += 1
        if what != "space":
            found.append(text[i:end])
        i = end
    return found


class CLIPTokenizer:
    """Text to the numbers that the text encoder reads, and back.

    Args:
        vocab: token -> number, as in vocab.json.
        merges: pairs, the first learned first, as in merges.txt.
        pad_token: what fills a text up; SD 1.x repeats the end, SD 2.x uses "!".
        model_max_length: tokens of a filled-up text, start and end included.

    Raises:
        ValueError: a token is missing in the vocabulary.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[Pair],
        *,
        pad_token: str = END,
        model_max_length: int = 77,
    ) -> None:
        letters = byte_letters().values()
        needed = [START, END, pad_token, *letters, *(c + END_OF_WORD for c in letters)]
        for token in (*needed, *(first + second for first, second in merges)):
            if token not in vocab:
                raise ValueError(f"vocab: has no token {token!r}")
        if model_max_length < 2:
            raise ValueError(
                f"model_max_length: got {model_max_length}; start and end alone take 2"
            )
        self.vocab, self.tokens = dict(vocab), {i: t for t, i in vocab.items()}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.start, self.end = vocab[START], vocab[END]
        self.pad = vocab[pad_token]
        self.model_max_length = model_max_length
        self._pieces: dict[str, list[str]] = {}

    @classmethod
    def from_bpe_file(cls, path: Path | str, **options: Any) -> CLIPTokenizer:
        """From the merges that OpenAI published, `bpe_simple_vocab_16e6.txt.gz`."""
        lines = gzip.decompress(Path(path).read_bytes()).decode("utf-8").split("\n")
        merges = [pair_of(line) for line in lines[1 : 49_152 - 256 - 2 + 1]]
        return cls(vocab_of(merges), merges, **options)

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> CLIPTokenizer:
        """Read a Hugging Face folder: vocab.json and merges.txt, or tokenizer.json.

        Raises:
            FileNotFoundError: there is neither.
            ValueError: a file is not what its name says; the message names it.
        """
        directory = Path(directory)
        options: dict[str, Any] = {"pad_token": END, "model_max_length": 77}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (directory / name).is_file():
                stored = read_json(directory / name)
                options |= {k: stored[k] for k in options if stored.get(k)}
        if isinstance(options["pad_token"], dict):  # a token with its settings
            options["pad_token"] = options["pad_token"]["content"]
        whole = directory / "tokenizer.json"
        if not (directory / "vocab.json").is_file() and whole.is_file():
            model = read_json(whole)["model"]
            merges = [pair_of(pair) for pair in model["merges"]]
            return cls(model["vocab"], merges, **options)
        vocab = read_json(directory / "vocab.json")
        text = (directory / "merges.txt").read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if line.strip()]
        if lines and lines[0].startswith("#version"):
            lines = lines[1:]
        return cls(vocab, [pair_of(line) for line in lines], **options)

    def save_pretrained(self, directory: Path | str) -> None:
        """Write vocab.json, merges.txt and tokenizer_config.json."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "model_max_length": self.model_max_length,
            "pad_token": self.tokens[self.pad],
            "tokenizer_class": "CLIPTokenizer",
        }
        for name, content in (
            ("vocab.json", self.vocab),
            ("tokenizer_config.json", settings),
        ):
            text = json.dumps(content, ensure_ascii=False)
            (directory / name).write_text(text, encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.ranks), ""]
        (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8")

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text. The two special tokens in it stay whole."""
        pieces = []
        for part in re.split(f"({re.escape(START)}|{re.escape(END)})", text):
            if part in (START, END):
                pieces.append(part)
            else:
                for word in words(clean(part)):
                    pieces += self.merge(word)
        return pieces

    def merge(self, word: str) -> list[str]:
        """Byte-pair encoding of one word: merge the pair learned first, repeat."""
        if not word:
            return []
        if word not in self._pieces:
            pieces = [byte_letters()[byte] for byte in word.encode("utf-8")]
            pieces[-1] += END_OF_WORD
            never = len(self.ranks)
            while len(pieces) > 1:
                pairs = list(pairwise(pieces))
                best = min(pairs, key=lambda pair: self.ranks.get(pair, never))
                if best not in self.ranks:
                    break
                pieces = merge_pair(pieces, best)
            self._pieces[word] = pieces
        return list(self._pieces[word])

    def encode(self, text: str) -> list[int]:
        """The numbers of the pieces, without start, end and padding."""
        return [self.vocab[piece] for piece in self.tokenize(text)]

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Start, text, end, padding: (batch, model_max_length), int64.

        A text that is too long loses its tail; `encode` tells how long it is.
        """
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            numbers = self.encode(text)[: self.model_max_length - 2]
            row = [self.start, *numbers, self.end]
            rows.append(row + [self.pad] * (self.model_max_length - len(row)))
        return torch.tensor(rows)

    def decode(self, numbers: Sequence[int] | Tensor) -> str:
        """The text of some tokens, without start and end; invalid bytes become �."""
        codes = {letter: byte for byte, letter in byte_letters().items()}
        special = {self.start, self.end}
        pieces = [self.tokens[int(i)] for i in numbers if int(i) not in special]
        text = "".join(pieces).replace(END_OF_WORD, " ")
        raw = bytes(codes.get(letter, ord(" ")) for letter in text)
        return raw.decode("utf-8", errors="replace").strip()


def merge_pair(pieces: list[str], pair: Pair) -> list[str]:
    """Join every occurrence of a pair, from left to right."""
    merged, i = [], 0
    while i < len(pieces):
        if (*pieces[i : i + 2],) == pair:
            merged.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            merged.append(pieces[i])
            i += 1
    return merged


def pair_of(line: str | Sequence[str]) -> Pair:
    """ "t h" -> ("t", "h")."""
    pair = tuple(line.split(" ") if isinstance(line, str) else line)
    if len(pair) != 2:
        raise ValueError(f"merges: got {line!r}; two pieces are needed")
    return pair


def vocab_of(merges: Sequence[Pair]) -> dict[str, int]:
    """CLIP's numbering: letters, letters that end a word, merges, start, end."""
    letters = list(byte_letters().values())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    tokens += [first + second for first, second in merges]
    return {token: i for i, token in enumerate([*tokens, START, END])}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds something else.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: a JSON object is needed")
    return stored
