"""The finding behind ``init="spread"``: nodes that start on their query never find what lies far away."""

import pytest
import torch
from torch import nn

from fulgurite.models.repgraph.layer import RepGraph2d

SIDE, CLASSES = 16, 6


def scenes(count, draw):
    """Quadrants of one class each, seen through noise; the label is the class of the diagonally opposite one."""
    half = SIDE // 2
    classes = torch.randint(CLASSES, (count, 2, 2), generator=draw)
    seen = classes.repeat_interleave(half, dim=1).repeat_interleave(half, dim=2)
    maps = nn.functional.one_hot(seen, CLASSES).permute(0, 3, 1, 2).float()
    maps += 0.5 * torch.randn(maps.shape, generator=draw)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    own = torch.stack([y, x]).expand(count, 2, SIDE, SIDE)
    return torch.cat([maps, own], dim=1), seen.flip(1, 2)


def accuracy_after_training(init, steps=100):
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(CLASSES + 2, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        RepGraph2d(32, variant="simple", tied=False, init=init),
        nn.Conv2d(32, CLASSES, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(steps):
        images, labels = scenes(16, draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        schedule.step()
    images, labels = scenes(64, draw)
    with torch.no_grad():
        return (network.eval()(images).argmax(dim=1) == labels).float().mean().item()


@pytest.mark.slow
def test_spread_nodes_find_the_opposite_quadrant_and_others_do_not():
    chance = 1 / CLASSES
    assert accuracy_after_training("zero") < chance + 0.15
    assert accuracy_after_training("spread") > 0.7
