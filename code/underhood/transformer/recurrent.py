"""RNN, LSTM and GRU: one step, one cell, a stack of layers.

Names, shapes and order of the parameters are those of `torch.nn.RNN`, `LSTM` and
`GRU`, so weights move both ways with `load_state_dict(strict=True)`. Sequences are
batch first, always: `(batch, length, features)`, as `torch.nn` with
`batch_first=True`.

Sources: Elman, 1990 (RNN); Hochreiter & Schmidhuber, 1997, with the forget gate of
Gers et al., 2000 (LSTM); Cho et al., 2014, in the variant of `torch.nn` that applies
the reset gate after the matrix product (GRU).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]  # (hidden,) or, for the LSTM, (hidden, cell)
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def rnn_step(
    from_input: Tensor,
    state: State,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
) -> State:
    """One step of a plain RNN: `tanh(W_ih x + b_ih + W_hh h + b_hh)`.

    Args:
        from_input: `W_ih x + b_ih`, (batch, hidden_size): it does not depend on the
            state, so a layer computes it for all steps at once.
        state: `(hidden,)`, (batch, hidden_size).
        weight_hh: (hidden_size, hidden_size). bias_hh: (hidden_size,) or None.
    """
    (hidden,) = state
    return (torch.tanh(from_input + F.linear(hidden, weight_hh, bias_hh)),)


def lstm_step(
    from_input: Tensor,
    state: State,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
) -> State:
    """One step of an LSTM; the rows of the weights are input, forget, cell, output.

    Args:
        from_input: `W_ih x + b_ih`, (batch, 4 * hidden_size).
        state: `(hidden, cell)`, each (batch, hidden_size).
        weight_hh: (4 * hidden_size, hidden_size). bias_hh: (4 * hidden_size,) or None.
    """
    hidden, cell = state
    gates = from_input + F.linear(hidden, weight_hh, bias_hh)
    input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
    keep = torch.sigmoid(forget_gate) * cell
    write = torch.sigmoid(input_gate) * torch.tanh(candidate)
    cell = keep + write
    return torch.sigmoid(output_gate) * torch.tanh(cell), cell


def gru_step(
    from_input: Tensor,
    state: State,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
) -> State:
    """One step of a GRU; the rows of the weights are reset, update, new.

    Args:
        from_input: `W_ih x + b_ih`, (batch, 3 * hidden_size).
        state: `(hidden,)`, (batch, hidden_size).
        weight_hh: (3 * hidden_size, hidden_size). bias_hh: (3 * hidden_size,) or None.
    """
    (hidden,) = state
    reset_x, update_x, new_x = from_input.chunk(3, dim=-1)
    from_hidden = F.linear(hidden, weight_hh, bias_hh)  # (batch, 3 * hidden_size)
    reset_h, update_h, new_h = from_hidden.chunk(3, dim=-1)
    reset = torch.sigmoid(reset_x + reset_h)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return ((1 - update) * new + update * hidden,)


class _Cell(nn.Module):
    """One step with its weights; keys as in `torch.nn.RNNCell` and its siblings.

    Args:
        input_size, hidden_size: features of the input and of the state.
        bias: both biases, or none.
    """

    num_gates: int  # blocks of rows in the weights
    num_states: int  # tensors that are carried from step to step
    step: Step

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        _check_sizes(input_size=input_size, hidden_size=hidden_size)
        rows = self.num_gates * hidden_size
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(rows)) if bias else None
        _initialize(self, hidden_size)

    def forward(self, x: Tensor, state: Tensor | State | None = None) -> Tensor | State:
        """Step once.

        Args:
            x: (batch, input_size).
            state: hidden (batch, hidden_size), for the LSTM (hidden, cell);
                None: zeros.

        Returns:
            The new state, of the same form.
        """
        _check_input(x, 2, self.input_size)
        start = _unpack(state, self.num_states, (len(x), self.hidden_size), x)
        from_input = F.linear(x, self.weight_ih, self.bias_ih)
        return _pack(type(self).step(from_input, start, self.weight_hh, self.bias_hh))


class RNNCell(_Cell):
    """One step of a plain RNN; see `rnn_step`."""

    num_gates, num_states, step = 1, 1, staticmethod(rnn_step)


class LSTMCell(_Cell):
    """One step of an LSTM; see `lstm_step`."""

    num_gates, num_states, step = 4, 2, staticmethod(lstm_step)


class GRUCell(_Cell):
    """One step of a GRU; see `gru_step`."""

    num_gates, num_states, step = 3, 1, staticmethod(gru_step)


class _Layers(nn.Module):
    """Layers of one kind of cell, each reading the outputs of the one below.

    Args:
        input_size, hidden_size: features of the input and of each state.
        num_layers: how many layers.
        bias: both biases in each layer, or none.
        bidirectional: a second set of weights reads each layer's input backwards, and
            the outputs of the two are concatenated.
    """

    cell: type[_Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers = num_layers
        directions = ["", "_reverse"] if bidirectional else [""]
        self.suffixes = [f"_l{i}{d}" for i in range(num_layers) for d in directions]
        self.num_directions = len(directions)
        rows = self.cell.num_gates * hidden_size
        for number, suffix in enumerate(self.suffixes):
            first = number < self.num_directions
            columns = input_size if first else self.num_directions * hidden_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, columns),
                "weight_hh": (rows, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                setattr(self, name + suffix, nn.Parameter(torch.empty(shape)))
        _initialize(self, hidden_size)

    def forward(
        self,
        x: Tensor,
        state: Tensor | State | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | State]:
        """Read whole sequences.

        Args:
            x: (batch, length, input_size).
            state: hidden (num_layers * num_directions, batch, hidden_size), for the
                LSTM (hidden, cell); None: zeros.
            lengths: (batch,), how many steps of each sequence are real; past them the
                state stands still and the output is 0. None: all.

        Returns:
            Outputs (batch, length, num_directions * hidden_size) of the last layer, and
            the final state, in the form of `state`.
        """
        _check_input(x, 3, self.input_size)
        batch, length, _ = x.shape
        shape = (len(self.suffixes), batch, self.hidden_size)
        starts = _unpack(state, self.cell.num_states, shape, x)
        real = _real_steps(lengths, batch, length, x.device)
        if real is not None:
            x = x.masked_fill(~real[..., None], 0.0)  # NaN times 0 would be NaN
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self.num_directions):
                number = layer * self.num_directions + direction
                start = tuple(part[number] for part in starts)
                output, final = self._scan(x, start, number, direction == 1, real)
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, dim=-1)
        return x, _pack(
            tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        )

    def _scan(
        self, x: Tensor, state: State, number: int, backwards: bool, real: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction: the loop that no hardware can run in parallel."""
        suffix = self.suffixes[number]
        weight_hh = getattr(self, "weight_hh" + suffix)
        bias_ih = getattr(self, "bias_ih" + suffix, None)
        bias_hh = getattr(self, "bias_hh" + suffix, None)
        # All steps at once: (batch, length, num_gates * hidden_size).
        from_input = F.linear(x, getattr(self, "weight_ih" + suffix), bias_ih)
        steps = range(x.shape[1])
        outputs = [x.new_empty(0)] * len(steps)
        for t in reversed(steps) if backwards else steps:
            new = type(self).cell.step(from_input[:, t], state, weight_hh, bias_hh)
            if real is None:
                state, outputs[t] = new, new[0]
            else:
                here = real[:, t, None]  # (batch, 1)
                pairs = zip(new, state, strict=True)
                state = tuple(torch.where(here, n, old) for n, old in pairs)
                outputs[t] = new[0] * here
        return torch.stack(outputs, dim=1), state


