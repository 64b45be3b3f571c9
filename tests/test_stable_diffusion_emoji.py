"""The text-to-emoji model: its data, its training, its judges, and the model itself."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from underhood.stable_diffusion import data, evaluate, train
from underhood.stable_diffusion import emoji as model
from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.blocks import ResnetBlock2D
from underhood.stable_diffusion.losses import (
    edges,
    kl_divergence,
    reconstruction_loss,
)
from underhood.stable_diffusion.objectives import (
    AutoencoderObjective,
    DiffusionObjective,
)
from underhood.stable_diffusion.schedulers import DDIMScheduler
from underhood.stable_diffusion.state import read_tensors, write_tensors
from underhood.stable_diffusion.trainer import (
    Objective,
    Place,
    Plan,
    Run,
    find_place,
    fit,
    rows_of_step,
    update_average,
)
from underhood.stable_diffusion.vocabulary import learn_merges


@pytest.fixture(scope="module")
def emoji():
    return data.load()


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def bytes_like(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


# --- data ---------------------------------------------------------------------------


def test_every_caption_is_a_name_of_unicode(emoji):
    assert len(emoji) == len(set(emoji.captions)) == 1405
    for caption in emoji.captions:
        character = unicodedata.lookup(caption.upper())
        assert unicodedata.name(character).lower() == caption


def test_the_pictures_are_in_the_order_of_their_code_points(emoji):
    codes = [ord(unicodedata.lookup(caption.upper())) for caption in emoji.captions]
    assert codes == sorted(codes)


def test_pictures_show_what_their_captions_say(emoji):
    """Colors at the center, by eye."""
    for caption, (red, green, blue) in {
        "large green circle": (124, 179, 66),
        "large brown square": (176, 106, 81),
        "tomato": (239, 53, 44),
        "black medium square": (62, 66, 69),
    }.items():
        center = emoji.images[emoji.find(caption), :, 30:34, 30:34].float().mean((1, 2))
        assert (center - torch.tensor([red, green, blue])).abs().max() < 25, caption


def test_the_font_draws_the_pictures_again(emoji):
    try:
        path = data.find_font()
    except FileNotFoundError:
        pytest.skip("Noto Color Emoji is not installed")
    font = data.open_font(path)
    for caption in ("snowman", "grinning face", "books", "large blue circle"):
        drawn = data.draw_character(font, unicodedata.lookup(caption.upper()))
        pixels = torch.from_numpy(np.array(drawn)).permute(2, 0, 1)
        kept = emoji.images[emoji.find(caption)]
        assert (pixels - kept.float()).abs().mean() < 3, caption
    assert data.draw_character(font, "x") is None  # a letter has no picture


def test_held_out_combinations_are_not_trained_on_but_their_parts_are(emoji):
    captions = [emoji.captions[row] for row in emoji.training()]
    assert len(captions) == 1405 - 7
    assert not set(captions) & set(data.HELD_OUT)
    assert set(data.HELD_OUT) <= set(emoji.captions)
    grid = {
        pattern.format(color): (color, shape)
        for shape, pattern in data.SHAPES.items()
        for color in data.COLORS
    }
    for caption in data.HELD_OUT:
        color, shape = grid[caption]
        seen = [grid[known] for known in captions if known in grid]
        assert sum(c == color for c, _ in seen) >= 1
        assert sum(s == shape for _, s in seen) >= 2


def test_what_is_saved_is_loaded(tmp_path):
    images = bytes_like(40, 3, 64, 64)
    captions = [f"picture {i}" for i in range(39)] + ["blue book"]
    data.save(captions, images, tmp_path)
    loaded = data.load(tmp_path)
    assert torch.equal(loaded.images, images)
    assert loaded.captions == tuple(captions)
    assert loaded.training().tolist() == list(range(39))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "captions.txt",
        "emoji.png",
    ]
    (tmp_path / "captions.txt").write_text("one\n" * 100)
    with pytest.raises(ValueError, match=r"emoji.png: 2432 × 128 pixels; 100 captions"):
        data.load(tmp_path)


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5)
    assert data.to_bytes(values).flatten().tolist() == [0, 0, 128, 255, 255]


def test_a_missing_font_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        data.find_font(tmp_path / "none.ttf")
    monkeypatch.setattr(data, "FONT_FOLDERS", (str(tmp_path),))
    with pytest.raises(FileNotFoundError, match="apt install fonts-noto-color-emoji"):
        data.find_font()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / data.FONT_NAME).write_bytes(b"no font")
    assert data.find_font() == tmp_path / "deep" / data.FONT_NAME
    with pytest.raises(ValueError, match="no pictures of size 109"):
        data.open_font(data.find_font())


def test_the_command_renders_what_has_a_name_and_a_picture(
    tmp_path, monkeypatch, capsys
):
    colors = {"☃": (10, 20, 30), "😀": (40, 50, 60), "\x85": (70, 80, 90)}

    def draw(font, character):
        color = colors.get(character)  # the last one is a control, without a name
        return color and Image.new("RGB", (64, 64), color)

    monkeypatch.setattr(data, "find_font", lambda path: path)
    opened = []
    monkeypatch.setattr(data, "open_font", opened.append)
    monkeypatch.setattr(data, "draw_character", draw)
    data.main(["--font=some.ttf", f"--folder={tmp_path}"])
    assert opened == [Path("some.ttf")]
    assert capsys.readouterr().out == f"2 emoji in {tmp_path}\n"
    rendered = data.load(tmp_path)
    assert rendered.captions == ("snowman", "grinning face")
    assert rendered.images[:, :, 5, 7].tolist() == [[10, 20, 30], [40, 50, 60]]
    colors.clear()
    with pytest.raises(ValueError, match=r"some.ttf holds no picture"):
        data.render("some.ttf")


def test_a_sheet_by_hand():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1)
    pixels = np.asarray(data.sheet(images.expand(3, 3, 2, 1), columns=2, gap=1))
    pair, white, one = [10, 255, 20], [255, 255, 255], [30, 255, 255]
    for channel in range(3):
        assert pixels[:, :, channel].tolist() == [pair, pair, white, one, one]


# --- losses -------------------------------------------------------------------------


def test_reconstruction_loss_by_hand():
    images = torch.zeros(1, 1, 8, 8)
    decoded = images.clone()
    decoded[0, 0, 0, 1] = 1.0
    # 1 of 64 pixels is off by 1; 1 of 16 blocks by 1/4, 1 of 4 by 1/16, the one of 8 by
    # 8 by 1/64. Of 56 differences down 1 is, of 56 to the right 2 are.
    wanted = 2 / 64 + 3 / 64 + 0.5 * (1 + 2) / 56
    assert reconstruction_loss(decoded, images).item() == pytest.approx(wanted)


def test_edges_are_those_of_numpy():
    images = uniform(2, 3, 5, 7)
    down, right = edges(images)
    assert torch.equal(down, torch.diff(images, dim=2))
    assert torch.equal(right, torch.diff(images, dim=3))


def test_kl_divergence_is_that_of_torch_distributions():
    mean, logvar = uniform(3, 4, 2, 2), uniform(3, 4, 2, 2, seed=1)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(
        normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)
    )
    assert kl_divergence(mean, logvar).item() == pytest.approx(
        wanted.flatten(1).sum(1).mean().item(), rel=1e-5
    )


# --- vocabulary ---------------------------------------------------------------------


def test_merges_of_the_example_of_the_paper():
    """Sennrich et al. 2016, algorithm 1: low, lower, newest and widest."""
    text = " ".join(["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3)
    merges = learn_merges([text], limit=3)
    assert merges == [("e", "s"), ("es", "t</w>"), ("l", "o")]


def test_merges_stop_at_pairs_that_occur_once():
    assert learn_merges(["abc", "ab"], limit=10) == []
    assert learn_merges(["ab", "ab"], limit=10) == [("a", "b</w>")]


# --- training loop ------------------------------------------------------------------


class Line(Objective):
    """y = w x + b, learned from noisy points."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.rows = torch.arange(2, 12)
        self.register_buffer("points", uniform(12, 3), persistent=False)

    def draw(self, batch, generator):
        return (0.1 * torch.randn(batch, generator=generator),)

    def forward(self, rows, noise):
        x = self.points[rows]
        wanted = x.sum(1) + 2 + noise
        return (self.layer(x)[:, 0] - wanted).square().mean()


