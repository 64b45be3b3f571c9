"""The grapheme-to-phoneme weights: our GRU against plain numpy; bad files."""

import ast
import importlib.metadata
import string

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from underhood.transformer.g2p import GRAPHEMES, PHONEMES, RENAMED, GraphemeToPhoneme
from underhood.transformer.weights import WeightsError


def package_file(name):
    files = importlib.metadata.files("g2p_en")
    return next(f for f in files if f.name == name).locate()


CHECKPOINT = package_file("checkpoint20.npz")
ARRAYS = dict(np.load(CHECKPOINT, allow_pickle=False))


@pytest.fixture(scope="module")
def model():
    return GraphemeToPhoneme.from_npz(CHECKPOINT)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(x, h, part):
    """Cho et al., one gate after the other, in float64; rows: reset, update, new."""
    w, u = ARRAYS[f"{part}_w_ih"].astype(float), ARRAYS[f"{part}_w_hh"].astype(float)
    b, c = ARRAYS[f"{part}_b_ih"].astype(float), ARRAYS[f"{part}_b_hh"].astype(float)
    first, second, third = slice(0, 256), slice(256, 512), slice(512, 768)
    r = sigmoid(w[first] @ x + b[first] + u[first] @ h + c[first])
    z = sigmoid(w[second] @ x + b[second] + u[second] @ h + c[second])
    n = np.tanh(w[third] @ x + b[third] + r * (u[third] @ h + c[third]))
    return (1 - z) * n + z * h


def states_and_phonemes(word):
    """The state after the word, and the numbers of the phonemes, in numpy."""
    h = np.zeros(256)
    for letter in word:
        h = gru(ARRAYS["enc_emb"][3 + ord(letter) - ord("a")], h, "enc")
    h = encoded = gru(ARRAYS["enc_emb"][2], h, "enc")
    written, last = [], 2
    while len(written) < 20:
        h = gru(ARRAYS["dec_emb"][last], h, "dec")
        last = int((ARRAYS["fc_w"] @ h + ARRAYS["fc_b"]).argmax())
        if last == 3:
            break
        written.append(last)
    return encoded, written


@settings(max_examples=150, deadline=None)
@given(st.text(string.ascii_lowercase, min_size=1, max_size=15))
@example(string.ascii_lowercase)
def test_equals_numpy(model, word):
    encoded, written = states_and_phonemes(word)
    with torch.no_grad():
        found = model.encode(word)[0].double().numpy()
    assert np.abs(found - encoded).max() < 1e-5
    assert model.pronounce(word) == [PHONEMES[number] for number in written]


# From the CMU Pronouncing Dictionary, 0.7b.
DICTIONARY = {
    "kernel": "K ER1 N AH0 L",
    "attention": "AH0 T EH1 N SH AH0 N",
    "memory": "M EH1 M ER0 IY0",
    "diffusion": "D IH0 F Y UW1 ZH AH0 N",
    "gradient": "G R EY1 D IY0 AH0 N T",
    "cache": "K AE1 SH",
    "through": "TH R UW1",
    "thorough": "TH ER1 OW0",
    "Queue": "K Y UW1",
}


@pytest.mark.parametrize("word", DICTIONARY)
def test_speaks_as_the_dictionary(model, word):
    assert " ".join(model.pronounce(word)) == DICTIONARY[word]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in its source
def test_symbols_are_those_of_the_package():
    """Read from the source of `g2p_en`, which is parsed and not run."""
    tree = ast.parse(package_file("g2p.py").read_text(encoding="utf-8"))
    lists = [
        [item.value for item in node.elts]
        for node in ast.walk(tree)
        if isinstance(node, ast.List)
        and len(node.elts) > 2
        and all(isinstance(item, ast.Constant) for item in node.elts)
    ]
    sounds = next(found for found in lists if "AA0" in found)
    assert list(PHONEMES) == ["<pad>", "<unk>", "<s>", "</s>", *sounds]
    start = next(found for found in lists if found[-1] == "</s>")
    assert list(GRAPHEMES) == [*start, *string.ascii_lowercase]


