"""stable_diffusion: CLIP's tokenizer against transformers', and its files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_peers import bpe_file, their_tokenizer
from underhood.stable_diffusion import CLIPTokenizer
from underhood.stable_diffusion.tokenizer import byte_letters, vocab_of

OURS = CLIPTokenizer.from_bpe_file(bpe_file())
THEIRS = their_tokenizer(OURS)
# Every character that this Python knows; its neighbor may be of a later Unicode.
KNOWN = [
    chr(i)
    for i in range(0x110000)
    if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")
]
TRICKY = [
    *"'s'tLL'RE \t\n\u00a0\u2028\x1c\x85éßΣσςİıſﬀ½²Ⅷ٣一かがが",
    "👩‍🚀",
    "e\u0301",
    "\u0315",
]


def theirs(text: str) -> list[int]:
    return THEIRS(text, add_special_tokens=False).input_ids


# techniques, section 7, point 6: transformers and OpenAI's simple_tokenizer agree
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello world!", [3306, 1002, 256]),
        (
            "A painting of a squirrel eating a burger",
            [320, 3086, 539, 320, 14004, 4371, 320, 6548],
        ),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("", []),
    ],
)
def test_published_numbers(text: str, expected: list[int]) -> None:
    assert OURS.encode(text) == expected
    row = OURS(text)[0].tolist()
    assert row[: len(expected) + 2] == [49406, *expected, 49407]
    assert row[len(expected) + 2 :] == [49407] * (75 - len(expected))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*KNOWN[:600], *TRICKY, *KNOWN[::97]]), max_size=30))
def test_any_text_equals_transformers(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert OURS.encode(text) == theirs(text)


def test_every_character_up_to_the_end_of_the_alphabets() -> None:
    """Beside a letter, a digit, and at the start of a word."""
    low = [c for c in KNOWN if ord(c) < 0x3100] + KNOWN[12_000::401]
    texts = [f"a{c}1 {c}s'{c}" for c in low]
    expected = THEIRS(texts, add_special_tokens=False).input_ids
    wrong = [
        c for c, t, e in zip(low, texts, expected, strict=True) if OURS.encode(t) != e
    ]
    assert wrong == []


def test_pieces_belong_to_the_caller() -> None:
    before = OURS.encode("owl")
    OURS.merge("owl").append("x</w>")
    assert OURS.encode("owl") == before
    assert OURS.merge("") == []


def test_special_tokens_in_a_text() -> None:
    text = "a <|endoftext|> cat<|startoftext|>"
    assert OURS.encode(text) == theirs(text) == [320, 49407, 2368, 49406]


def test_long_texts_lose_their_tail() -> None:
    text = "cat " * 100
    expected = THEIRS(text, truncation=True, max_length=77, padding="max_length")
    assert OURS(text)[0].tolist() == expected.input_ids
    assert len(OURS.encode(text)) == 100


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", categories=("Ll", "Nd", "Po")), max_size=20)
)
def test_decoding_brings_the_words_back(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    back = OURS.decode(OURS(text)[0]).replace(" ", "")
    assert back == "".join(c.lower() for c in composed)


def test_the_letters_of_the_bytes_are_256_and_print() -> None:
    letters = byte_letters()
    assert sorted(letters) == list(range(256))
    assert len(set(letters.values())) == 256
    assert all(c.isprintable() and not c.isspace() for c in letters.values())


def test_files_of_both_layouts(tmp_path: Path) -> None:
    OURS.save_pretrained(tmp_path / "old")  # vocab.json and merges.txt
    THEIRS.save_pretrained(tmp_path / "new")  # tokenizer.json
    for name in ("old", "new"):
        read = CLIPTokenizer.from_pretrained(tmp_path / name)
        assert read.vocab == OURS.vocab and read.ranks == OURS.ranks
    assert not (tmp_path / "old" / "vocab.part").exists()


def test_padding_of_the_second_generation(tmp_path: Path) -> None:
    """SD 2.x fills up with "!", number 0."""
    merges = list(OURS.ranks)
    padded = CLIPTokenizer(vocab_of(merges), merges, pad_token="!")
    padded.save_pretrained(tmp_path)
    read = CLIPTokenizer.from_pretrained(tmp_path)
    assert read("cat")[0].tolist() == [49406, 2368, 49407] + [0] * 74


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "{", "vocab.json: not JSON"),
        ("vocab.json", "[]", "vocab.json: a JSON object is needed"),
        ("vocab.json", '{"a": 1}', "vocab: has no token"),
        ("merges.txt", "#version: 0.2\na b c\n", "merges: got 'a b c'"),
        ("merges.txt", "q ✗\n", "vocab: has no token 'q✗'"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    small = CLIPTokenizer(vocab_of([]), [])
    small.save_pretrained(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        CLIPTokenizer.from_pretrained(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        CLIPTokenizer.from_pretrained(tmp_path)
