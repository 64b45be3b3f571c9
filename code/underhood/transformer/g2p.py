"""A trained encoder–decoder from before the Transformer: letters to phonemes.

The encoder, a GRU, reads a word letter by letter; its last state, 256 numbers, is all
that the decoder gets. The decoder, another GRU, writes phonemes until it writes `</s>`.

Weights: `checkpoint20.npz` of the PyPI package `g2p_en` (Park & Kim, 2019), trained on
the CMU Pronouncing Dictionary. A digit at the end of a vowel is its stress: 1 is
primary, 2 secondary, 0 none.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from torch import Tensor, nn

from underhood.transformer.recurrent import GRU, GRUCell
from underhood.transformer.weights import check_weights, read_npz

GRAPHEMES = ("<pad>", "<unk>", "</s>", *string.ascii_lowercase)
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
SOUNDS = [vowel + stress for vowel in VOWELS.split() for stress in "012"]
SOUNDS += [*CONSONANTS.split(), "UW"]  # UW without a stress: in the checkpoint
PHONEMES = ("<pad>", "<unk>", "<s>", "</s>", *sorted(SOUNDS))
START, STOP = PHONEMES.index("<s>"), PHONEMES.index("</s>")

# Our key -> key in the file.
RENAMED = {
    "graphemes.weight": "enc_emb",
    "encoder.weight_ih_l0": "enc_w_ih",
    "encoder.weight_hh_l0": "enc_w_hh",
    "encoder.bias_ih_l0": "enc_b_ih",
    "encoder.bias_hh_l0": "enc_b_hh",
    "phonemes.weight": "dec_emb",
    "decoder.weight_ih": "dec_w_ih",
    "decoder.weight_hh": "dec_w_hh",
    "decoder.bias_ih": "dec_b_ih",
    "decoder.bias_hh": "dec_b_hh",
    "output.weight": "fc_w",
    "output.bias": "fc_b",
}


class GraphemeToPhoneme(nn.Module):
    """Two GRUs and a linear layer.

    Args:
        hidden_size: size of both states and both embeddings.
    """

    def __init__(self, hidden_size: int = 256) -> None:
        super().__init__()
        self.graphemes = nn.Embedding(len(GRAPHEMES), hidden_size)
        self.encoder = GRU(hidden_size, hidden_size)
        self.phonemes = nn.Embedding(len(PHONEMES), hidden_size)
        self.decoder = GRUCell(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, len(PHONEMES))

    @classmethod
    def from_npz(cls, path: Path | str) -> GraphemeToPhoneme:
        """Read the published `checkpoint20.npz`. Nothing is unpickled.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: the file is corrupt or does not fit; names file and key.
        """
        model = cls()
        found = read_npz(path)
        ours = model.state_dict()
        check_weights(path, found, {RENAMED[key]: ours[key] for key in ours})
        weights = {key: found[RENAMED[key]] for key in ours}
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def encode(self, word: str) -> Tensor:
        """The state after the last letter: (1, hidden_size).

        Raises:
            ValueError: the word is empty or has anything but the letters a to z.
        """
        letters = word.lower()
        if not letters or not set(letters) <= set(string.ascii_lowercase):
            raise ValueError(f"word: got {word!r}; the letters a to z are needed")
        numbers = [GRAPHEMES.index(c) for c in (*letters, "</s>")]
        device = self.graphemes.weight.device
        # (1, length, hidden_size)
        embedded = self.graphemes(torch.tensor([numbers], device=device))
        outputs, _ = self.encoder(embedded)
        return outputs[:, -1]

    @torch.no_grad()
    def pronounce(self, word: str, max_length: int = 20) -> list[str]:
        """The phonemes of a word, the most likely one at each step.

        Args:
            word: letters a to z, in either case.
            max_length: write at most so many phonemes; the package uses 20.
        """
        state = self.encode(word)
        spoken: list[str] = []
        number = START
        while len(spoken) < max_length:
            last = torch.tensor([number], device=state.device)
            state = self.decoder(self.phonemes(last), state)
            number = int(self.output(state).argmax())
            if number == STOP:
                break
            spoken.append(PHONEMES[number])
        return spoken
