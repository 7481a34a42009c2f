"""Trains a network that translates, and measures it."""

import math

from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import BLEUScore
from typing_extensions import override

from fulgurite.models.sequence_module import Batch, SequenceModule
from fulgurite.models.translation.decoding import greedy_decode
from fulgurite.models.translation.network import EOS, PAD, UNK, TranslationNetwork


class Translator(SequenceModule):
    r"""Trains a translation network by label-smoothed cross entropy and measures accuracy, perplexity and BLEU.

    A batch is a dict of ``source`` (B, S), ``source_lengths`` (B,) and ``target`` (B, T), ids with 0 for padding, 1 for
    ``<bos>`` first in each target, 2 for ``<eos>`` last and 3 for ``<unk>``. With :math:`q` the smoothed labels of
    Szegedy et al., `arXiv:1512.00567 <https://arxiv.org/abs/1512.00567>`__, the loss is the mean over real tokens of

    .. math:: -Σ_v q_{t,v} \log p(v | y_{<t}, x), \quad q = (1 - ε) · \text{one-hot}(y_t) + ε / V.

    Logged while training: ``train/loss``. In validation (``val/``) and test (``test/``), over all ranks:

    - ``loss``: cross entropy without smoothing, the mean over all real tokens; ``perplexity``: its exponential.
    - ``token_accuracy``: the share of real target tokens that are the likeliest given the true tokens before them. An
      ``<unk>`` in the target counts as a token that was missed, whatever was predicted: a network gets nothing for
      knowing that it does not know, and a small vocabulary cannot make the figure look better.
    - ``bleu``: corpus BLEU of up to 4-grams (Papineni et al., 2002) of greedy decodes, ids taken as words. ``<unk>``
      matches nothing, not even another ``<unk>``. It is over ``decoded_batches`` batches of each rank only, because
      decoding takes one step a token; they are spread evenly, because batches may come sorted by length.

    For optimizer, checkpoints and how batches travel see :class:`~fulgurite.models.sequence_module.SequenceModule`.

    Args:
        network: a :class:`~fulgurite.models.GNMT`, :class:`~fulgurite.models.TranslationTransformer` or your own
            :class:`~fulgurite.models.translation.TranslationNetwork`.
        learning_rate: Adam's highest rate; it falls linearly to 0 at the end of the run. The default suits a GNMT of
            128 features; a Transformer of that size learns better at 2e-3.
        warmup_steps: optimizer steps until it is reached.
        label_smoothing: ε.
        decoded_batches: batches of each validation that are decoded for BLEU; 0 for no BLEU.
        max_length: the most tokens of a decode.

    Raises:
        ValueError: a batch that is not as above; ids beyond the network's vocabularies.

    Example:
        >>> import torch
        >>> from fulgurite.models import GNMT, Translator
        >>> translator = Translator(GNMT(source_vocab_size=20, target_vocab_size=20, hidden_size=8))
        >>> batch = {"source": torch.tensor([[5, 6, 2]]), "source_lengths": torch.tensor([3]),
        ...          "target": torch.tensor([[1, 7, 8, 2]])}
        >>> translator.loss(batch).shape
        torch.Size([])
    """

    stay_on_host = ("source_lengths",)
    network: TranslationNetwork

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        learning_rate: float = 5e-3,
        warmup_steps: int = 100,
        label_smoothing: float = 0.1,
        decoded_batches: int = 8,
        max_length: int = 64,
    ) -> None:
        super().__init__(network, learning_rate=learning_rate, warmup_steps=warmup_steps)
        self.label_smoothing = label_smoothing
        self.decoded_batches = decoded_batches
        self.max_length = max_length
        self.nll = MeanMetric()
        self.token_accuracy = MulticlassAccuracy(
            network.target_vocab_size, average="micro", ignore_index=PAD, validate_args=False
        )
        self.bleu = BLEUScore(n_gram=4)

    @override
    def forward(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        """Translate: ids (B, S) to ids (B, N), see :func:`~fulgurite.models.translation.greedy_decode`."""
        return greedy_decode(self.network, source, source_lengths, max_length=self.max_length)

    @override
    def loss(self, batch: Batch) -> Tensor:
        """Give the training loss of one batch."""
        logits, labels = self._logits(batch)
        return functional.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=self.label_smoothing)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Translate one batch."""
        return self(batch["source"], batch["source_lengths"])

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the perplexity."""
        self.log("val/perplexity", self.nll.compute().exp(), sync_dist=True)

    @override
    def on_test_epoch_end(self) -> None:
        """Log the perplexity."""
        self.log("test/perplexity", self.nll.compute().exp(), sync_dist=True)

    @override
    def measure(self, batch: Batch, batch_idx: int, stage: str) -> None:
        """Update and log the metrics; see the class."""
        logits, labels = self._logits(batch)
        self.nll.update(functional.cross_entropy(logits, labels, ignore_index=PAD), weight=(labels != PAD).sum())
        # A prediction that cannot be right where the label is <unk>; padded labels are left out by ignore_index.
        self.token_accuracy.update(logits.argmax(-1).masked_fill(labels == UNK, PAD), labels)
        self.log_metric(f"{stage}/loss", self.nll, batch)
        self.log_metric(f"{stage}/token_accuracy", self.token_accuracy, batch)
        if self._decodes(batch_idx, stage):
            decoded = self(batch["source"], batch["source_lengths"])
            self.bleu.update(_sentences(decoded, "<unknown>"), [[line] for line in _sentences(batch["target"][:, 1:])])
            self.log_metric(f"{stage}/bleu", self.bleu, batch)

    def _decodes(self, batch_idx: int, stage: str) -> bool:
        total = (self.trainer.num_val_batches if stage == "val" else self.trainer.num_test_batches)[0]
        if math.isinf(total):
            return batch_idx < self.decoded_batches
        wanted = min(self.decoded_batches, int(total))
        return (batch_idx + 1) * wanted // int(total) > batch_idx * wanted // int(total)

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        target = batch["target"]
        logits = self.network(batch["source"], batch["source_lengths"], target[:, :-1])
        return logits.flatten(0, 1), target[:, 1:].flatten()


def _sentences(ids: Tensor, unknown: str = "<unk>") -> list[str]:
    """Lines of ids as words, up to <eos>; two lists with different words for <unk> never match there."""
    lines = []
    for row in ids.tolist():
        end = row.index(EOS) if EOS in row else len(row)
        lines.append(" ".join(unknown if token == UNK else str(token) for token in row[:end] if token != PAD))
    return lines
