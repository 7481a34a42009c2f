"""What people look at without RepresentativeInterpretation: peers for benchmarks/representative_interpretation.py.

A peer takes (model, layer, x, neighbours, label) and gives a (B, H, W) map in [0, 1] of each neighbour, all at the
output of the same layer. The class activation maps are those of the `grad-cam` package, in two ways: *reused*, where
the channel weights come from x and serve its neighbours (what the paper compares with, and what one picture can say
about many), and *own*, where every image has weights of its own (what the package is made for). k-means stands for
grouping without looking at the decision, random maps for knowing nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.cluster import KMeans
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.heatmap import Maps, heatmaps
from fulgurite.callbacks.representative_interpretation.planes import Planes
from fulgurite.callbacks.representative_interpretation.untouched import untouched

Peer = Callable[[nn.Module, str, Tensor, Tensor, int], Tensor]

_BATCH = 32  # Score-CAM keeps the features of every masked image until its batch is done


@contextmanager
def _camera(method: type[BaseCAM], model: nn.Module, layer: str) -> Iterator[BaseCAM]:
    """A CAM of the package that leaves no hook, gradient, mode or progress bar behind."""
    module = model.get_submodule(layer)
    quiet = SimpleNamespace(tqdm=lambda steps: steps)
    with untouched(model), patch("pytorch_grad_cam.score_cam.tqdm", quiet):
        cam = method(model, [module])
        cam.compute_input_gradient = True  # else a network with frozen weights has no gradients at all
        # The package keeps the layer's output itself, which a ReLU in place behind it would change.
        guard = module.register_forward_hook(lambda _module, _inputs, output: output.clone())
        try:
            yield cam
        finally:
            guard.remove()
            cam.activations_and_grads.release()


def class_activation(
    model: nn.Module, layer: str, x: Tensor, neighbours: Tensor, label: int, *, method: type[BaseCAM], reuse: bool
) -> Tensor:
    """Maps of the `grad-cam` package for the logit of ``label``, its own ReLU, resizing and scaling included.

    Args:
        model: the classifier.
        layer: name of the module at whose output to look, (B, K, h, w).
        x: (1, …, H, W), of the weights that are reused.
        neighbours: (B, …, H, W).
        label: the class that is explained.
        method: a class of the package.
        reuse: weigh channels as for x; otherwise anew for each image.
    """
    with _camera(method, model, layer) as cam:
        if reuse:
            weights = _channel_weights(cam, x, label)
            cam.uses_gradients = False
            cam.get_cam_weights = lambda _images, _layer, _targets, features, _gradients: np.repeat(
                weights, len(features), axis=0
            )
        maps = [_photograph(cam, part, label) for part in neighbours.split(_BATCH)]
    return torch.from_numpy(np.concatenate(maps)).clamp(0, 1)


def _photograph(cam: BaseCAM, images: Tensor, label: int) -> np.ndarray:
    return cam(images, [ClassifierOutputTarget(label)] * len(images))


def _channel_weights(cam: BaseCAM, x: Tensor, label: int) -> np.ndarray:
    """(1, K) as the method weighs the channels for x."""
    kept = []
    weigh = cam.get_cam_weights

    def noting(*arguments: Any) -> np.ndarray:
        kept.append(weigh(*arguments))
        return kept[-1]

    cam.get_cam_weights = noting
    _photograph(cam, x, label)
    return kept[0]


def layer_features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """ψ of images: the output of a module, (B, K, h, w), detached."""
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output.clone())
    )
    try:
        with untouched(model), torch.no_grad():
            for part in images.split(8 * _BATCH):
                model(part)
    finally:
        hook.remove()
    return torch.cat(kept)


def random_pixels(model: nn.Module, layer: str, x: Tensor, neighbours: Tensor, label: int, *, seed: int = 0) -> Tensor:
    """Uniform noise, each pixel for itself."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(neighbours), *neighbours.shape[-2:], generator=generator)


