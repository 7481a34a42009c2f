"""Trains a network that translates, and measures it."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import BLEUScore
from typing_extensions import override

from fulgurite.models.optimization import adam_with_warmup
from fulgurite.models.translation.decoding import greedy_decode
from fulgurite.models.translation.network import EOS, PAD, UNK, TranslationNetwork

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class Translator(LightningModule):
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
      matches nothing, not even another ``<unk>``. It is over the first ``decoded_batches`` batches of each rank only,
      because decoding takes one step a token.

    Lengths stay on the CPU, where packing needs them, and ids are checked before they leave it, so that no step waits
    for the device. ``gradient_clip_val: 5`` in the Trainer suits recurrent networks.

    A checkpoint of a run from a YAML recipe rebuilds its network by itself; one of a module made in Python is loaded by
    ``Translator.load_from_checkpoint(path, network=...)``.

    Args:
        network: a :class:`~fulgurite.models.GNMT`, :class:`~fulgurite.models.TranslationTransformer` or your own
            :class:`~fulgurite.models.translation.TranslationNetwork`.
        learning_rate: Adam's highest rate, see :func:`~fulgurite.models.optimization.adam_with_warmup`.
        warmup_steps: optimizer steps until it is reached.
        label_smoothing: ε.
        decoded_batches: batches of each validation that are decoded for BLEU; 0 for no BLEU.
        max_length: the most tokens of a decode.

    Raises:
        ValueError: a batch that is not as above; ids beyond the network's vocabularies.

    Example:
        >>> from fulgurite.models import GNMT
        >>> translator = Translator(GNMT(source_vocab_size=20, target_vocab_size=20, hidden_size=8))
        >>> batch = {"source": torch.tensor([[5, 6, 2]]), "source_lengths": torch.tensor([3]),
        ...          "target": torch.tensor([[1, 7, 8, 2]])}
        >>> translator.loss(batch).shape
        torch.Size([])
    """

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        learning_rate: float = 2e-3,
        warmup_steps: int = 100,
        label_smoothing: float = 0.1,
        decoded_batches: int = 4,
        max_length: int = 64,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the network's plain config, which can rebuild it
            self.save_hyperparameters()
        self.network = network
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
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

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Give the training loss of one batch."""
        logits, labels = self._logits(batch)
        return functional.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=self.label_smoothing)

    @override
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Give the loss to descend and log it."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["source"]))
        return loss

    @override
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch."""
        self._measure(batch, batch_idx, "val")

    @override
    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch."""
        self._measure(batch, batch_idx, "test")

    @override
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
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
    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Check a batch while looking at it is cheap."""
        self.network.check(batch)
        return batch

    @override
    def transfer_batch_to_device(
        self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Move everything but the lengths."""
        moving = {name: value for name, value in batch.items() if name != "source_lengths"}
        moved = super().transfer_batch_to_device(moving, device, dataloader_idx)
        return {**moved, "source_lengths": batch["source_lengths"]}

    @override
    def configure_optimizers(self) -> "OptimizerLRSchedulerConfig":
        """Adam with a warm-up; LightningCLI's ``optimizer`` and ``lr_scheduler`` replace it."""
        return adam_with_warmup(self, learning_rate=self.learning_rate, warmup_steps=self.warmup_steps)

    def _logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        target = batch["target"]
        logits = self.network(batch["source"], batch["source_lengths"], target[:, :-1])
        return logits.flatten(0, 1), target[:, 1:].flatten()

    def _measure(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        logits, labels = self._logits(batch)
        self.nll.update(functional.cross_entropy(logits, labels, ignore_index=PAD), weight=(labels != PAD).sum())
        # A prediction that cannot be right where the label is <unk>; padded labels are left out by ignore_index.
        self.token_accuracy.update(logits.argmax(-1).masked_fill(labels == UNK, PAD), labels)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(batch["source"])}
        self.log(f"{stage}/loss", self.nll, prog_bar=True, **options)
        self.log(f"{stage}/token_accuracy", self.token_accuracy, prog_bar=True, **options)
        if batch_idx < self.decoded_batches:
            decoded = self(batch["source"], batch["source_lengths"])
            self.bleu.update(_sentences(decoded, "<unknown>"), [[line] for line in _sentences(batch["target"][:, 1:])])
            self.log(f"{stage}/bleu", self.bleu, prog_bar=True, **options)


def _sentences(ids: Tensor, unknown: str = "<unk>") -> list[str]:
    """Lines of ids as words, up to <eos>; two lists with different words for <unk> never match there."""
    lines = []
    for row in ids.tolist():
        end = row.index(EOS) if EOS in row else len(row)
        lines.append(" ".join(unknown if token == UNK else str(token) for token in row[:end] if token != PAD))
    return lines
