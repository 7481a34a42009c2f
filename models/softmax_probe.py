"""A linear softmax head on frozen features: strongly convex, so that training has one answer."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.classification_module import Batch, ClassificationModule
from fulgurite.models.image_classification.network import build_network


class RandomFourierFeatures(nn.Module):
    r"""Frozen features whose inner products are a Gaussian kernel's, nearly.

    Rahimi and Recht, *Random Features for Large-Scale Kernel Machines*, NeurIPS 2007,
    https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines:

    .. math:: \phi(x) = \frac{1}{\sqrt{D}} [\cos(Wx), \sin(Wx)], \qquad W_{ij} \sim N(0, \sigma^{-2}).

    They have norm 1 whatever x is.

    Args:
        in_features: numbers in an input, of any shape.
        out_features: 2D, even.
        bandwidth: σ, in units of the inputs' distances.
        seed: of W; the same on every process.

    Shape:
        (B, …) with ``in_features`` numbers a row → (B, out_features).

    Raises:
        ValueError: an odd number of features, or a bandwidth that is not positive.

    Example:
        >>> features = RandomFourierFeatures(64, 512)
        >>> features(torch.ones(3, 1, 8, 8)).norm(dim=1).round(decimals=4)
        tensor([1., 1., 1.])
    """

    frequencies: Tensor

    def __init__(self, in_features: int, out_features: int, *, bandwidth: float = 8.0, seed: int = 0) -> None:
        super().__init__()
        if out_features < 2 or out_features % 2:
            raise ValueError(f"got out_features={out_features}; expected an even number, a cosine and a sine each")
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ValueError(f"got bandwidth={bandwidth}; expected more than 0")
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.randn(in_features, out_features // 2, generator=generator, dtype=torch.float64) / bandwidth
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Give the features."""
        phase = x.flatten(1) @ self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(phase.shape[1])


class SoftmaxProbe(ClassificationModule):
    r"""Train a linear softmax head with weight decay on frozen features of norm at most 1, by plain gradient steps.

    .. math:: f(\theta) = \frac1B \sum_b -\log \mathrm{softmax}(W\phi(x_b) + v)_{y_b}
              + \frac{\mu}{2} \|\theta\|^2, \qquad \theta = (W, v).

    It is μ-strongly convex, and L-smooth with L = ½(1 + 1) + μ: the Hessian of the softmax loss of one row is at most
    ½ φφᵀ in each direction (Böhning, *Multinomial logistic regression algorithm*, 1992), ``(φ, 1)`` has at most the
    squared norm 2. :meth:`objective_bounds` states both, and the strategy ``dynamic_async`` certifies its answer by
    them. The head starts at zero, on every process the same.

    Logged as by every classifier here: ``train/loss``, ``val/accuracy``, and so on; the loss of validation and test is
    without the decay.

    Args:
        num_classes: C.
        in_features: numbers in an input, for the random features.
        features: how many random Fourier features.
        bandwidth: of the random features.
        backbone: instead of these, a network by name (as of ``ImageClassifier``) up to its last linear layer, frozen,
            in eval mode, its features scaled to norm 1.
        weights: of the backbone, as of ``ImageClassifier``.
        in_channels: of the backbone's images.
        weight_decay: μ, more than 0.
        learning_rate: of SGD without momentum; the strategy wants at most 2 / (L + μ + 2λd).
        seed: of the random features.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> probe = SoftmaxProbe(10, in_features=64, weight_decay=0.1)
        >>> probe.objective_bounds()
        (0.1, 1.1)
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_features: int = 64,
        features: int = 512,
        bandwidth: float = 8.0,
        backbone: str | None = None,
        weights: str | Path | None = None,
        in_channels: int = 1,
        weight_decay: float = 0.01,
        learning_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not weight_decay > 0:
            raise ValueError(f"got weight_decay={weight_decay}; expected more than 0, or the answer is not unique")
        body, width = (
            (RandomFourierFeatures(in_features, features, bandwidth=bandwidth, seed=seed), features)
            if backbone is None
            else _body(backbone, num_classes, in_channels, weights)
        )
        head = nn.Linear(width, num_classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        super().__init__(
            head,
            num_classes=num_classes,
            learning_rate=learning_rate,
            optimizer="sgd",
            weight_decay=0.0,  # the decay is part of the loss, so that the loss is what is bounded
            schedule="constant",
        )
        self.decay = weight_decay
        self.body = body.requires_grad_(False)
        self.save_hyperparameters(ignore=["weights"])

    def objective_bounds(self) -> tuple[float, float]:
        """Strong convexity μ and smoothness L of the loss of any batch."""
        return self.decay, 1.0 + self.decay

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Give the logits (B, C) of inputs (B, …)."""
        self.body.eval()  # here, as whoever trains the module switches all of it to training
        with torch.no_grad():
            phi = self.body(x)
            phi = phi / phi.norm(dim=1, keepdim=True).clamp_min(1)  # at most 1, also after rounding
        return super().forward(phi)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss, with the decay, and log it."""
        x, labels = batch
        logits = self(x)
        decay = sum((weight.square().sum() for weight in self.present().parameters()), start=logits.new_zeros(()))
        loss = functional.cross_entropy(logits, labels) + self.decay / 2 * decay
        self._measure("train/accuracy", logits.detach(), labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(x))
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give SGD without momentum, over the head."""
        return torch.optim.SGD(self.present().parameters(), lr=self.learning_rate)


def _body(backbone: str, num_classes: int, in_channels: int, weights: str | Path | None) -> tuple[nn.Module, int]:
    network = build_network(
        backbone, num_classes=num_classes, in_channels=in_channels, weights=None if weights is None else str(weights)
    )
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError(f"got backbone={backbone!r}, which has no linear layer to take the place of; choose another")
    name, last = found[-1]
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    return nn.Sequential(network, nn.Flatten()), last.in_features
