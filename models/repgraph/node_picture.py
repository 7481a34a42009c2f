"""A picture of where chosen pixels look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fulgurite.models.repgraph.positions import clamp_to_map
from fulgurite.models.repgraph.sampling_shares import node_shares
from fulgurite.plugins.files import replacing

if TYPE_CHECKING:
    from fulgurite.models.repgraph.layer import RepGraph2d


def visualize_nodes(
    layer: RepGraph2d,
    image: Tensor,
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    pixels: Sequence[tuple[int, int]] | None = None,
    item: int = 0,
) -> Path:
    """Draw where chosen pixels of an image look: a cross on each, and a disc on each of its nodes.

    A disc's area is the share that the pixel gives the node; shares are among sampled nodes. Of several groups, each
    has discs.

    Args:
        layer: the layer.
        image: (B, 3 or 1, H, W) or without B, in any range; what the model gets, or, without a model, the layer's own
            map (C, H, W), whose channels are then averaged for the picture.
        path: the picture to write, whole or not at all; its suffix chooses the format.
        model: the network that the layer is in; it is run in evaluation mode, and put back.
        pixels: (y, x) of the layer's map; three along its diagonal where not given.
        item: the image of the batch.

    Returns:
        The path.

    Raises:
        ValueError: a shape that does not fit, a pixel outside of the map, or a layer that the model does not call.

    Example:
        >>> import tempfile
        >>> from fulgurite.models.repgraph.layer import RepGraph2d
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     visualize_nodes(RepGraph2d(8), torch.rand(8, 16, 16), f"{folder}/nodes.png").name
        'nodes.png'
    """
    image = image if image.ndim == 4 else image.unsqueeze(0)
    if image.ndim != 4 or not 0 <= item < len(image):
        raise ValueError(f"got an image of shape {tuple(image.shape)} and item={item}; want (B, C, H, W) and one of B")
    image = image[item : item + 1]
    with torch.no_grad():
        features = image if model is None else _input_of(layer, model, image)
        query, key, _ = layer.embeddings(features)
        height, width = query.shape[2:]
        chosen = list(pixels or ((height * i // 4, width * i // 4) for i in (1, 2, 3)))
        for y, x in chosen:
            if not (0 <= y < height and 0 <= x < width):
                raise ValueError(f"got pixel ({y}, {x}); the layer's map is {height} × {width}")
        take = torch.tensor([y * width + x for y, x in chosen], device=query.device)
        positions = clamp_to_map(layer.places(query)[:, take], (height, width))
        shares = node_shares(query, key, positions, take, layer.groups)
    picture = _as_picture(image[0])
    # A pixel of the map is a block of the image: centres onto centres.
    scale = torch.tensor([picture.shape[0] / height, picture.shape[1] / width])
    own = (torch.tensor(chosen, dtype=torch.float32) + 0.5) * scale - 0.5
    return _draw(picture, own, (positions[0].float().cpu() + 0.5) * scale - 0.5, shares[0].cpu(), Path(path))


def _input_of(layer: nn.Module, model: nn.Module, image: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    training = {m: m.training for m in model.modules()}
    try:
        model.eval()(image)
    finally:
        handle.remove()
        for m, was in training.items():
            m.training = was
    if not seen:
        raise ValueError(f"{type(model).__name__} does not call the layer; give the model that it is in")
    return seen[0]


def _as_picture(image: Tensor) -> Tensor:
    """(C, H, W) → (H, W, 3) in [0, 1]."""
    image = image.detach().float().cpu()
    if len(image) != 3:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0)


def _draw(picture: Tensor, own: Tensor, places: Tensor, shares: Tensor, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = picture.shape[:2]
    side = 6.0 / max(height, width)
    figure = Figure(figsize=(max(2.5, width * side), max(2.5, height * side) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(picture.numpy(), interpolation="nearest")
    colours = ["#ff3b30", "#34c7ff", "#ffd60a", "#30d158", "#bf5af2", "#ff9f0a"]
    for i, (y, x) in enumerate(own.tolist()):
        colour = colours[i % len(colours)]
        for (py, px), share in zip(places[i].flatten(0, 1).tolist(), shares[i].flatten().tolist(), strict=True):
            axes.plot([x, px], [y, py], color=colour, linewidth=0.8, alpha=0.6)
            axes.scatter([px], [py], s=20 + 400 * share, color=colour, edgecolors="black", linewidths=0.7, zorder=3)
        axes.scatter([x], [y], s=130, color=colour, marker="X", edgecolors="white", linewidths=1.3, zorder=4)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("where the crossed pixels look; area: share of the node", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
