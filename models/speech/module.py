"""Trains a speech recogniser by CTC, and measures it."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.text import CharErrorRate, WordErrorRate
from typing_extensions import override

from fulgurite.models.optimization import adam_with_warmup
from fulgurite.models.speech.decoding import ctc_greedy_decode
from fulgurite.models.speech.deepspeech import DeepSpeech2

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class SpeechRecognizer(LightningModule):
    r"""Trains a network by connectionist temporal classification and measures word and character error rates.

    Graves et al., *Connectionist temporal classification*, ICML 2006,
    `doi:10.1145/1143844.1143891 <https://doi.org/10.1145/1143844.1143891>`__. A batch is a dict of ``features``
    (B, T, F), ``lengths`` (B,), ``targets`` (B, L), ids of symbols from 1 with 0 for padding, and ``target_lengths``
    (B,). The loss of one utterance sums over all frame paths π that collapse to its target y, and is divided by the
    length of y:

    .. math:: -\frac{1}{|y|} \log Σ_{π ∈ \mathcal{B}^{-1}(y)} Π_t\, p_t(π_t).

    Logged while training: ``train/loss``. In validation (``val/``) and test (``test/``), over all ranks: ``loss``, the
    mean over utterances; ``cer`` and ``wer``, edit distance between greedy decodes and transcripts over the length of
    the transcripts, in characters and in words between spaces (0 is perfect, above 1 is possible).

    Lengths stay on the CPU, where packing and CTC need them, and batches are checked before they leave it, so that no
    step waits for the device. ``gradient_clip_val`` in the Trainer is advisable: CTC's gradients are large at first.

    A checkpoint of a run from a YAML recipe rebuilds its network by itself; one of a module made in Python is loaded by
    ``SpeechRecognizer.load_from_checkpoint(path, network=...)``.

    Args:
        network: its ``alphabet`` says which symbol each class is.
        learning_rate: Adam's highest rate, see :func:`~fulgurite.models.optimization.adam_with_warmup`.
        warmup_steps: optimizer steps until it is reached.

    Raises:
        ValueError: a batch that is not as above; a target longer than the network's output.

    Example:
        >>> recognizer = SpeechRecognizer(DeepSpeech2(alphabet="ab", num_features=8, conv_channels=4, hidden_size=6))
        >>> recognizer.text([[1, 2, 2]])
        ['abb']
    """

    def __init__(self, network: DeepSpeech2, *, learning_rate: float = 2e-3, warmup_steps: int = 100) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the network's plain config, which can rebuild it
            self.save_hyperparameters()
        self.network = network
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.mean_loss = MeanMetric()
        self.cer = CharErrorRate()
        self.wer = WordErrorRate()

    @override
    def forward(self, features: Tensor, lengths: Tensor) -> list[str]:
        """Transcribe features (B, T, F)."""
        return self.text(ctc_greedy_decode(*self.network(features, lengths)))

    def text(self, ids: list[list[int]]) -> list[str]:
        """Spell ids of symbols, which start at 1."""
        return ["".join(self.network.alphabet[symbol - 1] for symbol in row) for row in ids]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Give the training loss of one batch, the mean over its utterances."""
        logits, lengths = self.network(batch["features"], batch["lengths"])
        return self._loss(logits, lengths, batch)

    @override
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Give the loss to descend and log it."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["features"]))
        return loss

    @override
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch."""
        self._measure(batch, "val")

    @override
    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch."""
        self._measure(batch, "test")

    @override
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[str]:
        """Transcribe one batch."""
        return self(batch["features"], batch["lengths"])

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
        staying = {name: batch[name] for name in ("lengths", "target_lengths")}
        moving = {name: value for name, value in batch.items() if name not in staying}
        return {**super().transfer_batch_to_device(moving, device, dataloader_idx), **staying}

    @override
    def configure_optimizers(self) -> "OptimizerLRSchedulerConfig":
        """Adam with a warm-up; LightningCLI's ``optimizer`` and ``lr_scheduler`` replace it."""
        return adam_with_warmup(self, learning_rate=self.learning_rate, warmup_steps=self.warmup_steps)

    def _loss(self, logits: Tensor, lengths: Tensor, batch: dict[str, Tensor]) -> Tensor:
        # (T, B, C) in float32: CTC sums over paths, for which bfloat16 is too coarse.
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        return functional.ctc_loss(log_probs, batch["targets"], lengths, batch["target_lengths"])

    def _measure(self, batch: dict[str, Tensor], stage: str) -> None:
        logits, lengths = self.network(batch["features"], batch["lengths"])
        size = len(logits)
        self.mean_loss.update(self._loss(logits, lengths, batch), weight=size)
        said = self.text(ctc_greedy_decode(logits, lengths))
        pairs = zip(batch["targets"].tolist(), batch["target_lengths"].tolist(), strict=True)
        transcripts = self.text([row[:length] for row, length in pairs])
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "batch_size": size}
        self.log(f"{stage}/loss", self.mean_loss, **options)
        for name, metric in (("cer", self.cer), ("wer", self.wer)):
            metric.update(said, transcripts)
            self.log(f"{stage}/{name}", metric, **options)
