"""The whole model, its decoding, and the task of dates."""

import datetime
import inspect
import math
import random
import time
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from underhood.transformer import dates
from underhood.transformer.decoding import beam_search, every_sequence, greedy_decode
from underhood.transformer.model import count_parameters
from underhood.transformer.seq2seq import Seq2Seq, sequence_loss, shift_right
from underhood.transformer.training import (
    bucketed_batches,
    train,
    warmup_then_linear,
)


def small_model(seed=0, vocabulary=4, norm_first=False, spread=3.0):
    """A model with random weights that has strong opinions."""
    torch.manual_seed(seed)
    model = Seq2Seq(
        vocabulary, 8, 2, 2, 16, 0.0, norm_first=norm_first, max_length=16
    ).double()
    with torch.no_grad():
        model.embedding.weight.mul_(spread)
    return model.eval()


SOURCE = torch.tensor([[3, 1, 2, 3, 2], [2, 3, 2, 0, 0]])


@pytest.mark.parametrize("norm_first", [False, True])
def test_steps_equal_teacher_forcing(norm_first):
    model = small_model(1, norm_first=norm_first)
    target = torch.tensor([[1, 3, 2, 3, 1, 2], [1, 2, 2, 1, 3, 3]])
    at_once = model(SOURCE, target)
    for sizes in ([1] * 6, [2, 3, 1]):
        state = model.start(SOURCE)
        steps = [model.step(part, state) for part in target.split(sizes, 1)]
        assert (torch.cat(steps, 1) - at_once).abs().max() < 1e-12


def test_padding_changes_nothing():
    model = small_model(2)
    target = torch.tensor([[1, 3, 2]])
    alone = model(SOURCE[1:, :3], target)
    padded = model(SOURCE[1:], target)
    assert (alone - padded).abs().max() < 1e-12


def test_the_future_changes_nothing():
    model = small_model(3)
    target = torch.tensor([[1, 3, 2, 3]])
    changed = torch.tensor([[1, 3, 3, 2]])
    a, b = model(SOURCE[:1], target), model(SOURCE[:1], changed)
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.equal(a[:, 2:], b[:, 2:])


def test_embeddings_are_scaled_and_shared():
    model = Seq2Seq(50, 64, 4, 1, 128, 0.0)
    tokens = torch.tensor([[5, 7]])
    expected = model.embedding.weight[[5, 7]] * 8 + model.positions[:2]
    assert torch.allclose(model.embed(tokens)[0], expected)
    names = [name for name, p in model.named_parameters() if 50 in p.shape]
    assert names == ["embedding.weight"]
    core = count_parameters(model.transformer)
    assert count_parameters(model) == core + 50 * 64


def test_the_defaults_are_those_of_torch_and_of_the_paper():
    ours, theirs = (inspect.signature(k).parameters for k in (Seq2Seq, nn.Transformer))
    names = {"num_heads": "nhead", "num_layers": "num_encoder_layers"}
    for name in ("d_model", *names, "dim_feedforward", "dropout", "norm_first"):
        assert ours[name].default == theirs[names.get(name, name)].default


def test_greedy_takes_the_likeliest_token_of_each_prefix():
    """Against teacher forcing on the growing prefix: no cache, no step."""
    for seed in range(3):
        model = small_model(seed, vocabulary=5)
        found = greedy_decode(model, SOURCE, begin=1, end=2, max_length=7)
        for row in range(2):
            target = [1]
            while len(target) < 8 and target[-1] != 2:
                logits = model(SOURCE[row : row + 1], torch.tensor([target]))
                target.append(logits[0, -1].argmax().item())
            expected = target[1:] + [2] * (found.shape[1] - len(target) + 1)
            assert found[row].tolist() == expected


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), beam_size=st.integers(1, 4))
def test_beam_against_every_sequence(seed, beam_size):
    model = small_model(seed)
    options = {"begin": 1, "end": 2, "max_length": 3}
    referee = {
        h.tokens: h.log_probability
        for h in every_sequence(model, SOURCE[:1], **options)
    }
    assert math.fsum(map(math.exp, referee.values())) == pytest.approx(1)
    found = beam_search(model, SOURCE[:1], beam_size=beam_size, **options)
    for hypothesis in found:
        assert hypothesis.log_probability == pytest.approx(
            referee[hypothesis.tokens], abs=1e-9
        )
    scores = [h.log_probability for h in found]
    assert scores == sorted(scores, reverse=True)
    # As wide as there are prefixes: the beam cannot miss anything.
    best = beam_search(model, SOURCE[:1], beam_size=64, **options)[0]
    assert best.tokens == max(referee, key=referee.get)


