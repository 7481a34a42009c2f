import re

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from fulgurite.models.backbone import build_backbone


def lively(network, seed=0):
    """Normalisations that do something, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return network.double().eval()


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("small_resnet", (4, 8, 16, 32)),
        ("tiny_resnet", (1, 2, 4, 8)),
        ("flat_cnn", (1, 1, 1, 1)),
        ("resnet18", (4, 8, 16, 32)),
    ],
)
def test_maps_have_the_widths_and_strides_that_are_said(name, strides):
    backbone = build_backbone(name, in_channels=2)
    maps = backbone(torch.zeros(2, 2, 64, 33))
    assert list(maps) == ["layer1", "layer2", "layer3", "layer4"]
    for (layer, values), stride in zip(maps.items(), strides, strict=True):
        assert values.shape == (2, backbone.out_channels[layer], 64 // stride, -(-33 // stride))
        assert isinstance(backbone.get_submodule(layer), nn.Sequential)


def test_the_small_network_is_small():
    assert sum(p.numel() for p in build_backbone("small_resnet").parameters()) < 1.5e6


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_is_torchvisions(output_stride):
    backbone = lively(build_backbone("resnet50", output_stride=output_stride))
    theirs = get_model("resnet50", replace_stride_with_dilation=[False, output_stride == 8, True]).double().eval()
    assert not theirs.load_state_dict(backbone.state_dict(), strict=False).unexpected_keys
    x = torch.rand(1, 3, 40, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = IntermediateLayerGetter(theirs, {"layer4": "layer4"})(x)["layer4"]
    torch.testing.assert_close(backbone(x)["layer4"], wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "output_stride"), [("small_resnet", 8), ("small_resnet", 4), ("tiny_resnet", 1), ("resnet18", 16)]
)
def test_a_dilated_network_gives_what_the_strided_one_gave_and_what_lies_between(name, output_stride):
    strided = lively(build_backbone(name))
    dilated = lively(build_backbone(name, output_stride=output_stride))
    dilated.load_state_dict(strided.state_dict())
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted, found = strided(x)["layer4"], dilated(x)["layer4"]
    step = found.shape[2] // wanted.shape[2]
    assert step > 1
    torch.testing.assert_close(found[:, :, ::step, ::step], wanted, rtol=1e-9, atol=1e-10)


def test_the_flat_network_sees_its_neighbours_only():
    backbone = build_backbone("flat_cnn").eval()
    x = torch.rand(1, 3, 15, 15, requires_grad=True)
    backbone(x)["layer4"][0, :, 7, 7].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[5:10, 5:10].any()
    seen[5:10, 5:10] = False
    assert not seen.any()


def test_a_file_of_the_whole_network_or_of_the_backbone_is_read(tmp_path):
    whole = get_model("resnet18", num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    first = build_backbone("resnet18", weights=str(tmp_path / "whole.pt"), output_stride=8)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in first.state_dict().items())
    torch.save(
        {"state_dict": {f"network.backbone.{key}": value for key, value in first.state_dict().items()}},
        tmp_path / "checkpoint.ckpt",
    )
    second = build_backbone("resnet18", weights=str(tmp_path / "checkpoint.ckpt"))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in second.state_dict().items())


def test_filters_of_other_channels_are_averaged(tmp_path):
    colour = build_backbone("tiny_resnet").eval()
    torch.save(colour.state_dict(), tmp_path / "colour.pt")
    grey = build_backbone("tiny_resnet", weights=str(tmp_path / "colour.pt"), in_channels=1).eval()
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(grey(x)["layer4"], colour(x.expand(-1, 3, -1, -1))["layer4"], rtol=1e-4, atol=1e-4)


def test_frozen_normalisations_stay_as_they_were_loaded(tmp_path):
    usual = build_backbone("tiny_resnet")
    usual(torch.rand(4, 3, 16, 16))
    torch.save(usual.state_dict(), tmp_path / "usual.pt")
    frozen = build_backbone("tiny_resnet", weights=str(tmp_path / "usual.pt"), norm="frozen")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules()) == 12
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(frozen.train()(x)["layer4"], usual.eval()(x)["layer4"], rtol=1e-4, atol=1e-5)
    torch.save(frozen.state_dict(), tmp_path / "frozen.pt")
    again = build_backbone("tiny_resnet", weights=str(tmp_path / "frozen.pt"))
    torch.testing.assert_close(again.eval()(x)["layer4"], usual(x)["layer4"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19"}, "no backbone 'resnet19'; did you mean"),
        ({"name": "alexnet"}, "no backbone 'alexnet'"),
        ({"name": "resnet18", "output_stride": 2}, "got output_stride=2 for resnet18, whose stem has stride 4; choose"),
        ({"name": "resnet18", "output_stride": 12}, "choose from 4, 8, 16, 32"),
        ({"name": "tiny_resnet", "in_channels": 0}, "got in_channels=0; want at least 1"),
        ({"name": "tiny_resnet", "norm": "layer"}, "got norm='layer'; choose from batch, frozen"),
        ({"name": "tiny_resnet", "weights": "DEFAULT"}, "got weights='DEFAULT' for tiny_resnet; there is no such file"),
        ({"name": "resnet18", "weights": "IMAGENET1K_V3"}, "nor such a published set; did you mean"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_backbone(**options)


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(build_backbone("tiny_resnet").state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"tiny\.pt: holds weights of another network: .*another shape of conv1"):
        build_backbone("small_resnet", weights=str(tmp_path / "tiny.pt"))
