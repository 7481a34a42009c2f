import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation.classifier import Classifier
from fulgurite.callbacks.representative_interpretation.replayed_cut import Capture, Output, Replay, outputs


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(32, 3)]
    return Classifier(nn.Sequential(*layers).eval())


def images():
    return torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_outputs_in_order():
    assert outputs(network(), images()) == [
        Output("0", (4, 2, 4, 4), 1, False),
        Output("1", (4, 2, 4, 4), 1, False),
        Output("2", (4, 2, 4, 4), 1, True),
        Output("3", (4, 32), 1, False),
        Output("4", (4, 3), 2, False),
    ]


@pytest.mark.parametrize("alone", [True, False])
@torch.no_grad()
def test_replaying_what_was_captured_gives_the_same_logits(alone):
    root = network()
    (features,), logits = Capture(root, "0")(images())
    assert features.min() < 0, "the in-place ReLU behind it must not reach the copy"
    assert torch.equal(logits, root(images()))
    replay = Replay(root, "0", 9 * images()[:1], alone=alone)
    torch.testing.assert_close(replay(features.clone()), logits)
    assert not any(module._forward_hooks for module in root.modules())


def test_hooks_go_when_the_network_fails():
    root = network()
    for part in (Capture(root, "0"), Replay(root, "0", images()[:1], alone=True)):
        with pytest.raises(RuntimeError):
            part(torch.zeros(2, 3, 6, 6))
    assert not any(module._forward_hooks for module in root.modules())
