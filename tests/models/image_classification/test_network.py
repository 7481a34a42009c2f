import sys

import pytest
import torch
import torchvision
from torch import nn

from fulgurite.models.image_classification.network import SMALL, build_network, gap_cnn, small_cnn


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 64, 48), (1, 8, 8)])
def test_small_networks_take_images_of_any_size_and_learn_in_every_weight(backbone, channels, height, width):
    torch.manual_seed(0)
    network = build_network(backbone, num_classes=5, in_channels=channels)
    logits = network(torch.randn(4, channels, height, width))
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    assert sum(weight.numel() for weight in network.parameters()) < 1_000_000


def halfway(head, first, second):
    """How far the head is from linear between two feature maps."""
    middle = head((first + second) / 2)
    return (middle - (head(first) + head(second)) / 2).abs().max().item()


def test_the_head_of_one_is_linear_and_that_of_the_other_is_not():
    torch.manual_seed(0)
    first, second = torch.randn(2, 48, 7, 7), torch.randn(2, 48, 7, 7)
    assert halfway(gap_cnn(10).head, first, second) < 1e-6
    assert halfway(small_cnn(10).head, first, second) > 1e-2


def test_the_grid_averages_two_by_two_of_28_pixels():
    network = small_cnn(10).eval()
    before = network.stage3[:-1](network.stage2(network.stage1(torch.randn(3, 1, 28, 28))))
    assert before.shape == (3, 48, 14, 14)
    torch.testing.assert_close(network.stage3[-1](before), nn.functional.avg_pool2d(before, 2))


@pytest.mark.parametrize(
    "backbone",
    [
        "squeezenet1_1",
        "shufflenet_v2_x0_5",
        "resnet18",
        "mobilenet_v3_small",
        "mnasnet0_5",
        "regnet_x_400mf",
        "googlenet",
    ],
)
def test_torchvisions_take_other_classes_and_channels(backbone):
    network = build_network(backbone, num_classes=6, in_channels=2)
    for mode in (True, False):
        assert network.train(mode)(torch.randn(2, 2, 64, 64)).shape == (2, 6)


def test_without_weights_torchvisions_own_start_is_kept():
    torch.manual_seed(3)
    wanted = torchvision.models.shufflenet_v2_x0_5(num_classes=4).state_dict()
    torch.manual_seed(3)
    network = build_network("shufflenet_v2_x0_5", num_classes=4)
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


@pytest.fixture
def published(monkeypatch):
    """What a download would give: the weights of a network with a seed of its own."""
    torch.manual_seed(5)
    trained = torchvision.models.squeezenet1_1()
    asked = []

    def give(url, *args, **options):
        asked.append(url)
        return trained.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", give)
    return trained.eval(), asked


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT"])
def test_published_weights_are_taken_whole_where_the_network_is_theirs(published, weights):
    trained, asked = published
    network = build_network("squeezenet1_1", num_classes=1000, weights=weights).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), trained(images))
    assert len(asked) == 1
    assert "squeezenet1_1" in asked[0]


def test_published_weights_fit_other_classes_and_grey_images(published):
    trained, _ = published
    network = build_network("squeezenet1_1", num_classes=7, in_channels=1, weights="DEFAULT").eval()
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(
        network.features(grey), trained.features(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-3
    )
    assert network(grey).shape == (2, 7)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_a_failed_download_is_one_line(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(ValueError, match=rf"DEFAULT of resnet18 cannot be had \({error}\); give the path"):
        build_network("resnet18", num_classes=2, weights="DEFAULT")


def test_timms_networks_are_built_and_start_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    trained = timm.create_model("resnet10t", num_classes=1000, in_chans=1)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    network = build_network("timm/resnet10t", num_classes=3, in_channels=1, weights=str(tmp_path / "trained.pt")).eval()
    images = torch.randn(2, 1, 64, 64)
    assert network(images).shape == (2, 3)
    assert torch.equal(network.forward_features(images), trained.eval().forward_features(images))


@pytest.mark.parametrize("name", ["resnet10", "hf-hub:someone/network", "local-dir:/tmp/network"])
def test_timms_unknown_and_foreign_names_are_refused(name):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=rf"timm has no network '{name}'"):
        build_network(f"timm/{name}", num_classes=3)


def test_timm_that_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm/… need timm, which is not installed .* pip install timm"):
        build_network("timm/resnet18", num_classes=3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backbone": "resnet19"}, r"no network 'resnet19'; did you mean 'resnet18'"),
        ({"backbone": "deeplabv3_resnet50"}, "no network 'deeplabv3_resnet50'"),
        ({"backbone": "zzzzzzzz"}, "choose small_cnn, gap_cnn, a torchvision name or timm/NAME"),
        (
            {"weights": "IMAGENET1K_V9"},
            r"for resnet18; there is no such file, nor such a published set; .*IMAGENET1K_V1",
        ),
        ({"backbone": "small_cnn", "weights": "DEFAULT"}, r"'DEFAULT' for small_cnn; there is no such file$"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        build_network(**{"backbone": "resnet18", "num_classes": 3, **options})


def test_every_module_of_the_small_ones_is_used_once():
    calls = []
    network = nn.ModuleList([small_cnn(3), gap_cnn(3)])
    for module in network.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    for small in network:
        small(torch.zeros(1, 1, 12, 12))
    assert len(calls) == len({id(module) for module in calls}) == sum(1 for _ in network.modules()) - 1