def line():
    torch.manual_seed(1)
    return Line()


PLAN = Plan(steps=30, batch=4, learning_rate=0.05, warmup=5, save_every=10)


def test_training_finds_the_line(tmp_path):
    objective = line()
    plan = Plan(
        steps=120, batch=8, learning_rate=0.1, warmup=5, decay=0.9, save_every=40
    )
    average = fit(objective, plan, Place(), tmp_path / "line.safetensors")
    assert objective.layer.bias.item() == pytest.approx(2.0, abs=0.1)
    weight = average.layer.weight.flatten()
    torch.testing.assert_close(weight, torch.ones(3), atol=0.2, rtol=0)
    header = read_tensors(tmp_path / "line.safetensors")[1]
    assert header["step"] == 120
    assert [entry["step"] for entry in header["log"]] == [40, 80, 120]
    assert header["log"][-1]["loss"] < 0.02 < header["log"][0]["loss"]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = fit(line(), PLAN, Place(), tmp_path / "whole.safetensors")

    class Stop(Exception):
        pass

    def stop(average, step):
        if step == 20:
            raise Stop

    path = tmp_path / "parts.safetensors"
    with pytest.raises(Stop):
        fit(line(), PLAN, Place(), path, stop)
    torch.manual_seed(99)  # new weights, which the file must replace
    parts = fit(Line(), PLAN, Place(), path)  # and the last steps
    assert torch.equal(parts.layer.weight, whole.layer.weight)
    assert (
        read_tensors(path)[1]["log"]
        == read_tensors(tmp_path / "whole.safetensors")[1]["log"]
    )


