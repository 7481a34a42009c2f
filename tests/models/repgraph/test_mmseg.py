"""RepGraph in mmsegmentation's registry: layer, head, backbone and control."""

import importlib
import inspect
import warnings

import pytest
import torch

from fulgurite.models.repgraph.layer import RepGraph2d

pytest.importorskip("mmseg.registry")
ours = importlib.import_module("fulgurite.models.repgraph.mmseg")
BACKBONE = {"depth": 50, "stem_channels": 8, "base_channels": 8}


@pytest.fixture
def build():
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmseg"):
        yield MODELS.build


def layers(network: torch.nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, RepGraph2d)]


def test_four_names_are_registered_and_a_second_import_changes_nothing():
    from mmseg.registry import MODELS

    before = dict(MODELS.module_dict)
    assert before["RepGraph2d"] is RepGraph2d
    assert {"RepGraphHead", "RepGraphResNetV1c", "NonLocalSDPA2d"} <= set(before)
    ours.register()
    assert dict(MODELS.module_dict) == before
    assert MODELS.get("mmseg.RepGraphHead") is ours.RepGraphHead


def test_a_reload_does_not_raise():
    from mmseg.registry import MODELS

    names = ("NonLocalSDPA2d", "RepGraphHead", "RepGraphResNetV1c")
    before = {name: (MODELS.module_dict[name], getattr(ours, name)) for name in names}
    try:
        importlib.reload(ours)
        assert MODELS.module_dict["RepGraphHead"] is ours.RepGraphHead
    finally:
        for name, (registered, kept) in before.items():
            setattr(ours, name, kept)
            MODELS.register_module(module=registered, force=True)


def test_a_plugin_enters_every_block_and_the_backbone_has_one(build):
    stages = (False, False, True, False)
    plugin = {"cfg": {"type": "RepGraph2d", "num_nodes": 4}, "stages": stages, "position": "after_conv3"}
    everywhere = build({"type": "ResNetV1c", "plugins": [plugin], **BACKBONE})
    once = build({"type": "RepGraphResNetV1c", **BACKBONE})
    assert layers(everywhere) == [f"layer3.{block}.repgraph" for block in range(6)]
    assert layers(once) == ["layer3.6"]
    assert once.layer3[6].in_channels == everywhere.layer3[0].repgraph.in_channels == 128


def test_pretrained_names_are_intact_and_the_output_is_the_plain_network_s(build):
    plain = build({"type": "ResNetV1c", **BACKBONE})
    once = build({"type": "RepGraphResNetV1c", "context": {"type": "RepGraph2d", "num_nodes": 3}, **BACKBONE})
    missing, unexpected = once.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[1] for name in missing} == {"6"}
    assert all(name.startswith("layer3.6.") for name in missing)
    images = torch.rand(1, 3, 32, 32)
    plain.train(False)  # mmseg's train gives None
    once.train(False)
    for wanted, found in zip(plain(images), once(images), strict=True):
        assert torch.equal(wanted, found)


@pytest.mark.parametrize("kind", ["RepGraph2d", "NonLocalSDPA2d"])
def test_init_weights_leaves_the_layer_the_identity(build, kind):
    backbone = build({"type": "RepGraphResNetV1c", "context": {"type": kind}, "context_stage": 4, **BACKBONE})
    layer = backbone.layer4[-1]
    torch.nn.init.ones_(layer.project[-1].weight)
    backbone.init_weights()
    x = torch.rand(1, layer.in_channels, 4, 4)
    assert type(layer).__name__ == kind
    assert torch.equal(layer.eval()(x), x)
    if kind == "RepGraph2d":
        assert not layer.offset.weight.any()


@pytest.mark.parametrize("stage", [0, 5])
def test_a_stage_that_is_not_there_is_refused(build, stage):
    with pytest.raises(ValueError, match="want 1 to 4"):
        build({"type": "RepGraphResNetV1c", "context_stage": stage, **BACKBONE})


@pytest.mark.parametrize("concat", [False, True])
def test_the_head_gives_a_gradient_to_the_layer(build, concat):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mmseg's remarks on its own builder and loss
        head = build(
            {
                "type": "RepGraphHead",
                "in_channels": 16,
                "in_index": 0,
                "channels": 8,
                "num_classes": 3,
                "concat_input": concat,
                "num_nodes": 5,
                "groups": 2,
                "init": "zero",
                "variant": "simple",
            }
        )
    out = head([torch.rand(2, 16, 6, 7)])
    assert out.shape == (2, 3, 6, 7)
    out.sum().backward()
    assert head.repgraph.project[-1].weight.grad.abs().sum() > 0
    assert (head.repgraph.num_nodes, head.repgraph.groups, head.repgraph.variant) == (5, 2, "simple")


def test_the_head_has_every_option_of_the_layer_with_its_default():
    layer = inspect.signature(RepGraph2d).parameters
    head = inspect.signature(ours.RepGraphHead).parameters
    wanted = {name: value.default for name, value in layer.items() if name != "in_channels"}
    assert {name: value.default for name, value in head.items() if name != "kwargs"} == wanted
