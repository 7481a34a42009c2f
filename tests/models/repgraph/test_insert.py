"""A context layer enters other people's networks, and every key they had stays."""

import copy

import pytest
import timm
import torch
import torchvision

from fulgurite.models.repgraph.insert import InsertError, insert_context
from fulgurite.models.repgraph.layer import RepGraph2d

NETWORKS = {
    "torchvision resnet": (lambda: torchvision.models.resnet18(), "layer3", 256, "layer3.2"),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v3_small(), "features.8", 48, "features.8.context"),
    "torchvision convnext": (lambda: torchvision.models.convnext_tiny(), "features.5", 384, "features.5.9"),
    "timm resnet": (lambda: timm.create_model("resnet10t"), "layer3", 256, "layer3.1"),
    "timm convnext": (lambda: timm.create_model("convnext_atto"), "stages.2", 160, "stages.2.context"),
    "timm features": (lambda: timm.create_model("resnet10t", features_only=True), "layer3", 256, "layer3.1"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_stay_and_the_layer_is_reached(name):
    make, stage, channels, home = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    expected = model(x)
    layer = insert_context(model, stage, RepGraph2d, inter_channels=8)
    assert layer.in_channels == channels
    assert model.get_submodule(home) is layer
    assert not layer.training
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    answer = model(x)
    torch.testing.assert_close(answer, expected, rtol=0, atol=0)
    (answer[-1] if isinstance(answer, list) else answer).sum().backward()
    assert layer.project[-1].weight.grad.abs().sum() > 0
    # A copy calls its own layer.
    other = copy.deepcopy(model)
    torch.nn.init.ones_(other.get_submodule(home).project[-1].weight)
    changed = other(x)
    assert not torch.equal(
        (changed[-1] if isinstance(changed, list) else changed), answer[-1] if name.endswith("features") else answer
    )
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    missing, unexpected = make().load_state_dict(after, strict=False)
    assert not missing
    assert all(key.startswith(home) for key in unexpected)


def test_what_cannot_be_done_is_said():
    model = torchvision.models.resnet18()
    with pytest.raises(InsertError, match="no stage 'layer33'; the nearest is 'layer3'"):
        insert_context(model, "layer33")
    with pytest.raises(InsertError, match=r"'fc' gives \(1, 1000\); want a map"):
        insert_context(model, "fc")
    with pytest.raises(ValueError, match="got RepGraph2d options nodes; it has"):
        insert_context(model, "layer3", RepGraph2d, nodes=4)
    insert_context(model, "layer3", "non_local")
    with pytest.raises(InsertError, match=r"'layer3' has a NonLocal2d already, as layer3\.2"):
        insert_context(model, "layer3")


def test_finding_out_leaves_the_model_as_it_was():
    model = torchvision.models.resnet18().double()
    model.layer1.eval()
    before = copy.deepcopy(model.state_dict())
    layer = insert_context(model, "layer2", num_nodes=2)
    assert model.training
    assert not model.layer1.training
    assert layer.offset.weight.dtype == torch.double
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert insert_context(model, "layer4", in_channels=512).in_channels == 512


def test_a_stage_nobody_calls_needs_channels():
    model = torchvision.models.resnet18()
    model.idle = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    with pytest.raises(InsertError, match="the model answers without calling it; give in_channels"):
        insert_context(model, "idle")
