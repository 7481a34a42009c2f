import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from fulgurite.models.repgraph.global_context import GlobalContext2d
from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.non_local import NonLocal2d
from fulgurite.models.segmentation.network import ContextHead, SegmentationNetwork


@pytest.mark.parametrize(
    ("context", "kind"),
    [("repgraph", RepGraph2d), ("non_local", NonLocal2d), ("global_context", GlobalContext2d), ("none", nn.Identity)],
)
def test_a_head_is_convolution_context_convolution_dropout_classifier(context, kind):
    head = ContextHead(8, 5, channels=16, context=context, dropout=0.2)
    assert [name for name, _ in head.named_children()] == ["before", "context", "after", "dropout", "classifier"]
    assert isinstance(head.context, kind)
    assert head.before[0].kernel_size == head.after[0].kernel_size == (3, 3)
    assert head(torch.randn(2, 8, 6, 7)).shape == (2, 5, 6, 7)


def test_a_head_without_convolutions_stands_on_the_map():
    head = ContextHead(8, 5, channels=None, context="repgraph", context_options={"num_nodes": 4}).eval()
    x = torch.randn(2, 8, 6, 7)
    assert [name for name, _ in head.named_children()] == ["context", "dropout", "classifier"]
    torch.testing.assert_close(head(x), head.classifier(head.context(x)))
    assert head.context.num_nodes == 4


def test_both_heads_speak_in_training_and_one_in_evaluation():
    network = SegmentationNetwork(4, backbone="tiny_resnet", dropout=0.0)
    x = torch.rand(2, 3, 33, 18)
    logits, auxiliary = network(x)
    assert logits.shape == auxiliary.shape == (2, 4, 33, 18)
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in network.auxiliary_head.parameters())
    logits, auxiliary = network.eval()(x)
    assert auxiliary is None
    maps = network.backbone(x)
    wanted = functional.interpolate(network.head(maps["layer4"]), size=(33, 18), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, wanted)


def test_at_stride_1_nothing_is_enlarged():
    network = SegmentationNetwork(
        4, backbone="flat_cnn", output_stride=1, head_channels=None, auxiliary=False, context="none"
    ).eval()
    x = torch.rand(1, 3, 9, 9)
    assert network.auxiliary_head is None
    torch.testing.assert_close(network(x)[0], network.head.classifier(network.backbone(x)["layer4"]))


def test_a_gradient_reaches_the_context_and_the_stem():
    network = SegmentationNetwork(4, backbone="tiny_resnet", context="repgraph")
    network(torch.rand(2, 3, 16, 16))[0].square().mean().backward()
    assert network.backbone.conv1.weight.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.head.context.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "attention"}, "got context='attention'; choose from repgraph, non_local, global_context, none"),
        ({"context_options": {"nodes": 3}}, "got RepGraph2d options nodes; it has"),
        ({"head_channels": 0}, "got head_channels=0; want at least 1, or None"),
        ({"dropout": 1.0}, "got dropout=1.0"),
        ({"output_stride": 3}, "got output_stride=3 for tiny_resnet"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SegmentationNetwork(4, **({"backbone": "tiny_resnet"} | options))
