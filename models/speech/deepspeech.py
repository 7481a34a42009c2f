"""A DeepSpeech2-like network: strided convolutions and bidirectional recurrent layers."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fulgurite.models.bidirectional import Bidirectional

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


class SequenceBatchNorm(nn.Module):
    r"""Batch normalisation over the real frames of padded sequences.

    Ioffe & Szegedy, `arXiv:1502.03167 <https://arxiv.org/abs/1502.03167>`__, with the statistics of channel c taken
    over all real frames of the batch, and over frequencies where a frame has several, as DeepSpeech2 takes them:

    .. math:: y = γ_c \frac{x - μ_c}{\sqrt{σ_c^2 + ε}} + β_c \text{ in real frames}, \quad 0 \text{ in padding.}

    So padding changes neither the statistics nor, by its zeros, what a convolution above sees beyond a sequence's end.

    Args:
        channels: C.

    Shape:
        - x: (B, T, C) or (B, T, F, C), frames: (N,) indices into the B·T frames, those that are real.
        - Returns x's shape.

    Example:
        >>> import torch
        >>> from fulgurite.models.speech.deepspeech import SequenceBatchNorm
        >>> norm = SequenceBatchNorm(1)
        >>> x = torch.tensor([1.0, 3.0, 99.0]).reshape(1, 3, 1)
        >>> [round(value) for value in norm(x, torch.tensor([0, 1])).flatten().tolist()]
        [-1, 1, 0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Normalise the real ``frames`` of ``x`` and clear the others; see the class for shapes."""
        flat = x.flatten(0, 1)
        chosen = flat[frames]
        real = self.norm(chosen.reshape(-1, x.shape[-1])).reshape(chosen.shape)
        return torch.zeros_like(flat, dtype=real.dtype).index_copy(0, frames, real).reshape(x.shape)


class DeepSpeech2(nn.Module):
    r"""Convolutions, bidirectional recurrent layers and CTC classes, after Amodei et al., *Deep Speech 2*.

    `arXiv:1512.02595 <https://arxiv.org/abs/1512.02595>`__. With h⁰ the log-mel frames,

    .. math::
        & h^l = \min(\max(\mathrm{norm}(W^l * h^{l-1}), 0), 20), \quad l = 1, 2 \\
        & h^l = \overrightarrow{\mathrm{RNN}}(z) + \overleftarrow{\mathrm{RNN}}(z),
            \quad z = \mathrm{norm}(h^{l-1}), \quad l = 3, 4, …

    and a linear layer gives each frame's logits of the blank (class 0) and of the alphabet's symbols (class 1 + index).
    As in the paper: two 2-D convolutions, the first with stride 2 in time, clipped ReLU, batch normalisation over whole
    sequences (:class:`SequenceBatchNorm`), directions summed. It departs in four points: it is far smaller; kernels
    are square, because 40 log-mel bands stand where the paper has a linear spectrogram; the normalisation is of a
    recurrent layer's input, not inside it, which lets one library call run the layer; recurrence is LSTM's, which
    oneDNN has on a CPU, unless ``cell="gru"``.

    Padding changes nothing, in training either: convolutions see zeros beyond a sequence's end as they do beyond the
    tensor's, and the backward direction starts at each sequence's own end. A step's time depends on the padded shape
    alone and grows with B·T.

    Args:
        alphabet: the symbols that can be recognised.
        num_features: F, log-mel bands of a frame.
        conv_channels: channels of both convolutions (the paper: 32).
        hidden_size: features of each recurrent layer.
        recurrent_layers: at least 1.
        cell: kind of recurrence; see :class:`~fulgurite.models.bidirectional.Bidirectional` for what it costs.
        dropout: on each recurrent layer's input and on the last one's output.

    Shape:
        - features: (B, T, F), lengths: (B,).
        - Returns logits (B, T', len(alphabet) + 1), where T' = ceil(T / 2), and the output lengths (B,) on the CPU.

    Raises:
        ValueError: an empty alphabet or a symbol twice, no layers; see :meth:`forward` for inputs.

    Example:
        >>> import torch
        >>> from fulgurite.models import DeepSpeech2
        >>> network = DeepSpeech2(alphabet="ab", num_features=8, conv_channels=4, hidden_size=6)
        >>> logits, lengths = network(torch.randn(2, 31, 8), torch.tensor([31, 20]))
        >>> logits.shape, lengths.tolist()
        (torch.Size([2, 16, 3]), [16, 10])
    """

    def __init__(
        self,
        *,
        alphabet: str = ALPHABET,
        num_features: int = 40,
        conv_channels: int = 16,
        hidden_size: int = 128,
        recurrent_layers: int = 2,
        cell: Literal["lstm", "gru"] = "lstm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"alphabet is {alphabet!r}; it needs at least one symbol and none twice")
        if num_features < 1 or recurrent_layers < 1:
            raise ValueError(f"got {num_features} features and {recurrent_layers} recurrent layers; both start at 1")
        self.alphabet = alphabet
        self.num_features = num_features
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, conv_channels, kernel_size=11, stride=(2, 2), padding=5, bias=False),
                nn.Conv2d(conv_channels, conv_channels, kernel_size=11, stride=(1, 2), padding=5, bias=False),
            ]
        )
        self.conv_norms = nn.ModuleList(SequenceBatchNorm(conv_channels) for _ in self.convs)
        sizes = [conv_channels * -(-num_features // 4)] + [hidden_size] * (recurrent_layers - 1)
        self.recurrent_norms = nn.ModuleList(SequenceBatchNorm(size) for size in sizes)
        self.recurrent = nn.ModuleList(Bidirectional(size, hidden_size, cell=cell) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.output_norm = SequenceBatchNorm(hidden_size)
        self.output = nn.Linear(hidden_size, len(alphabet) + 1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        r"""Frames that are left of ``lengths`` frames, :math:`⌊(L + 2p - k)/s⌋ + 1` for each convolution in turn."""
        for conv in self.convs:
            lengths = _conv_lengths(conv, lengths)
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Give the logits of each output frame and the output lengths; see the class for shapes.

        Raises:
            ValueError: shapes that do not fit together; a length of 0 or beyond T (checked if lengths are on the CPU).
        """
        self._check_shapes(features, lengths)
        lengths = lengths.cpu()
        real = _real_frames(lengths, features.shape[1]).to(features.device, non_blocking=True)
        flat = features.flatten(0, 1)
        x = torch.zeros_like(flat).index_copy(0, real, flat[real]).reshape(features.shape).unsqueeze(1)
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            x = conv(x)
            lengths = _conv_lengths(conv, lengths)
            real = _real_frames(lengths, x.shape[2]).to(x.device, non_blocking=True)
            x = norm(x.permute(0, 2, 3, 1), real).clamp(0, 20).permute(0, 3, 1, 2)
        x = x.transpose(1, 2).flatten(2)
        for norm, layer in zip(self.recurrent_norms, self.recurrent, strict=True):
            ahead, back = layer(self.dropout(norm(x, real)), lengths)
            x = ahead + back
        return self.output(self.dropout(self.output_norm(x, real))), lengths

    def check(self, batch: Mapping[str, Any]) -> None:
        """Check a whole batch while it is still on the CPU: an impossible target would make the loss infinite.

        Args:
            batch: ``features`` (B, T, F), ``lengths`` (B,), ``targets`` (B, L) and ``target_lengths`` (B,).

        Raises:
            ValueError: a key is missing, shapes do not fit together, a length or a target id is out of range, or a
                target needs more frames than the network gives: one a symbol and one more between two equal ones.
        """
        missing = {"features", "lengths", "targets", "target_lengths"} - set(batch)
        if missing:
            raise ValueError(
                f"the batch has {sorted(batch)} but not {sorted(missing)}; a speech batch is a dict of "
                "features (B, T, F), lengths (B,), targets (B, L) and target_lengths (B,)"
            )
        self._check_shapes(batch["features"], batch["lengths"])
        targets, target_lengths, lengths = (batch[name] for name in ("targets", "target_lengths", "lengths"))
        if targets.dim() != 2 or len(targets) != len(lengths) or target_lengths.shape != lengths.shape:
            raise ValueError(
                f"got targets {tuple(targets.shape)} and target_lengths {tuple(target_lengths.shape)} beside "
                f"{len(lengths)} utterances; expected (B, L) and (B,)"
            )
        if not (targets.is_cpu and target_lengths.is_cpu and lengths.is_cpu):
            return
        if int(target_lengths.min()) < 0 or int(target_lengths.max()) > targets.shape[1]:
            raise ValueError(
                f"target_lengths run from {int(target_lengths.min())} to {int(target_lengths.max())}, but targets are "
                f"{targets.shape[1]} wide"
            )
        inside = torch.arange(targets.shape[1]) < target_lengths.unsqueeze(1)
        if bool((inside & ((targets < 1) | (targets > len(self.alphabet)))).any()):
            symbols = targets[inside]
            raise ValueError(
                f"targets run from {int(symbols.min())} to {int(symbols.max())}, but the network's alphabet has "
                f"{len(self.alphabet)} symbols, ids 1 to {len(self.alphabet)} (0 is the blank); give the network and "
                "the data the same alphabet"
            )
        repeats = (inside[:, 1:] & (targets[:, 1:] == targets[:, :-1])).sum(1)
        needed, given = target_lengths + repeats, self.output_lengths(lengths)
        row = int((needed - given).argmax())
        if int(needed[row]) > int(given[row]):
            raise ValueError(
                f"utterance {row} of the batch has {int(lengths[row])} frames, {int(given[row])} after the strides, "
                f"but its {int(target_lengths[row])} symbols need {int(needed[row])} (one each, and one between two "
                "equal ones); leave such utterances out, or use a shorter hop"
            )

    def _check_shapes(self, features: Tensor, lengths: Tensor) -> None:
        if features.dim() != 3 or features.shape[2] != self.num_features or lengths.shape != features.shape[:1]:
            raise ValueError(
                f"got features {tuple(features.shape)} and lengths {tuple(lengths.shape)}; expected (B, T, "
                f"{self.num_features}) and (B,), with as many features as the network's num_features"
            )
        if lengths.is_cpu:  # elsewhere, looking would wait for the device
            low, high = int(lengths.min()), int(lengths.max())
            if low < 1 or high > features.shape[1]:
                raise ValueError(
                    f"lengths run from {low} to {high}, but features have {features.shape[1]} frames; every length "
                    f"must be from 1 to {features.shape[1]}"
                )


def _conv_lengths(conv: nn.Module, lengths: Tensor) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return (lengths + 2 * int(conv.padding[0]) - conv.kernel_size[0]) // conv.stride[0] + 1


def _real_frames(lengths: Tensor, time: int) -> Tensor:
    """Indices into B·T frames of the real ones, made on the CPU: ``nonzero`` on a GPU would wait for it."""
    return (torch.arange(time) < lengths.unsqueeze(1)).flatten().nonzero().squeeze(1)
