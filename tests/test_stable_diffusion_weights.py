"""stable_diffusion: folders of weights, as published, as older, and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig
from transformers import CLIPTextModel as TheirCLIPTextModel

from diffusion_peers import gap, their_text_encoder, their_unet, their_vae
from underhood.stable_diffusion import (
    AutoencoderKL,
    CLIPTextModel,
    UNet2DConditionModel,
    load_model,
    save_model,
    schedulers,
)
from underhood.stable_diffusion.folders import load_scheduler
from underhood.transformer.weights import WeightsError

FILE = "diffusion_pytorch_model.safetensors"
KEY = "encoder.mid_block.attentions.0.to_q.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An autoencoder, saved by diffusers."""
    their_vae().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize(
    ("ours", "make", "dtype"),
    [
        (AutoencoderKL, their_vae, torch.float32),
        (UNet2DConditionModel, their_unet, torch.float16),
        (CLIPTextModel, their_text_encoder, torch.bfloat16),
    ],
)
def test_folders_of_diffusers_and_transformers(ours, make, dtype, tmp_path) -> None:
    theirs = make().to(dtype)
    theirs.save_pretrained(tmp_path)
    model = load_model(ours, tmp_path)
    assert not model.training
    for key, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.float())
    save_model(model, tmp_path / "again")
    again = load_model(ours, tmp_path / "again")
    assert again.config == model.config
    assert not list((tmp_path / "again").glob("*.part"))


def test_older_attention_in_the_autoencoder(folder: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors, renamed = load_file(folder / FILE), {}
    for key, value in tensors.items():
        for new, name in old.items():
            if ".attentions." in key:
                key = key.replace(f".{new}.", f".{name}.")
        renamed[key] = value
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / FILE)
    model = load_model(AutoencoderKL, folder)
    assert torch.equal(model.state_dict()[KEY], tensors[KEY])


def test_older_text_encoder(tmp_path: Path) -> None:
    theirs = their_text_encoder()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    old = {f"text_model.{key}": value for key, value in bare.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, tmp_path / "model.safetensors")
    model = load_model(CLIPTextModel, tmp_path)
    ids = torch.randint(0, 49407, (1, 9))
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state
        assert gap(model(ids).last_hidden_state, expected) < 1e-5
    old["text_model.embeddings.position_ids"] = torch.arange(77).flip(0)[None]
    save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="position_ids: must be 0, 1, 2"):
        load_model(CLIPTextModel, tmp_path)


def test_variants(folder: Path) -> None:
    (folder / FILE).rename(folder / FILE.replace(".safe", ".fp16.safe"))
    load_model(AutoencoderKL, folder, variant="fp16")
    with pytest.raises(FileNotFoundError, match=r"no such file; there is .*fp16"):
        load_model(AutoencoderKL, folder)


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"missing {KEY}"),
        (lambda t: t.update(extra=torch.ones(1)), "no place in the model for extra"),
        (
            lambda t: t.update({KEY: torch.ones(3, 3)}),
            rf"{KEY}: shape \(3, 3\); the model needs \(32, 32\)",
        ),
        (lambda t: t[KEY].fill_(torch.nan), f"{KEY}: holds a value that is not finite"),
        (
            lambda t: t.update({KEY: t[KEY].long()}),
            f"{KEY}: torch.int64 is no floating",
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "integers"],
)
def test_tensors_that_do_not_fit(folder: Path, change, message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=message) as error:
        load_model(AutoencoderKL, folder)
    assert FILE in str(error.value)


def test_truncated_file(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    for length in (0, 5, 200, len(content) - 1):
        (folder / FILE).write_bytes(content[:length])
        with pytest.raises(WeightsError, match=f"{FILE}: damaged or cut short"):
            load_model(AutoencoderKL, folder)


class Bomb:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> tuple:
        return (Path("exploded").touch, ())


def test_pickles_are_not_opened(folder: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, folder / FILE)
    with pytest.raises(WeightsError, match=f"{FILE}: a pickle, not safetensors"):
        load_model(AutoencoderKL, folder)
    (folder / FILE).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"model\.bin: a pickle"):
        load_model(AutoencoderKL, folder)
    assert not Path("exploded").exists()


def test_a_length_that_begins_like_a_pickle(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].ljust(65536 + 640)
    length = len(header).to_bytes(8, "little")
    (folder / FILE).write_bytes(length + header + content[end:])
    assert length.startswith(b"\x80\x02")
    tensors = load_file(folder / FILE)
    model = load_model(AutoencoderKL, folder)
    assert torch.equal(model.state_dict()[KEY], tensors[KEY])


def test_several_files_are_refused(folder: Path) -> None:
    (folder / FILE).rename(folder / "part.txt")
    (folder / f"{FILE}.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="weights in several files"):
        load_model(AutoencoderKL, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", "config.json: not JSON"),
        ('{"act_fn": "relu"}', "config.json: act_fn: got 'relu'"),
        ('{"latent_channels": 0}', "config.json: latent_channels: got 0"),
        ('{"layers_per_block": 0}', "config.json: layers_per_block: got 0"),
        ('{"norm_num_groups": 3}', "norm_num_groups: got 3; it must divide"),
        ('{"colors": 3}', "config.json: colors: no entry that AutoencoderKL knows"),
    ],
)
def test_configurations_that_do_not_fit(folder, content, message) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_model(AutoencoderKL, folder)


def test_a_configuration_of_another_model_shows_in_the_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["block_out_channels"] = [16, 64]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="the model needs"):
        load_model(AutoencoderKL, folder)


@pytest.mark.parametrize("name", schedulers.__all__)
def test_what_a_sampler_without_entries_is(name: str, tmp_path: Path) -> None:
    """The same as in diffusers, though our own defaults are Stable Diffusion's."""
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": name}))
    ours, theirs = load_scheduler(tmp_path), getattr(diffusers, name)()
    found = ours.config | {"timestep_spacing": ours.spacing}
    shared = found.keys() & theirs.config.keys()
    assert len(shared) >= 8
    assert {key: found[key] for key in shared} == {
        key: theirs.config[key] for key in shared
    }


@pytest.mark.parametrize("model_class", [AutoencoderKL, UNet2DConditionModel])
def test_what_a_model_without_entries_is(model_class: type) -> None:
    with torch.device("meta"):
        ours = model_class.from_published({})
        theirs = getattr(diffusers, model_class.__name__)()
    shared = ours.config.keys() & theirs.config.keys()
    assert len(shared) >= 11
    for key in shared:
        # Lists and tuples are the same in a file.
        assert json.dumps(ours.config[key]) == json.dumps(theirs.config[key]), key
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


def test_what_a_text_encoder_without_entries_is(tmp_path: Path) -> None:
    theirs = TheirCLIPTextModel(CLIPTextConfig(vocab_size=50, num_hidden_layers=1))
    theirs.save_pretrained(tmp_path)
    few = {"vocab_size": 50, "num_hidden_layers": 1}  # older files hold what differs
    (tmp_path / "config.json").write_text(json.dumps(few))
    model = load_model(CLIPTextModel, tmp_path)
    ids = torch.tensor([[3, 1, 4, 1, 49]])
    assert (
        gap(model(ids).last_hidden_state, theirs.eval()(ids).last_hidden_state) < 1e-4
    )