class Blur(Objective):
    """A convolution in channels_last, as the networks are in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.rows = torch.arange(12)
        self.register_buffer("images", uniform(12, 3, 6, 6), persistent=False)

    def draw(self, batch, generator):
        return (torch.randn(batch, 4, 4, 4, generator=generator),)

    def forward(self, rows, noise):
        return (self.layer(self.images[rows]) - noise).square().mean()


def test_a_run_goes_on_with_the_moments_laid_out_like_the_weights(tmp_path):
    """The fused step of Adam pairs them by their place in memory."""
    torch.manual_seed(1)
    whole = Run(Blur(), PLAN, Place(), tmp_path / "whole.safetensors")
    torch.manual_seed(1)
    first = Run(Blur(), PLAN, Place(), tmp_path / "parts.safetensors")
    losses = [first.train_step() for _ in range(10)]
    first.save(torch.stack(losses).mean())
    second = Run(Blur(), PLAN, Place(), tmp_path / "parts.safetensors")
    weight = second.objective.layer.weight
    for name in ("exp_avg", "exp_avg_sq"):
        assert second.optimizer.state[weight][name].stride() == weight.stride()
    for _ in range(10):
        second.train_step()
    for _ in range(20):
        whole.train_step()
    assert torch.equal(weight, whole.objective.layer.weight)


def test_the_log_holds_means_since_the_last_save(tmp_path):
    def log(name, steps, save_every):
        plan = dataclasses.replace(PLAN, steps=steps, save_every=save_every)
        fit(line(), plan, Place(), tmp_path / name)
        entries = read_tensors(tmp_path / name)[1]["log"]
        return [e["step"] for e in entries], [e["loss"] for e in entries]

    log("seldom", 15, 10)
    shutil.copy(tmp_path / "seldom", tmp_path / "often")
    steps, means = log("seldom", 30, 10)
    assert steps == [10, 15, 20, 30]
    steps, losses = log("often", 30, 1)
    assert steps == [10, 15, *range(16, 31)]
    wanted = [sum(losses[2:7]) / 5, sum(losses[7:17]) / 10]
    assert means[2:] == pytest.approx(wanted, abs=2e-5)


def test_seconds_are_counted_on(tmp_path):
    plan = Plan(steps=2, batch=2, learning_rate=0.1)
    clock = mock.Mock(side_effect=[100.0, 107.0, 500.0, 503.0])
    path = tmp_path / "line.safetensors"
    with mock.patch("underhood.stable_diffusion.trainer.perf_counter", clock):
        for steps, seconds in ((2, 7.0), (4, 10.0)):
            fit(line(), dataclasses.replace(plan, steps=steps), Place(), path)
            assert read_tensors(path)[1]["seconds"] == seconds


def test_gradients_are_clipped_to_norm_1(tmp_path):
    objective = line()
    nn.init.constant_(objective.layer.bias, 1000.0)
    Run(objective, PLAN, Place(), tmp_path / "line.safetensors").train_step()
    gradients = [parameter.grad.flatten() for parameter in objective.parameters()]
    assert torch.cat(gradients).norm().item() == pytest.approx(1, rel=1e-4)


def test_each_epoch_sees_every_row_once():
    rows = torch.arange(5, 12)
    seen = torch.cat([rows_of_step(rows, step, 4, seed=3) for step in range(14)])
    epochs = seen.view(8, 7)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == rows.tolist()
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 5
    assert not torch.equal(rows_of_step(rows, 0, 4, 3), rows_of_step(rows, 0, 4, 4))


def test_learning_rate_rises_stays_and_falls():
    plan = Plan(steps=100, batch=1, learning_rate=2.0, warmup=10, cooldown=0.2)
    assert plan.rate(0) == pytest.approx(0.2)
    assert plan.rate(9) == plan.rate(50) == plan.rate(80) == 2.0
    assert plan.rate(90) == pytest.approx(1.0)
    assert plan.rate(99) == pytest.approx(0.1)
    level = Plan(steps=3, batch=1, learning_rate=2.0, warmup=0, cooldown=0.0)
    assert [level.rate(step) for step in range(3)] == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="batch: got 0"):
        Plan(steps=1, batch=0, learning_rate=1.0)


def test_moving_average_by_hand():
    average, model = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(model.weight, 5.0)
    update_average(average, model, 0.25)
    assert average.weight.item() == 2.0


def tiny_run(folder, steps=4):
    """The command for training, on twelve pictures, with tiny networks."""
    whole = data.load()
    few = data.EmojiSet(whole.images[:12], whole.captions[:12], whole.held_out[:12])
    sizes = {
        "AUTOENCODER": {"latent_channels": 2, "block_out_channels": [4, 4, 8, 8],
                        "layers_per_block": 1, "norm_num_groups": 2, "sample_size": 64},
        "TEXT_ENCODER": model.TEXT_ENCODER | {"hidden_size": 8, "intermediate_size": 8},
        "UNET": model.UNET | {"in_channels": 2, "out_channels": 2,
                              "block_out_channels": [4, 8, 8], "norm_num_groups": 2,
                              "cross_attention_dim": 8, "attention_head_dim": 2},
        "MERGES": 5,
    }  # fmt: skip
    with (
        mock.patch.multiple(model, **sizes),
        mock.patch.object(train, "load", return_value=few),
    ):
        numbers = {"autoencoder-steps": steps, "diffusion-steps": steps}
        numbers |= {"autoencoder-batch": 4, "diffusion-batch": 4}
        options = [f"--{name}={number}" for name, number in numbers.items()]
        train.main([f"--folder={folder}", *options])


def test_one_command_trains_saves_and_goes_on(tmp_path):
    spreads = []

    class Spy(DiffusionObjective):
        def __init__(self, unet, text_encoder, scheduler, latents, *more):
            spreads.append(latents.std().item())
            super().__init__(unet, text_encoder, scheduler, latents, *more)

    with mock.patch.object(train, "DiffusionObjective", Spy):
        tiny_run(tmp_path)
    assert spreads == pytest.approx([1], rel=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "autoencoder.png", "autoencoder.safetensors",
        "diffusion.png", "diffusion.safetensors", "model",
    ]  # fmt: skip
    pipeline = model.load(tmp_path / "model")
    picture = model.paint(pipeline, ["snowman", "asterisk"], steps=2)
    assert picture.shape == (2, 3, 64, 64) and picture.dtype == torch.uint8
    images = data.load().scaled()[:12]
    latents = pipeline.vae.encode(images).mode() * pipeline.vae.config["scaling_factor"]
    assert latents.std().item() == pytest.approx(1, rel=0.01)  # in half precision
    assert pipeline.scheduler.alphas_cumprod[-1] == 0
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert "--diffusion-steps=4" in record["command"]
    assert record["autoencoder"]["step"] == record["diffusion"]["step"] == 4
    assert record["diffusion"]["log"][-1]["step"] == 4
    before = (tmp_path / "diffusion.safetensors").stat().st_mtime_ns
    tiny_run(tmp_path)  # nothing is left to do
    assert (tmp_path / "diffusion.safetensors").stat().st_mtime_ns == before
    tiny_run(tmp_path, steps=5)
    assert read_tensors(tmp_path / "diffusion.safetensors")[1]["step"] == 5


def test_the_average_follows_the_weights_quickly_at_first(tmp_path):
    plan = dataclasses.replace(PLAN, steps=200, decay=0.9)
    run = Run(line(), plan, Place(), tmp_path / "run.safetensors")
    weights = [run.objective.layer.bias.item()]
    averages = [run.average.layer.bias.item()]
    for _ in range(120):
        run.train_step()
        weights.append(run.objective.layer.bias.item())
        averages.append(run.average.layer.bias.item())
    # 9/10 of the first, 9/11 of the second; from 9/90 on it stays at 1 - decay.
    for step, share in ((0, 9 / 10), (1, 9 / 11), (50, 9 / 60), (119, 0.1)):
        wanted = averages[step] + share * (weights[step + 1] - averages[step])
        assert averages[step + 1] == pytest.approx(wanted, abs=1e-6)


def test_two_processes_learn_what_one_does(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_stable_diffusion_emoji import tiny_run; tiny_run(sys.argv[2])\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program)]
    command += [str(Path(__file__).parent), str(tmp_path / "two")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(train.__file__).parents[2])  # the same code
    subprocess.run(command, check=True, env=environment, capture_output=True)
    tiny_run(tmp_path / "one")
    for part in ("autoencoder", "diffusion"):
        one, header = read_tensors(tmp_path / "one" / f"{part}.safetensors")
        two, other = read_tensors(tmp_path / "two" / f"{part}.safetensors")
        assert header["step"] == other["step"] == 4
        loss = header["log"][-1]["loss"]
        assert other["log"][-1]["loss"] == pytest.approx(loss, rel=1e-3)
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)
    with pytest.raises(
        ValueError, match="batch: got 5, no multiple of the 2 processes"
    ):
        fit(line(), Plan(1, 5, 0.1), Place(0, 2), tmp_path / "x.safetensors")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK: got 2; with 2 GPUs"):
        find_place()


def test_every_process_sends_its_own_share():
    batch = torch.arange(6)
    shares = [Place(rank, 3).send(batch).tolist() for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]
    assert Place(device=torch.device("meta")).send(batch).device.type == "meta"


class Waits(TorchDispatchMode):
    """Notes what mixes tensors of the device and of the CPU, and waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if torch.is_tensor(x)]
        waits = not (kwargs or {}).get("non_blocking", False)
        if waits and len({each.device.type for each in tensors}) > 1:
            self.found.append(str(func))
        return out


