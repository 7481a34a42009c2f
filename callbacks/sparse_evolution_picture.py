"""Pictures of a network's topology, as Matplotlib figures that leave pyplot's global state alone."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.places import node_ranks

INK, MUTED, GRID, OLD, NEW = "#24292f", "#6e7781", "#d8dee4", "#7f90a5", "#d9480f"
_HEAT = LinearSegmentedColormap.from_list("edges", ["#ffffff", "#f2b591", NEW, "#5c1d05"])
_MOST_LINES = 1500  # beyond, lines between nodes are a grey area: edges are shown as dots of a matrix
_LEAST_SIDE = 8


def draw_evolution(network: SparseNetwork, first: Tensor, ranks: Tensor) -> Figure:
    """What evolution made of a network: where its edges were at first, and where they are.

    Networks whose inputs are the pixels of a square image show how many edges leave each pixel, before and after, so
    that one sees what the network has learned to look at; beside it, old and new edges of the whole network.

    Args:
        network: as it is now.
        first: (E, 2) its edges at first, user ids.
        ranks: (N,) of its nodes, of :func:`~fulgurite.models.sparse_network.places.node_ranks` at first.

    Example:
        >>> network = SparseNetwork([[0, 2], [1, 3], [2, 4], [3, 4]], num_inputs=2, outputs=[4])
        >>> figure = draw_evolution(network, torch.tensor([[0, 3], [1, 3], [2, 4], [3, 4]]), node_ranks(network))
        >>> [axis.get_title(loc="left") for axis in figure.axes]
        ['3 edges as at first, 1 new']
    """
    edges = network.edges.cpu()
    side = math.isqrt(network.num_inputs)
    if side < _LEAST_SIDE or side * side != network.num_inputs:
        figure, (axis,) = _figure([6.4], 5.2)
        _draw_edges(axis, edges, first, ranks)
        return figure
    figure, axes = _figure([3.4, 3.4, 4.6], 3.9)
    counts = [_fan_out(network, pairs).reshape(side, side) for pairs in (first, edges)]
    most = max(1, int(max(count.max() for count in counts)))
    for axis, count, title in zip(axes, counts, ("Edges from each pixel, at first", "now"), strict=False):
        image = axis.imshow(count, cmap=_HEAT, vmin=0, vmax=most)
        axis.set_title(title, loc="left", color=INK, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=axes[1], shrink=0.75).ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _draw_edges(axes[2], edges, first, ranks)
    return figure


def draw_network(network: SparseNetwork) -> Figure:
    """A network level by level: lines between nodes where they are few, else dots of its adjacency matrix.

    Example:
        >>> network = SparseNetwork([[0, 2], [1, 2], [2, 3], [0, 3]], num_inputs=2, outputs=[3])
        >>> draw_network(network).axes[0].get_title(loc="left")
        '4 edges between 4 nodes'
    """
    edges, ranks = network.edges.cpu(), node_ranks(network)
    if len(edges) > _MOST_LINES:
        figure, (axis,) = _figure([6.4], 5.2)
        _draw_edges(axis, edges, edges, ranks)
        return figure
    figure, (axis,) = _figure([8.0], 5.2)
    place = _layout(ranks)
    weight = network.weight.detach().float().cpu().numpy()
    width = 0.3 + 2.2 * np.abs(weight) / max(float(np.abs(weight).max(initial=0)), 1e-12)
    colors = np.where(weight >= 0, "#3f72b5", NEW).tolist()
    axis.add_collection(LineCollection(place[edges.numpy()], colors=colors, linewidths=width.tolist(), alpha=0.6))
    inputs = np.arange(network.num_nodes) < network.num_inputs
    axis.scatter(place[inputs, 0], place[inputs, 1], s=22, color=OLD, zorder=3, label="input")
    axis.scatter(place[~inputs, 0], place[~inputs, 1], s=30, color=INK, zorder=3, label="node")
    axis.set_xlabel("level (blue: positive weight, orange: negative)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_yticks([])
    axis.margins(0.04)
    axis.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper right")
    title = f"{len(edges):,} edges between {network.num_nodes:,} nodes"
    axis.set_title(title, loc="left", color=INK, fontsize=10)
    return figure


def _draw_edges(axis: Axes, edges: Tensor, first: Tensor, ranks: Tensor) -> None:
    """Old and new edges as dots of the adjacency matrix, nodes in order of their rank."""
    order = torch.argsort(ranks, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    places = position[edges].numpy()
    old = torch.isin(edges[:, 0] * len(ranks) + edges[:, 1], first[:, 0] * len(ranks) + first[:, 1]).numpy()
    size = float(np.clip(3e4 / max(1, len(edges)), 0.4, 12))
    for chosen, color in ((old, OLD), (~old, NEW)):
        axis.scatter(places[chosen, 0], places[chosen, 1], s=size, color=color, linewidth=0, rasterized=True)
    starts = torch.searchsorted(ranks[order], torch.arange(1, int(ranks.max()) + 1)).tolist()
    if len(starts) <= 40:
        for start in starts:
            axis.axvline(start - 0.5, color=GRID, linewidth=0.6, zorder=0)
            axis.axhline(start - 0.5, color=GRID, linewidth=0.6, zorder=0)
    axis.set_xlabel("from node, by level")
    axis.set_ylabel("to node, by level")
    axis.set_xlim(-0.5, len(ranks) - 0.5)
    axis.set_ylim(len(ranks) - 0.5, starts[0] - 0.5 if starts else -0.5)
    new = int((~old).sum())
    title = f"{len(edges) - new:,} edges as at first, {new:,} new" if new else f"{len(edges):,} edges"
    axis.set_title(title, loc="left", color=INK, fontsize=10)


def _layout(ranks: Tensor) -> NDArray[np.float64]:
    """Where each node is drawn, (N, 2): its rank, and a place of its own between 0 and 1."""
    place = np.zeros((len(ranks), 2))
    place[:, 0] = ranks.numpy()
    for rank in ranks.unique():
        nodes = torch.nonzero(ranks == rank).flatten().numpy()
        place[nodes, 1] = (np.arange(len(nodes), 0, -1) - 0.5) / len(nodes)
    return place


def _fan_out(network: SparseNetwork, edges: Tensor) -> NDArray[np.int64]:
    sources = edges[:, 0]
    return torch.bincount(sources[sources < network.num_inputs], minlength=network.num_inputs).numpy()


def _figure(widths: list[float], height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(sum(widths), height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(MUTED)
        axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
    return figure, axes