def beam_by_the_definition(model, beam_size, max_length):
    """No cache, and no end before max_length."""
    alive, finished = [((), 0.0)], []
    for length in range(1, max_length + 1):
        read = torch.tensor([[1, *tokens] for tokens, _ in alive])
        logits = model(SOURCE[:1].expand(len(alive), -1), read)[:, -1]
        longer = [
            ((*tokens, token), score + step)
            for (tokens, score), row in zip(alive, logits.log_softmax(1), strict=True)
            for token, step in enumerate(row.tolist())
        ]
        alive = []
        for tokens, score in sorted(longer, key=lambda pair: -pair[1])[:beam_size]:
            over = tokens[-1] == 2 or length == max_length
            (finished if over else alive).append((tokens, score))
        if not alive:
            break
    return sorted(finished, key=lambda pair: -pair[1])[:beam_size]


def test_beam_stops_only_when_nothing_can_overtake():
    for seed, beam_size in product(range(8), (2, 3)):
        model = small_model(seed, vocabulary=5, spread=2.0)
        options = {"max_length": 5, "beam_size": beam_size}
        found = beam_search(model, SOURCE[:1], begin=1, end=2, **options)
        expected = beam_by_the_definition(model, **options)
        assert [h.tokens for h in found] == [tokens for tokens, _ in expected]


def test_a_beam_of_one_is_greedy_and_a_wider_one_can_be_better():
    better = 0
    for seed in range(6):
        model = small_model(seed)
        options = {"begin": 1, "end": 2, "max_length": 5}
        (one, *_) = beam_search(model, SOURCE[:1], beam_size=1, **options)
        greedy = greedy_decode(model, SOURCE[:1], **options)[0].tolist()
        assert list(one.tokens) == greedy
        (four, *_) = beam_search(model, SOURCE[:1], beam_size=4, **options)
        better += four.log_probability > one.log_probability + 1e-9
    assert better > 0


def test_shift_and_loss():
    target = torch.tensor([[5, 6, 2], [7, 2, 0]])
    assert shift_right(target, begin=1).tolist() == [[1, 5, 6], [1, 7, 2]]
    logits = torch.randn(2, 3, 9)
    real = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    expected = -sum(logits[b, t].log_softmax(0)[target[b, t]] for b, t in real) / 5
    assert sequence_loss(logits, target).item() == pytest.approx(expected.item())


def test_positions_past_the_table_are_refused():
    with pytest.raises(ValueError, match="position 16 is past max_length 16"):
        small_model()(torch.ones(1, 17, dtype=torch.long), SOURCE)


@pytest.mark.parametrize("options", [{"max_length": 0}, {"beam_size": 0}])
def test_decoding_checks_its_arguments(options):
    sizes = {"begin": 1, "end": 2, "max_length": 3, "beam_size": 2} | options
    with pytest.raises(ValueError, match="at least 1 is needed"):
        beam_search(small_model(), SOURCE[:1], **sizes)


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("search", [beam_search, every_sequence])
def test_searches_take_one_sequence(search, rows):
    options = {"beam_size": 2} if search is beam_search else {}
    with pytest.raises(ValueError, match=rf"source: got shape \({rows}, 5\)"):
        search(small_model(), SOURCE[:rows], begin=1, end=2, max_length=3, **options)


def test_greedy_takes_any_number_of_sequences_but_none():
    with pytest.raises(ValueError, match=r"source: got shape \(0, 5\)"):
        greedy_decode(small_model(), SOURCE[:0], begin=1, end=2, max_length=3)


PATTERNS = {
    "long": "%d %B %Y",
    "american": "%B %d, %Y",
    "short": "%d %b %Y",
    "weekday": "%A, %d %B %Y",
    "dots": "%d.%m.%Y",
    "slashes": "%m/%d/%Y",
    "log": "%d-%b-%y",
    "apostrophe": "%b %d '%y",
    "year first": "%Y %B %d",
}


