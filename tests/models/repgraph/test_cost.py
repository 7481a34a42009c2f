"""Multiply-adds: the published figures' arithmetic, and closed form against what is counted."""

import pytest
import torch

from fulgurite.models.repgraph.cost import count_macs, layer_macs
from fulgurite.models.repgraph.global_context import GlobalContext2d
from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.non_local import NonLocal2d

LARGE = (128, 256)


@pytest.mark.parametrize(
    ("layer", "options", "giga"),
    [
        (NonLocal2d, {"tied": False}, 618.5),
        (NonLocal2d, {"tied": False, "backend": "matmul"}, 618.5),
        (RepGraph2d, {"backend": "grid_sample"}, 36.2),
        (RepGraph2d, {"backend": "grid_sample", "offset_kernel": 1}, 35.0),
        (RepGraph2d, {"backend": "grid_sample", "tied": False}, 70.8),
        (RepGraph2d, {"backend": "bag"}, 36.3),  # taps times queries, not samples times queries
    ],
)
def test_large_maps_are_counted_on_meta(layer, options, giga):
    with torch.device("meta"):
        built = layer(2048, inter_channels=256, **options).eval()
        counted = count_macs(built, torch.empty(1, 2048, *LARGE))
    assert counted == layer_macs(built, LARGE)
    assert round(counted / 1e9, 1) == giga


def test_non_local_without_its_output_projection():
    with torch.device("meta"):
        built = NonLocal2d(2048, inter_channels=256, tied=False).eval()
        built.project = torch.nn.Conv2d(256, 2048, 1)
        whole = count_macs(built, torch.empty(1, 2048, *LARGE))
        projection = count_macs(built.project, torch.empty(1, 256, *LARGE))
    assert round((whole - projection) / 1e9, 1) == 601.3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("variant", ["bottleneck", "simple"])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (RepGraph2d, {"backend": "grid_sample", "num_nodes": 3}),
        (RepGraph2d, {"backend": "bag", "num_nodes": 3, "global_nodes": 2}),
        (NonLocal2d, {}),
        (NonLocal2d, {"backend": "matmul"}),
        (GlobalContext2d, {}),
    ],
)
def test_a_small_layer_costs_what_its_formula_says(layer, options, variant, tied):
    built = layer(12, inter_channels=4, groups=2, variant=variant, tied=tied, **options).eval()
    assert count_macs(built, torch.rand(1, 12, 5, 7)) == layer_macs(built, (5, 7))


def test_brute_force_of_one_layer():
    """Multiplications, loop by loop, of a tied layer as it is defined."""
    height, width, channels, inner, nodes, kernel = 3, 4, 8, 2, 5, 3
    total = 0
    for _ in range(height * width):
        total += sum(1 for _ in range(channels) for _ in range(inner))  # embed
        total += sum(1 for _ in range(2 * nodes) for _ in range(inner) for _ in range(kernel**2))  # offsets
        for _ in range(nodes):
            total += sum(1 for _ in range(4) for _ in range(inner))  # four corners
            total += inner + inner  # score, sum
        total += sum(1 for _ in range(inner) for _ in range(channels))  # project
    built = RepGraph2d(channels, inter_channels=inner, num_nodes=nodes, backend="grid_sample").eval()
    assert count_macs(built, torch.rand(1, channels, height, width)) == total == layer_macs(built, (height, width))


def test_another_layer_has_no_formula():
    with pytest.raises(ValueError, match="got a Conv2d"):
        layer_macs(torch.nn.Conv2d(1, 1, 1), (2, 2))
