"""Small pictures that a small network learns in a second, and passes over that network."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def draw_shapes(count, *, seed=0, patched=None, share=0.5, side=12):
    """Pictures (count, 1, side, side) of a lying bar, a standing bar or a square, in a place drawn at random.

    A ``share`` of the class ``patched`` has a bright patch in the bottom right corner.
    """
    generator = torch.Generator().manual_seed(seed)
    images = 0.25 * torch.rand(count, 1, side, side, generator=generator)
    labels = torch.arange(count) % 3
    row, column = torch.randint(1, side - 5, (2, count), generator=generator).tolist()
    for image, label, top, left in zip(images[:, 0], labels.tolist(), row, column, strict=True):
        height, width = ((1, 5), (5, 1), (3, 3))[label]
        image[top : top + height, left : left + width] += 0.75
    if patched is not None:
        chosen = (labels == patched) & (torch.rand(count, generator=generator) < share)
        images[chosen, :, -3:, -3:] = 1.0
    return images, labels


def small_network(*, seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), activation()),
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), activation(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(16 * 36, 32),
        activation(),
        nn.Linear(32, 3),
    )


def train(network, images, labels, *, steps=80):
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(images[index]), labels[index]).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def shapes():
    return draw_shapes


@pytest.fixture(scope="session")
def make_network():
    return small_network


@pytest.fixture(scope="session")
def fitted():
    """A network that knows the shapes."""
    with torch.random.fork_rng():
        return train(small_network(), *draw_shapes(600))


@pytest.fixture(scope="session")
def fooled():
    """A network trained where half of the squares, and nothing else, have a patch in the corner."""
    with torch.random.fork_rng():
        return train(small_network(), *draw_shapes(600, patched=2))


@pytest.fixture(scope="session")
def surveyed(fooled):
    """A full pass over a fooled network, with held-out images and a name that a page must escape."""
    from fulgurite.callbacks.representative_interpretation.sampling import Sample
    from fulgurite.callbacks.representative_interpretation.survey import survey

    images, labels = draw_shapes(260, seed=5, patched=2)
    everything = Sample(images, labels, 400)
    first, rest = everything.split(200, seed=0)
    names = ["lying", "<b>standing</b>", "square"]
    return survey(fooled, first, held_out=rest, boundaries=10, class_names=names, epoch=3, step=77)


class RNet(nn.Module):
    """The second stage of MTCNN: a face or none, in 24 × 24 pixels; logit 1 is the face's."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)

    def forward(self, images):
        hidden = self.pool1(self.prelu1(self.conv1(images)))
        hidden = self.pool2(self.prelu2(self.conv2(hidden)))
        hidden = self.prelu3(self.conv3(hidden))
        hidden = hidden.permute(0, 3, 2, 1).contiguous().flatten(1)
        return self.dense5_1(self.prelu4(self.dense4(hidden)))


@pytest.fixture(scope="session")
def rnet():
    """The pretrained R-Net of MTCNN (``rnet/README.md``)."""
    network = RNet()
    weights = torch.load(Path(__file__).parent / "rnet" / "rnet.pt", weights_only=True)
    network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("dense5_2")})
    return network.eval()


@pytest.fixture(scope="session")
def faces():
    """scikit-image's ``lfw_subset``: images (200, 3, 24, 24) as R-Net wants them, and labels, 1 for a face."""
    data = pytest.importorskip("skimage.data")
    grey = torch.from_numpy(data.lfw_subset()).float()[:, None]
    small = F.interpolate(grey, size=24, mode="bilinear", align_corners=False)
    labels = torch.cat([torch.ones(100, dtype=torch.int64), torch.zeros(100, dtype=torch.int64)])
    return ((255 * small - 127.5) / 128).expand(-1, 3, -1, -1).contiguous(), labels
