import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fulgurite.callbacks.representative_interpretation.classifier import Classifier
from fulgurite.callbacks.representative_interpretation.traced_cut import Trace, trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Identity(), nn.ReLU())
        self.drop = nn.Dropout()
        self.act = nn.ReLU()
        self.last = nn.Linear(4, 2)

    def forward(self, images):
        hidden = self.drop(self.block(images))
        F.relu_(hidden)  # in place, its result unused
        hidden = self.act(hidden - 0.1) + torch.arange(4).view(1, 4, 1, 1)
        hidden = self.act(F.max_pool2d(hidden, 2))
        flat = hidden.mean((2, 3)).reshape(images.size(0), 4)
        return self.last(flat.to(images.dtype))


def traced(net, count=3):
    images = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = trace(Classifier(net.eval()), images)
    assert isinstance(found, Trace), found
    return found, images


def test_names_are_those_of_modules_then_of_operations():
    found, _ = traced(Net())
    assert list(found.places) == [
        *("block.0", "block.2", "relu_", "sub", "act_0", "add", "max_pool2d", "act_1", "mean", "reshape", "to"),
        "last",
    ]
    assert found.aliases["block"] == found.aliases["drop"] == "block.2"
    assert found.aliases["block.1"] == "block.0"
    assert found.runs == {"act": ("act_0", "act_1")}


@torch.no_grad()
def test_each_place_cuts_in_two():
    found, images = traced(Net())
    expected = found.root(images)
    torch.testing.assert_close(found.whole()(images), expected)
    assert found.places["relu_"].crossing == ("block.2",)  # what it returns is not used
    for place in found.places.values():
        if place.crossing:
            continue
        features = found.before(place)(images)
        for count in (1, 3):  # not only as many as were traced with
            torch.testing.assert_close(found.behind(place)(features[:count].clone()), expected[:count])


def test_what_goes_around_a_place_is_named():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, images):
            hidden = self.first(images)
            return (self.second(hidden) + hidden + images.mean()).flatten(1)

    found, _ = traced(Skip())
    assert found.places["first"].crossing == ("the images",)
    assert found.places["second"].crossing == ("first", "the images")
    assert found.places["flatten"].crossing == ()


def test_weights_are_only_those_behind_the_place():
    found, _ = traced(Net())
    assert found.behind(found.places["act_0"]).weights() == ["root.model.last.weight", "root.model.last.bias"]


def test_what_does_not_lead_to_the_logits_does_not_run_but_for_what_it_writes():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.beside = nn.Conv2d(1, 4, 3), nn.Linear(64, 2)

        def forward(self, images):
            hidden = self.first(images)
            self.beside(hidden.flatten(1)).softmax(1)
            hidden.flatten(1).sub_(0.5)  # through a view
            return hidden.mean((2, 3))

    found, images = traced(Aside())
    place = found.places["first"]
    behind = found.behind(place)
    assert behind.weights() == []
    expected = found.root(images)
    torch.testing.assert_close(behind(found.before(place)(images)), expected)


def test_values_are_let_go():
    found, images = traced(nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(8)], nn.Flatten()))
    values, alive = [], []

    def note(_, value):
        values.append(weakref.ref(value))
        alive.append(sum(value() is not None for value in values))

    with torch.no_grad():
        found.whole()(images, note)
    assert len(alive) == 9
    assert max(alive) <= 2


def test_hooks_on_modules_of_modules_are_not_traced():
    net = Net()
    net.block.register_forward_hook(lambda *_: None)
    assert trace(Classifier(net.eval()), torch.randn(2, 1, 6, 6)) == "hooks are registered on 'block'"


def test_no_stand_in_for_a_tensor_stays_in_the_network():
    class Keeping(Net):
        last_seen = None

        def forward(self, images):
            self.last_seen = super().forward(images)
            return self.last_seen

    net = Keeping()
    traced(net)
    assert net.last_seen is None


def test_branches_on_values_cannot_be_traced():
    class Branch(nn.Module):
        def forward(self, images):
            return images.flatten(1) if images.sum() > 0 else -images.flatten(1)

    reason = trace(Classifier(Branch().eval()), torch.randn(2, 1, 6, 6))
    assert "torch.fx cannot trace it (TraceError" in reason


@pytest.mark.parametrize("scale", ["item", "size"])
def test_numbers_from_values_are_no_sizes(scale):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images):
            factor = images.abs().max().item() if scale == "item" else images.size(3)
            return self.conv(images).flatten(1) * factor

    found, _ = traced(Scaled(), count=1)
    assert bool(found.places["conv"].crossing) == (scale == "item")