def test_a_loss_waits_for_nothing_from_the_cpu(emoji):
    """The meta device stands for a GPU: a copy that waits would empty its queue."""
    tokenizer = model.make_tokenizer(emoji.captions)
    objectives = (
        AutoencoderObjective(model.make_autoencoder(), emoji),
        DiffusionObjective(
            model.make_unet(),
            model.make_text_encoder(tokenizer),
            model.make_scheduler(),
            torch.zeros(len(emoji), 32, 8, 8),
            tokenizer(emoji.captions),
            tokenizer("")[0],
            emoji.training(),
        ),
    )
    place = Place(device=torch.device("meta"))
    for objective in objectives:
        objective.to("meta")
        random = objective.draw(4, torch.Generator())
        batch = [place.send(part) for part in (objective.rows[:4], *random)]
        with Waits() as waits:
            loss = objective(*batch)
        assert loss.device.type == "meta"
        assert waits.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_goes_on_from_a_cpu(tmp_path):
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        tiny_run(tmp_path)
    tiny_run(tmp_path, steps=6)
    tiny_run(tmp_path, steps=8)
    header = read_tensors(tmp_path / "diffusion.safetensors")[1]
    assert [entry["step"] for entry in header["log"]] == [4, 6, 8]


# --- files --------------------------------------------------------------------------