@settings(max_examples=200, deadline=None)
@given(st.dates(dates.FIRST, dates.LAST), st.sampled_from(sorted(PATTERNS)))
def test_forms_are_read_back_by_strptime(date, form):
    written = dates.FORMS[form](date)
    assert time.strptime(written, PATTERNS[form])[:3] == date.timetuple()[:3]


def test_ordinals():
    ordinal = dates.FORMS["ordinal"]
    days = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th"}
    days |= {21: "21st", 22: "22nd", 23: "23rd", 30: "30th", 31: "31st"}
    for day, word in days.items():
        assert ordinal(datetime.date(1999, 1, day)) == f"the {word} of january 1999"


def test_what_is_held_out_is_never_drawn_for_training():
    rng = random.Random(0)
    years = set()
    for _, iso, form in dates.random_examples(rng, 3000):
        date = datetime.date.fromisoformat(iso)
        years.add(date.year)
        assert (date.month, date.day) != (2, 29)
        assert (date.month, form) not in ((5, "ordinal"), (10, "slashes"))
        assert date.toordinal() % 10
    assert years == set(range(1969, 2069)) - set(dates.HELD_OUT_YEARS)
    kinds = {"leap day", "year", "month and form", "date"}
    for kind in kinds:
        ((_, iso, form),) = dates.random_examples(rng, 1, kind)
        assert dates.held_out(datetime.date.fromisoformat(iso), form) == kind


def test_leap_days_are_those_of_years_that_were_seen():
    """A 29 February of a held-out year is hard for two reasons: it counts as a year."""
    assert dates.held_out(datetime.date(1988, 2, 29), "long") == "year"
    assert dates.held_out(datetime.date(1984, 2, 29), "long") == "leap day"


def test_encoding_is_reversible():
    texts = [text for text, _, _ in dates.random_examples(random.Random(1), 200)]
    ids = dates.encode(texts, dates.SOURCE_LENGTH)
    assert dates.decode(ids) == texts
    assert ids.shape == (200, dates.SOURCE_LENGTH)
    assert ids.max() < dates.VOCABULARY_SIZE
    with pytest.raises(ValueError, match="not in CHARACTERS"):
        dates.encode(["3 März"])
    with pytest.raises(ValueError, match="length: got 3"):
        dates.encode(["1999"], 3)


def test_batches_hold_similar_lengths():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (500,), generator=generator)
    batches = bucketed_batches(lengths, 10, generator)
    spreads = [
        (lengths[rows].max() - lengths[rows].min()).item()
        for rows, _ in zip(batches, range(40), strict=False)
    ]
    assert sum(spreads) / len(spreads) < 6  # without buckets: about 24


def test_schedule_of_training():
    factors = [warmup_then_linear(step, 100, 10) for step in range(1, 101)]
    assert max(factors) == factors[9] == 1
    assert factors[4] == 0.5
    assert factors[-1] == pytest.approx(1 / 91)


def test_training_learns_to_reverse():
    torch.manual_seed(0)
    source = torch.randint(3, 9, (400, 3))
    target = torch.cat([source.flip(1), torch.full((400, 1), 2)], dim=1)
    model = Seq2Seq(9, 16, 2, 1, 32, 0.0, norm_first=True, max_length=8)
    options = {"steps": 200, "batch": 32, "warmup": 20, "learning_rate": 1e-2}
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    losses = train(model, source, target, begin=1, **options)
    hook.remove()
    assert rates[:2] == pytest.approx([0.0005, 0.001])  # 1/20 and 2/20 of the highest
    assert rates[-2:] == pytest.approx([0.02 / 181, 0.01 / 181])
    assert losses[0] > 1.5 and sum(losses[-10:]) / 10 < 0.2
    found = greedy_decode(model, source[:50], begin=1, end=2, max_length=4)
    assert (found == target[:50]).all(dim=1).float().mean() > 0.9
    with pytest.raises(ValueError, match="warmup: got 9"):
        train(model, source, target, begin=1, steps=9, warmup=9)
