"""Detectors are built where the context is wanted; published keys stay, what is frozen is frozen."""

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

from fulgurite.models.detection.network import build_detector, freeze
from fulgurite.models.repgraph.layer import RepGraph2d

SMALL = {
    "backbone": "tiny_resnet",
    "min_size": 32,
    "max_size": 32,
    "anchor_sizes": (4, 8, 12, 16, 24),
    "pyramid_width": 8,
    "head_width": 16,
    "proposals": 20,
    "samples": 8,
}


def layers(detector):
    return [name for name, module in detector.named_modules() if isinstance(module, RepGraph2d)]


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        (["layer3"], ["backbone.body.layer3.1"]),
        (["fpn"], [f"backbone.contexts.{number}" for number in range(4)]),
        (["layer4", "fpn"], ["backbone.body.layer4.1", *(f"backbone.contexts.{number}" for number in range(4))]),
        ([], []),
    ],
)
def test_the_context_is_where_it_is_wanted(places, wanted):
    assert layers(build_detector(2, context_at=places, **SMALL)) == wanted
    assert layers(build_detector(2, context_at=places, context="none", **SMALL)) == []


def test_published_weights_keep_their_keys_and_the_layer_is_trained_though_its_stage_is_frozen(tmp_path):
    published = resnet18().state_dict()
    torch.save(published, tmp_path / "resnet18.pt")
    options = SMALL | {"backbone": "resnet18", "weights": str(tmp_path / "resnet18.pt"), "norm": "frozen"}
    detector = build_detector(2, trainable_layers=1, **options)
    body = detector.backbone.body
    state = body.state_dict()
    for key, value in published.items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(state[key], value), key
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in body.layer4.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in body.layer4.modules())
    trained = {name.split(".")[0] for name, value in body.named_parameters() if value.requires_grad}
    assert trained == {"layer3", "layer4"}
    assert {name.split(".")[1] for name, value in body.layer3.named_parameters(prefix="l") if value.requires_grad} == {
        "2"
    }
    target = {"boxes": torch.tensor([[4.0, 4, 20, 20]]), "labels": torch.tensor([1])}
    sum(detector([torch.rand(3, 32, 32)], [target]).values()).backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in body.layer3[2].parameters())
    assert body.layer1[0].conv1.weight.grad is None


@pytest.mark.parametrize("count", range(6))
def test_freezing(count):
    body = build_detector(2, context="none", **SMALL).backbone.body
    freeze(body, count)
    order = ["layer4", "layer3", "layer2", "layer1", "conv1"]
    assert [name for name in order if next(body.get_submodule(name).parameters()).requires_grad] == order[:count]


def test_the_pyramid_starts_as_the_one_without_context():
    torch.manual_seed(0)
    plain = build_detector(2, context="none", **SMALL).eval()
    context = build_detector(2, context_at=["layer3", "fpn"], **SMALL).eval()
    context.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(1, 3, 32, 32)
    for level, values in plain.backbone(images).items():
        torch.testing.assert_close(context.backbone(images)[level], values)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kind": "yolo"}, "got kind='yolo'; choose from faster_rcnn, mask_rcnn"),
        ({"context_at": ["layer5"]}, "got context_at=.'layer5'.; choose from layer1"),
        ({"context_at": ["fpn", "fpn"]}, "want each place once"),
        ({"context": "cbam"}, "got context='cbam'; choose from"),
        ({"context": "none", "context_options": {"num_nodes": 3}}, "got options num_nodes for context='none'"),
        ({"context_options": {"nodes": 3}}, "RepGraph2d options nodes; it has"),
        ({"min_size": 64}, "want 1 <= min_size <= max_size"),
        ({"anchor_sizes": (8, 16)}, "want 5 positive sides"),
        ({"aspect_ratios": ()}, "want positive ratios"),
        ({"trainable_layers": 6}, "got trainable_layers=6; want 0 to 5"),
        ({"proposals": 0}, "got proposals=0; want at least 1"),
        ({"score_threshold": 1.0}, "got score_threshold"),
        ({"backbone": "resnet17"}, "no backbone 'resnet17'"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        build_detector(2, **SMALL | option)
    with pytest.raises(ValueError, match="got num_classes=0"):
        build_detector(0, **SMALL)


def test_it_is_torchvisions():
    assert isinstance(build_detector(2, kind="mask_rcnn", **SMALL), FasterRCNN)


def test_small_images_are_cut_at_the_right_scale_whatever_came_before():
    detector = build_detector(2, **SMALL).eval()
    again = build_detector(2, **SMALL).eval()
    again.load_state_dict(detector.state_dict())
    small, large = torch.rand(3, 33, 33), torch.rand(3, 64, 64)
    for network in (detector, again):
        network.transform.min_size, network.transform.max_size = (64,), 64
        network.roi_heads.score_thresh = 0.0
    again([large])  # whichever size is seen first
    detector.transform.min_size = (33,)
    detector([small])
    detector.transform.min_size = (64,)
    for key, value in detector([large])[0].items():
        assert torch.equal(value, again([large])[0][key])
    assert detector.roi_heads.box_roi_pool.scales == [1, 1 / 2, 1 / 4, 1 / 8]