def random_patches(model: nn.Module, layer: str, x: Tensor, neighbours: Tensor, label: int, *, seed: int = 0) -> Tensor:
    """Noise as coarse and as smooth as a map of that layer: uniform over its (h, w), upsampled."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(len(neighbours), 1, *layer_features(model, layer, x).shape[-2:], generator=generator)
    return nn.functional.interpolate(coarse, size=neighbours.shape[-2:], mode="bilinear")[:, 0]


@dataclass(frozen=True, eq=False)
class Cells:
    """k-means in the space of features: groups of images, and the planes between their centres.

    A cell is bounded by planes as an interpretation is, (μᵢ − μⱼ)ᵀψ = (‖μᵢ‖² − ‖μⱼ‖²) / 2, so its maps are made in the
    same way; but these planes part what looks different to the network, not its decisions.

    Attributes:
        centres: μ, (M, K, h, w) float64.
        majority: (M,) the commonest predicted class in each cell.
    """

    centres: Tensor
    majority: Tensor

    @classmethod
    def fit(cls, features: Tensor, predicted: Tensor, *, clusters: int, seed: int) -> Cells:
        """Cluster reference images.

        Args:
            features: ψ, (N, K, h, w).
            predicted: (N,) the network's classes; they name the cells and are not clustered.
            clusters: M.
            seed: of scikit-learn's k-means++.
        """
        found = KMeans(clusters, n_init=1, random_state=seed).fit(features.flatten(1).numpy())
        centres = torch.from_numpy(found.cluster_centers_).double().view(-1, *features.shape[1:])
        cell = torch.from_numpy(found.labels_).long()
        classes = int(predicted.max()) + 1
        votes = torch.zeros(clusters, classes).index_put_((cell, predicted), torch.ones(len(cell)), accumulate=True)
        return cls(centres, votes.argmax(dim=1))

    def cell(self, features: Tensor) -> Tensor:
        """The cell of each image, (B,): that of the nearest centre."""
        return torch.cdist(features.double().flatten(1), self.centres.flatten(1)).argmin(dim=1)

    def covers(self, x: Tensor, features: Tensor) -> Tensor:
        """Which images lie in the cell of x, (B,) bool; ``x`` are features too, (1, K, h, w)."""
        return self.cell(features) == self.cell(x)

    def planes(self, x: Tensor, label: int) -> Planes:
        """The planes between x's cell and those of other majorities (of any, if there are none)."""
        own = int(self.cell(x))
        others = torch.arange(len(self.centres)) != own
        foreign = others & (self.majority != label)
        others = foreign if bool(foreign.any()) else others
        weight = self.centres[own] - self.centres[others]
        middle = (self.centres[own] + self.centres[others]) / 2
        count = len(weight)
        return Planes(
            weight=weight,
            bias=-(weight * middle).flatten(1).sum(dim=1),
            point=middle,
            rival=self.majority[others],
            grade=("tangent",) * count,
            residual=torch.zeros(count, dtype=torch.float64),
            positive=torch.ones(count, dtype=torch.bool),
            label=label,
        )

    def maps(
        self, model: nn.Module, layer: str, x: Tensor, neighbours: Tensor, label: int, *, kind: Maps = "channel"
    ) -> Tensor:
        """Heat maps of the planes around x's cell, as RepresentativeInterpretation makes them of its own."""
        planes = self.planes(layer_features(model, layer, x), label)
        size = (neighbours.shape[-2], neighbours.shape[-1])
        return heatmaps(planes, layer_features(model, layer, neighbours), maps=kind, size=size)


def peers(cells: Cells, *, seed: int = 0) -> dict[str, Peer]:
    """All of them by name; ``cells`` were fitted at the same layer, on the same reference."""
    methods = {
        "Grad-CAM": pytorch_grad_cam.GradCAM,
        "Grad-CAM++": pytorch_grad_cam.GradCAMPlusPlus,
        "Score-CAM": pytorch_grad_cam.ScoreCAM,
    }
    found: dict[str, Peer] = {}
    for ending, reuse in ((", x's weights reused", True), (", own weights", False)):
        for name, method in methods.items():
            found[name + ending] = partial(class_activation, method=method, reuse=reuse)
    found["k-means, channel"] = partial(cells.maps, kind="channel")
    found["k-means, element-wise"] = partial(cells.maps, kind="elementwise")
    found["random patches"] = partial(random_patches, seed=seed)
    found["random pixels"] = partial(random_pixels, seed=seed)
    return found
