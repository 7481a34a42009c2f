"""The GraphChallenge's inference, run beside a training and checked against products of sparse matrices."""

import time

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.radix import FAN_OUT, radix_inputs, radix_net


class GraphChallenge(pl.Callback):
    r"""Runs the inference of the Sparse DNN GraphChallenge once, before training, and checks the answer.

    J. Kepner et al., "Sparse Deep Neural Network Graph Challenge",
    `arXiv:1909.05631 <https://arxiv.org/abs/1909.05631>`__, asks which inputs still have a value above 0 after many
    layers of a RadiX-Net with weights 1/16, a negative bias and ReLU capped at 32. The network is
    :func:`~fulgurite.models.sparse_network.radix_net`, one operator for all layers; the check multiplies by one CSR
    matrix a layer, :math:`Y ← \min(\max(Y W + b, 0), 32)`.

    The inputs are synthetic, from :func:`~fulgurite.models.sparse_network.radix_inputs`, mixed with sparse ones of
    which none survives. Nothing is skipped, so that the rate does not compare with the challenge's records, which skip
    inputs that have died.

    Logged each epoch: ``radix/survivors``, inputs with a value above 0 after the last layer; ``radix/mismatches``,
    inputs on which the two disagree; ``radix/error``, the largest difference of any output;
    ``radix/giga_edges_per_second``, edges times inputs over the time of the second, warm call.

    Args:
        neurons: width: 1024, 4096, 16384 or 65536.
        layers: depth; the challenge's are 120, 480 and 1920.
        inputs: how many.
        seed: of the network's permutations and of the inputs.

    Raises:
        ValueError: a width that the challenge does not have, or a number below 1.

    Example:
        >>> challenge = GraphChallenge(layers=12, inputs=16)
        >>> found = challenge.run(torch.device("cpu"))
        >>> found["radix/mismatches"], 0 < found["radix/survivors"] < 16
        (0.0, True)
    """

    def __init__(self, *, neurons: int = 1024, layers: int = 120, inputs: int = 256, seed: int = 0) -> None:
        super().__init__()
        if layers < 1 or inputs < 1:
            raise ValueError(f"got layers={layers}, inputs={inputs}; want at least 1 of each")
        self.neurons = neurons
        self.layers = layers
        self.inputs = inputs
        self.seed = seed
        self._found: dict[str, float] = {}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._found = self.run(pl_module.device)
        rank_zero_info(
            f"GraphChallenge {self.neurons} × {self.layers}: {self._found['radix/survivors']:.0f} of {self.inputs} "
            f"inputs survive, {self._found['radix/mismatches']:.0f} differ from the CSR products, "
            f"{self._found['radix/giga_edges_per_second']:.1f} giga-edges/s"
        )

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, value in self._found.items():
            pl_module.log(name, value, sync_dist=True)

    @torch.no_grad()
    def run(self, device: torch.device) -> dict[str, float]:
        """Run and check the inference on a device; the metrics by their names."""
        network = radix_net(self.neurons, self.layers, seed=self.seed).to(device)
        x = self._inputs().to(device)
        network(x)  # kernels are compiled and chosen
        _wait(device)
        start = time.perf_counter()
        y = network(x)
        _wait(device)
        seconds = time.perf_counter() - start
        wanted = layer_by_layer(network, x)
        return {
            "radix/survivors": float((y > 0).any(dim=1).sum()),
            "radix/mismatches": float(((y > 0).any(dim=1) != (wanted > 0).any(dim=1)).sum()),
            "radix/error": float((y - wanted).abs().max()),
            "radix/giga_edges_per_second": network.num_edges * len(x) / seconds / 1e9,
        }

    def _inputs(self) -> Tensor:
        """Half of them live on by design, the others mostly die: an answer that is always yes proves nothing."""
        lasting = radix_inputs("mixed", self.neurons, (self.inputs + 1) // 2, seed=self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        dying = torch.rand(self.inputs // 2, self.neurons, generator=generator) < 0.1
        return torch.cat([lasting, dying.to(lasting)])


def layer_by_layer(network: SparseNetwork, x: Tensor) -> Tensor:
    """What a RadiX-Net gives, by one product with a CSR matrix a layer.

    Args:
        network: of :func:`~fulgurite.models.sparse_network.radix_net`.
        x: (B, n).

    Example:
        >>> network = radix_net(1024, 3)
        >>> x = radix_inputs("squares", 1024, 2)
        >>> torch.allclose(layer_by_layer(network, x), network(x), atol=1e-5)
        True
    """
    assert network.bias is not None
    neurons, y = network.num_inputs, x.T.contiguous()
    layer = network.edges[:, 0] // neurons
    for number in range(network.num_edges // (FAN_OUT * neurons)):
        mine = layer == number
        source, target = (network.edges[mine] % neurons).T
        indices = torch.stack([target, source])
        matrix = torch.sparse_coo_tensor(
            indices, network.weight[mine].detach(), (neurons, neurons), check_invariants=True
        )
        bias = network.bias.detach()[number * neurons : (number + 1) * neurons, None]
        y = (matrix.coalesce() @ y + bias).clamp(0, 32)
    return y.T


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