class RNN(_Layers):
    """Plain recurrent layers; keys, shapes and outputs of `torch.nn.RNN`."""

    cell = RNNCell


class LSTM(_Layers):
    """LSTM layers; keys, shapes and outputs of `torch.nn.LSTM`."""

    cell = LSTMCell


class GRU(_Layers):
    """GRU layers; keys, shapes and outputs of `torch.nn.GRU`."""

    cell = GRUCell


def _initialize(module: nn.Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: got {size}; it must be at least 1")


def _check_input(x: Tensor, dims: int, features: int) -> None:
    if x.dim() != dims or x.shape[-1] != features or x.shape[-2] == 0:
        layout = "(batch, input_size)" if dims == 2 else "(batch, length, input_size)"
        raise ValueError(
            f"x: got shape {tuple(x.shape)}; {layout} with input_size {features} and "
            f"at least one step is needed"
        )


def _unpack(
    state: Tensor | State | None, count: int, shape: tuple[int, ...], x: Tensor
) -> State:
    """The state as a tuple of `count` tensors; zeros for None."""
    if state is None:
        return (x.new_zeros(shape),) * count
    parts = (state,) if isinstance(state, Tensor) else tuple(state)
    found = [tuple(part.shape) for part in parts]
    if found != [shape] * count:
        raise ValueError(f"state: got shapes {found}; {[shape] * count} is needed")
    return parts


def _pack(state: State) -> Tensor | State:
    return state[0] if len(state) == 1 else state


def _real_steps(
    lengths: Tensor | None, batch: int, length: int, device: torch.device
) -> Tensor | None:
    """(batch, length), True where a step is real; None when all are."""
    if lengths is None:
        return None
    if lengths.shape != (batch,) or lengths.min() < 0 or lengths.max() > length:
        raise ValueError(
            f"lengths: got {lengths.tolist()}; {batch} values from 0 to {length} "
            f"are needed"
        )
    return torch.arange(length, device=device) < lengths.to(device)[:, None]