@pytest.mark.parametrize("word", ["", "two words", "naïve", "don't", "x2"])
def test_words_that_are_refused(model, word):
    with pytest.raises(ValueError, match="word"):
        model.pronounce(word)


def test_length_is_bounded(model):
    assert model.pronounce("attention", max_length=3) == ["AH0", "T", "EH1"]
    assert len(model.pronounce("ba" * 40)) <= 20


def saved(tmp_path, change):
    arrays = dict(ARRAYS)
    change(arrays)
    path = tmp_path / "checkpoint.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("dec_w_hh"),
        lambda a: a.update(dec_w_hh=a["dec_w_hh"][:-3]),
        lambda a: a.update(dec_w_hh=a["dec_w_hh"].astype(int)),
        lambda a: a.update(dec_w_hh=a["dec_w_hh"] * np.nan),
        lambda a: a.update(dec_w_hh=np.array([{"an": "object"}], dtype=object)),
        lambda a: a.update(dec_w_hh=np.array(["text"])),
    ],
    ids=["missing", "shape", "dtype", "nan", "pickle", "text"],
)
def test_wrong_array(tmp_path, change):
    path = saved(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        GraphemeToPhoneme.from_npz(path)
    assert str(path) in str(caught.value) and "dec_w_hh" in str(caught.value)


class Trap:
    """A pickle of this creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_opened(tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    path = saved(tmp_path, lambda a: a.update(dec_w_hh=trap))
    with pytest.raises(WeightsError, match="dec_w_hh"):
        GraphemeToPhoneme.from_npz(path)
    assert not sprung.exists()


def test_extra_array(tmp_path):
    path = saved(tmp_path, lambda a: a.update(attention=np.ones(3)))
    with pytest.raises(WeightsError, match="attention"):
        GraphemeToPhoneme.from_npz(path)


def test_not_an_npz(tmp_path):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(FileNotFoundError):
        GraphemeToPhoneme.from_npz(path)
    for content in (b"", b"\x80\x04N.", b"PK\x03\x04 and so on"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"checkpoint\.npz"):
            GraphemeToPhoneme.from_npz(path)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, CHECKPOINT.stat().st_size - 1))
def test_truncated(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("npz") / "checkpoint.npz"
    path.write_bytes(CHECKPOINT.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"checkpoint\.npz"):
        GraphemeToPhoneme.from_npz(path)


@settings(max_examples=150, deadline=None)
@given(
    place=st.one_of(  # the first array's headers, anywhere, the directory at the end
        st.integers(0, 200),
        st.integers(0, CHECKPOINT.stat().st_size - 1),
        st.integers(-900, -1),
    ),
    bit=st.integers(0, 7),
)
def test_one_bit_flipped(tmp_path_factory, place, bit):
    """Refused, or the right weights: zip has checksums, but not of every field."""
    path = tmp_path_factory.mktemp("npz") / "checkpoint.npz"
    broken = bytearray(CHECKPOINT.read_bytes())
    broken[place] ^= 1 << bit
    path.write_bytes(broken)
    message, model = "", None
    try:
        model = GraphemeToPhoneme.from_npz(path)
    except WeightsError as error:
        message = str(error)
    if model is None:
        assert str(path) in message
    else:
        for key, tensor in model.state_dict().items():
            assert np.array_equal(tensor.numpy(), ARRAYS[RENAMED[key]])


def test_a_header_that_shifts_the_numbers_by_one(tmp_path):
    """numpy would start four bytes early and leave the last four, unseen by zip."""
    broken = bytearray(CHECKPOINT.read_bytes())
    broken[49] ^= 1 << 2  # the length of the first array's header
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(broken)
    with pytest.raises(WeightsError, match=r"checkpoint\.npz: enc_emb: .*checksum"):
        GraphemeToPhoneme.from_npz(path)
