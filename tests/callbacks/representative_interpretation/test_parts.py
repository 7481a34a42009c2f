import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation.classifier import Classifier
from fulgurite.callbacks.representative_interpretation.parts import ReplayedParts, TracedParts, replayed_parts
from fulgurite.callbacks.representative_interpretation.traced_cut import trace


class Shared(nn.Module):
    """One weight behind two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)
        self.third.weight = self.second.weight

    def forward(self, images):
        return self.last(self.third(self.second(self.first(images)).relu()).mean((2, 3)))


def parts_of(kind):
    torch.manual_seed(0)
    root, images = Classifier(Shared().eval()), torch.randn(3, 1, 6, 6)
    with torch.no_grad():
        expected = root.logits(images)
        if kind == "replay":
            return replayed_parts(root, "first", images, expected), images, expected
        traced = trace(root, images)
    return TracedParts(root, traced, traced.places["first"]), images, expected


@pytest.mark.parametrize("kind", ["fx", "replay"])
def test_weights_of_a_type_are_made_once_and_shared_as_in_the_network(kind):
    parts, images, expected = parts_of(kind)
    features, logits = parts.predict(images)
    assert torch.equal(logits, expected)
    exact = parts.head(features.double())
    made = parts._weights[torch.float64]
    parts.head(features.double())
    assert parts._weights[torch.float64] is made
    assert made["root.model.third.weight"] is made["root.model.second.weight"]
    assert ("root.model.first.weight" in made) == (kind == "replay")
    torch.testing.assert_close(exact.float(), expected)
    assert parts.root.model.third.weight is parts.root.model.second.weight


def test_weights_in_the_networks_own_type_are_no_copies():
    parts, images, _ = parts_of("fx")
    parts.head(parts.features(images))
    assert parts._weights[torch.float32]["root.model.last.weight"].data_ptr() == parts.root.model.last.weight.data_ptr()


def test_the_part_before_runs_on_one_image_where_that_is_enough():
    parts, images, _ = parts_of("replay")
    assert isinstance(parts, ReplayedParts)
    seen = []
    handle = parts.root.model.first.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    features = parts.features(images)
    parts.head(features)
    handle.remove()
    assert seen == [3, 1]
