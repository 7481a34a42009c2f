"""What the LightningModule and the decoder ask of a network that translates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PAD, BOS, EOS, UNK = 0, 1, 2, 3


class Memory(NamedTuple):
    """A source sentence as the decoder sees it: ``states`` (B, S, H) and ``mask`` (B, S), true at real tokens."""

    states: Tensor
    mask: Tensor


class TranslationNetwork(nn.Module, ABC):
    """A network that gives the logits of each target token from a source sentence and the target tokens before it.

    A subclass implements :meth:`encode` and :meth:`decode`; training (:meth:`forward`, every target token at once) and
    greedy decoding (one token at a time, with the decoder's state carried along) then run through the same two.
    Token ids are 0 for padding, 1 for ``<bos>``, 2 for ``<eos>`` and 3 for ``<unk>``.

    Args:
        source_vocab_size: number of source token ids.
        target_vocab_size: number of target token ids, and of logits for each target token.

    Raises:
        ValueError: a vocabulary has no room for anything beside the four special ids.
    """

    def __init__(self, *, source_vocab_size: int, target_vocab_size: int) -> None:
        super().__init__()
        for name, size in (("source_vocab_size", source_vocab_size), ("target_vocab_size", target_vocab_size)):
            if size <= UNK + 1:
                raise ValueError(f"{name} is {size}; ids 0 to 3 are special, so it must be 5 or more")
        self.source_vocab_size = source_vocab_size
        self.target_vocab_size = target_vocab_size

    @abstractmethod
    def encode(self, source: Tensor, source_lengths: Tensor) -> Memory:
        """Read source ids (B, S), of which the first ``source_lengths`` (B,) are real."""

    @abstractmethod
    def decode(self, target: Tensor, memory: Memory, state: Any = None) -> tuple[Tensor, Any]:
        """Give the logits (B, T, V) after each of ``target``'s ids (B, T), and the state to continue from.

        ``state`` is what the previous call returned, for the tokens before these; None at ``<bos>``.
        """

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor:
        """Give the logits (B, T, V) of the token after each one of ``target`` (B, T), which starts with ``<bos>``.

        Args:
            source: (B, S) ids, padded with 0.
            source_lengths: (B,) how many of each row are real. On the CPU it costs no device synchronisation.
            target: (B, T) ids, padded with 0.

        Raises:
            ValueError: shapes that do not fit together; a length of 0 or beyond S (checked if lengths are on the CPU).
        """
        _check_shapes(source, source_lengths, target)
        return self.decode(target, self.encode(source, source_lengths))[0]

    def check(self, batch: Mapping[str, Any]) -> None:
        """Check a whole batch while it is still on the CPU, ids included: a bad id on a GPU kills the process.

        Args:
            batch: ``source`` (B, S), ``source_lengths`` (B,) and ``target`` (B, T) with ``<bos>`` first.

        Raises:
            ValueError: a key is missing, shapes do not fit together, a length or an id is out of range.
        """
        missing = {"source", "source_lengths", "target"} - set(batch)
        if missing:
            raise ValueError(
                f"the batch has {sorted(batch)} but not {sorted(missing)}; a translation batch is a dict of "
                "source (B, S), source_lengths (B,) and target (B, T)"
            )
        _check_shapes(batch["source"], batch["source_lengths"], batch["target"])
        if batch["target"].shape[1] < 2:
            raise ValueError(
                f"targets are {batch['target'].shape[1]} token long; they need at least <bos> and <eos> to train on"
            )
        for name, size in (("source", self.source_vocab_size), ("target", self.target_vocab_size)):
            if batch[name].is_cpu:
                low, high = (int(bound) for bound in batch[name].aminmax())
                if low < 0 or high >= size:
                    raise ValueError(
                        f"{name} ids run from {low} to {high}, but the network was built with "
                        f"{name}_vocab_size={size}; give the network and the data the same size"
                    )


def padding_mask(lengths: Tensor, size: int, device: torch.device) -> Tensor:
    """(B, size) booleans, true at the first ``lengths`` places of each row.

    >>> import torch
    >>> padding_mask(torch.tensor([1, 3]), 3, torch.device("cpu")).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(size, device=device) < lengths.to(device, non_blocking=True).unsqueeze(1)


def _check_shapes(source: Tensor, source_lengths: Tensor, target: Tensor) -> None:
    if source.dim() != 2 or target.dim() != 2 or len(source) != len(target) or source_lengths.shape != source.shape[:1]:
        raise ValueError(
            f"got source {tuple(source.shape)}, source_lengths {tuple(source_lengths.shape)} and target "
            f"{tuple(target.shape)}; expected (B, S), (B,) and (B, T)"
        )
    if source_lengths.is_cpu:  # elsewhere, looking would wait for the device
        low, high = int(source_lengths.min()), int(source_lengths.max())
        if low < 1 or high > source.shape[1]:
            raise ValueError(
                f"source_lengths run from {low} to {high}, but source is {source.shape[1]} wide; "
                f"every length must be from 1 to {source.shape[1]}, so leave empty sentences out"
            )