def test_damaged_and_foreign_states_are_refused(tmp_path):
    path = tmp_path / "line.safetensors"
    fit(line(), Plan(2, 2, 0.1), Place(), path)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"line.safetensors: cannot be read"):
        fit(line(), Plan(4, 2, 0.1), Place(), path)
    write_tensors(path, {"model.other": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ValueError, match="belongs to another model"):
        fit(line(), Plan(4, 2, 0.1), Place(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["line.safetensors"]


# --- objectives ---------------------------------------------------------------------


def tiny_autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=2, block_out_channels=(4, 8), layers_per_block=1,
        norm_num_groups=2, sample_size=64,
    )  # fmt: skip


def test_the_autoencoder_learns_a_picture(emoji, tmp_path):
    few = data.EmojiSet(emoji.images[:4], emoji.captions[:4], emoji.held_out[:4])
    objective = AutoencoderObjective(tiny_autoencoder(), few)
    before = evaluate_psnr(objective, few)
    fit(objective, Plan(25, 2, 5e-3, warmup=2), Place(), tmp_path / "a.safetensors")
    assert evaluate_psnr(objective, few) > before + 3


@torch.no_grad()
def evaluate_psnr(objective, few):
    decoded = data.to_bytes(objective.autoencoder(few.scaled()))
    return evaluate.psnr(decoded, few.images).mean().item()


def test_new_weights_let_through_what_they_get():
    torch.manual_seed(0)
    block = ResnetBlock2D(16, 24, time_channels=None, groups=2, eps=1e-6)
    model.let_through(block)
    x = torch.randn(4, 16, 32, 32)
    assert torch.equal(block(x), block.conv_shortcut(x))
    assert block.conv1(x).std().item() == pytest.approx(1, abs=0.1)
    assert block.conv_shortcut(x).std().item() == pytest.approx(1, abs=0.1)
    plain = nn.Conv2d(16, 24, 3, padding=1)
    assert plain(x).std() < 0.7  # with the weights that PyTorch gives
    posterior = model.make_autoencoder().encode(uniform(2, 3, 64, 64))
    assert posterior.mean.std() > 0.3
    torch.testing.assert_close(posterior.logvar, torch.full((2, 32, 8, 8), -4.0))
    said = model.make_unet()(uniform(1, 32, 8, 8), 10, uniform(1, 16, 128))
    assert said.abs().max() == 0


class Oracle(nn.Module):
    """A UNet that knows the latents, and predicts v from them and the noisy ones."""

    def __init__(self, clean, scheduler):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.clean, self.scheduler, self.states = clean, scheduler, None

    def forward(self, noisy, times, states):
        self.states = states
        ratio = self.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        noise = (noisy - ratio.sqrt() * self.clean) / (1 - ratio).sqrt()
        return ratio.sqrt() * noise - (1 - ratio).sqrt() * self.clean + self.weight


class Echo(nn.Module):
    """A text encoder that returns the tokens."""

    def forward(self, tokens):
        class Output:
            last_hidden_state = tokens

        return Output


def test_the_diffusion_loss_of_a_perfect_prediction_is_zero():
    latents = uniform(6, 2, 4, 4)
    captions, empty = torch.arange(18).view(6, 3), torch.tensor([50, 51, 52])
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    rows = torch.tensor([4, 1])
    oracle = Oracle(latents[rows], scheduler)
    objective = DiffusionObjective(
        oracle, Echo(), scheduler, latents, captions, empty, torch.arange(6)
    )
    noise, times, _ = objective.draw(2, torch.Generator().manual_seed(0))
    loss = objective(rows, noise, times, torch.tensor([True, False]))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert oracle.states.tolist() == [[50, 51, 52], [3, 4, 5]]
    nn.init.constant_(oracle.weight, 0.5)
    again = objective(rows, noise, times, torch.tensor([True, False]))
    assert again.item() == pytest.approx(0.25, rel=1e-3)


def test_one_caption_in_ten_is_dropped_and_times_are_uniform():
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    objective = DiffusionObjective(
        nn.Identity(), nn.Identity(), scheduler, uniform(2, 1, 1, 1),
        torch.zeros(2, 1), torch.zeros(1), torch.arange(2),
    )  # fmt: skip
    _, times, dropped = objective.draw(20_000, torch.Generator().manual_seed(0))
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)
    counts = times.bincount(minlength=1000)
    assert len(counts) == 1000
    assert counts[:500].sum().item() == pytest.approx(10_000, abs=300)
    assert counts.min() > 3


# --- judges -------------------------------------------------------------------------


def test_psnr_by_hand():
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    gray = torch.stack([black[0] + 1, black[0] + 255])
    assert evaluate.psnr(gray, black).tolist() == pytest.approx(
        [48.1308, 0.0], abs=1e-4
    )


def test_distances_one_by_one():
    left, right = bytes_like(3, 3, 4, 4), bytes_like(2, 3, 4, 4, seed=1)
    found = evaluate.distances(left, right)
    for i in range(3):
        for j in range(2):
            error = left[i].double() - right[j].double()
            assert found[i, j].item() == pytest.approx(
                error.pow(2).mean().sqrt().item()
            )


def test_top_k_and_memorized_by_hand():
    distance = torch.tensor([[1.0, 2.5, 9.0], [5.0, 1.0, 3.5], [3.0, 2.0, 7.0]])
    own = torch.tensor([0, 2, 2])
    assert evaluate.top_k(distance, own, 1) == pytest.approx(1 / 3)
    assert evaluate.top_k(distance, own, 2) == pytest.approx(2 / 3)
    assert evaluate.top_k(distance, own, 3) == 1.0
    assert evaluate.memorized(distance).tolist() == [False, True, False]


def test_the_judge_names_every_picture_of_the_grid(emoji):
    judge = evaluate.Judge(emoji)
    cells = 0
    for shape, pattern in data.SHAPES.items():
        for color in data.COLORS:
            row = emoji.find(pattern.format(color))
            if row is not None:
                assert judge(emoji.images[row]) == (color, shape)
                cells += 1
    assert cells == 23
    blank = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    assert judge(blank).shape in data.SHAPES


# --- the model that is kept ---------------------------------------------------------


@pytest.fixture(scope="module")
def kept():
    return model.load()


def test_the_kept_autoencoder_keeps_the_pictures(emoji, kept):
    some = emoji.images[emoji.training()[::40]]
    again = model.reconstruct(kept, some)
    assert evaluate.psnr(again, some).mean() > 30
    colors = (again.float() - some.float()).mean((2, 3)).abs().mean()
    assert colors < 1  # of 255, each color on average over a picture


def test_the_kept_model_paints_the_same_picture_from_the_same_seed(kept):
    first = model.paint(kept, ["grinning face", "snowman"], steps=3, seed=[4, 5])
    again = model.paint(kept, "snowman", steps=3, seed=[5])
    assert (first[1].int() - again[0].int()).abs().max() <= 1
    other = model.paint(kept, "snowman", steps=3, seed=[6])
    assert not torch.equal(again, other)


def test_the_kept_model_paints_what_it_was_asked_for(emoji, kept):
    """Of all emoji, the nearest is the prompt's own: by chance, for 1 in 1,405."""
    own = emoji.training()[7::60]  # others than those of the chapter
    painted = model.paint(kept, [emoji.captions[row] for row in own], steps=20)
    distance = evaluate.distances(painted, emoji.images)
    assert evaluate.top_k(distance, own, 1) > 0.9


def test_diffusers_paints_the_same(kept):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        model.MODEL, safety_checker=None, requires_safety_checker=False
    ).to(torch.float32)
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        "snowman", num_inference_steps=3, guidance_scale=3.0, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    found = model.paint(kept, "snowman", steps=3, seed=0)[0].permute(1, 2, 0)
    assert np.abs(found.numpy() - wanted * 255).max() < 2


def test_the_kept_files_are_small_and_say_where_they_are_from():
    files = [path for path in model.MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    record = json.loads((model.MODEL / "training.json").read_text())
    assert record["command"].startswith("python -m underhood.stable_diffusion.train")
    assert {"date", "device", "versions", "autoencoder", "diffusion"} <= set(record)
