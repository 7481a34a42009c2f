"""Trains a speech recogniser by CTC, and measures it."""

from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.text import CharErrorRate, WordErrorRate
from typing_extensions import override

from fulgurite.models.sequence_module import Batch, SequenceModule
from fulgurite.models.speech.decoding import ctc_greedy_decode
from fulgurite.models.speech.deepspeech import DeepSpeech2


class SpeechRecognizer(SequenceModule):
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

    For optimizer, checkpoints and how batches travel see :class:`~fulgurite.models.sequence_module.SequenceModule`.
    ``gradient_clip_val`` in the Trainer is advisable: gradients of CTC are large at first.

    Args:
        network: its ``alphabet`` says which symbol each class is.
        learning_rate: Adam's highest rate; it falls linearly to 0 at the end of the run.
        warmup_steps: optimizer steps until it is reached.

    Raises:
        ValueError: a batch that is not as above; a target longer than the network's output.

    Example:
        >>> from fulgurite.models import DeepSpeech2, SpeechRecognizer
        >>> recognizer = SpeechRecognizer(DeepSpeech2(alphabet="ab", num_features=8, conv_channels=4, hidden_size=6))
        >>> recognizer.text([[1, 2, 2]])
        ['abb']
    """

    stay_on_host = ("lengths", "target_lengths")
    network: DeepSpeech2

    def __init__(self, network: DeepSpeech2, *, learning_rate: float = 2e-3, warmup_steps: int = 100) -> None:
        super().__init__(network, learning_rate=learning_rate, warmup_steps=warmup_steps)
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

    @override
    def loss(self, batch: Batch) -> Tensor:
        """Give the training loss of one batch, the mean over its utterances."""
        logits, lengths = self.network(batch["features"], batch["lengths"])
        return self._loss(logits, lengths, batch)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """Transcribe one batch."""
        return self(batch["features"], batch["lengths"])

    @override
    def measure(self, batch: Batch, batch_idx: int, stage: str) -> None:
        """Update and log the metrics; see the class."""
        logits, lengths = self.network(batch["features"], batch["lengths"])
        self.mean_loss.update(self._loss(logits, lengths, batch), weight=len(logits))
        said = self.text(ctc_greedy_decode(logits, lengths))
        pairs = zip(batch["targets"].tolist(), batch["target_lengths"].tolist(), strict=True)
        transcripts = self.text([row[:length] for row, length in pairs])
        self.log_metric(f"{stage}/loss", self.mean_loss, batch)
        for name, metric in (("cer", self.cer), ("wer", self.wer)):
            metric.update(said, transcripts)
            self.log_metric(f"{stage}/{name}", metric, batch)

    def _loss(self, logits: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        # (T, B, C) in float32: CTC sums over paths, for which bfloat16 is too coarse.
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        return functional.ctc_loss(log_probs, batch["targets"], lengths, batch["target_lengths"])
