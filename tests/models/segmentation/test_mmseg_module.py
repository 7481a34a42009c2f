"""Models of mmsegmentation under Lightning: configs read as data, its own losses, weights, checkpoints."""

import copy

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("mmseg")
from fulgurite.models import MmsegSegmenter, SemanticSegmenter
from fulgurite.models.segmentation.mmseg_config import MmsegConfigError, read_config
from fulgurite.plugins.opened_imports import opening

CONFIG = {
    "type": "EncoderDecoder",
    "backbone": {
        "type": "RepGraphResNetV1c",
        "depth": 18,
        "stem_channels": 8,
        "base_channels": 8,
        "norm_cfg": {"type": "SyncBN"},
    },
    "decode_head": {
        "type": "RepGraphHead",
        "in_channels": 64,
        "in_index": 3,
        "channels": 8,
        "num_classes": 3,
        "num_nodes": 4,
    },
    "auxiliary_head": {
        "type": "FCNHead",
        "in_channels": 32,
        "in_index": 2,
        "channels": 8,
        "num_convs": 1,
        "concat_input": False,
        "num_classes": 3,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
    },
}


def changed(**parts):
    config = copy.deepcopy(CONFIG)
    for path, value in parts.items():
        *above, key = path.split("__")
        node = config
        for name in above:
            node = node[name]
        if value is None:
            del node[key]
        else:
            node[key] = value
    return config


def test_it_trains_two_steps_predicts_and_reloads_as_data(tmp_path):
    from mmengine.registry import DefaultScope

    model = SemanticSegmenter.from_mmseg(CONFIG, optimizer="adamw", head_rate_factor=10.0, pictures=0)
    assert DefaultScope.get_current_instance() is None
    rows = [(torch.rand(3, 32, 48), torch.randint(0, 3, (32, 48))) for _ in range(4)]
    before = copy.deepcopy(model.state_dict())
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(rows, 2), DataLoader(rows, 2))
    parts = trainer.callback_metrics
    assert float(parts["train/loss"]) == pytest.approx(
        float(parts["train/decode.loss_ce"] + parts["train/aux.loss_ce"]), rel=1e-5
    )
    name = "network.segmentor.decode_head.repgraph.project.0.weight"
    assert not torch.equal(before[name], model.state_dict()[name])
    predicted = trainer.predict(model, DataLoader([image for image, _ in rows], 2))
    assert predicted[0].shape == (2, 32, 48)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    again = MmsegSegmenter.load_from_checkpoint(path, weights_only=True)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(model.eval()(image), again.eval()(image))


def test_losses_and_logits_are_those_of_mmseg():
    model = MmsegSegmenter(changed(decode_head__dropout_ratio=0, auxiliary_head__dropout_ratio=0)).eval()
    images, masks = torch.rand(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    with torch.no_grad():
        losses = model.compute_losses(images, masks)
        logits = model.compute_logits(images)
    wanted = torch.nn.functional.cross_entropy(logits, masks)
    assert float(losses["decode.loss_ce"]) == pytest.approx(float(wanted), rel=1e-5)
    assert set(losses) == {"decode.loss_ce", "decode.acc_seg", "aux.loss_ce", "aux.acc_seg"}


def test_a_sliding_window_of_test_cfg_is_honoured():
    slide = {"mode": "slide", "crop_size": [32, 32], "stride": [32, 32]}
    model = MmsegSegmenter(changed(test_cfg=slide)).eval()
    image = torch.rand(1, 3, 32, 64)
    whole = model(image)
    assert torch.allclose(whole[..., :32], model(image[..., :32]), atol=1e-5)
    assert torch.allclose(whole[..., 32:], model(image[..., 32:]), atol=1e-5)


def test_a_void_label_of_its_own_reaches_every_head():
    model = MmsegSegmenter(CONFIG, ignore_index=11)
    images, masks = torch.rand(2, 3, 32, 32), torch.full((2, 32, 32), 11)
    with torch.no_grad():
        losses = model.compute_losses(images, masks)
    assert float(losses["decode.loss_ce"]) == float(losses["aux.loss_ce"]) == 0


def test_weights_of_a_part_are_read_from_a_file_and_not_from_the_network(tmp_path):
    first = MmsegSegmenter(CONFIG)
    part = tmp_path / "backbone.pth"
    torch.save({"state_dict": first.network.segmentor.backbone.state_dict()}, part)
    initial = {"type": "Pretrained", "checkpoint": str(part)}
    model = MmsegSegmenter(changed(backbone__init_cfg=initial))
    name = "stem.0.weight"
    wanted = first.network.segmentor.backbone.state_dict()[name]
    assert torch.equal(model.network.segmentor.backbone.state_dict()[name], wanted)
    assert "init_cfg" not in model.hparams["config"]["backbone"]
    whole = tmp_path / "whole.pth"
    torch.save(first.network.segmentor.state_dict(), whole)
    wider = changed(decode_head__num_classes=5, auxiliary_head__num_classes=5)
    again = MmsegSegmenter(wider, weights=str(whole))  # the classifiers start anew
    assert torch.equal(again.network.segmentor.backbone.state_dict()[name], wanted)


def test_a_shipped_config_is_found_and_its_weights_are_not_downloaded():
    with pytest.warns(UserWarning, match="open-mmlab://resnet50_v1c are not downloaded"):
        read = read_config("nonlocal_r50-d8_4xb4-80k_ade20k-512x512", {"decode_head": {"num_classes": 7}})
    assert read.model.decode_head.num_classes == 7
    assert read.model.backbone.norm_cfg.type == "BN"
    assert read.pretrained == ()
    assert read.preprocessor["mean"][0] == 123.675


BAD = {
    "the key 'type' is missing": changed(type=None),
    "the key 'backbone' is missing": changed(backbone=None),
    "the key 'decode_head' is missing": changed(decode_head=None),
    "decode_head: the key 'type' is missing": changed(decode_head__type=None),
    "num_classes": changed(decode_head__num_classes=None),
    "depth": changed(backbone__depth=None),
    "the key 'stride' is missing": changed(test_cfg={"mode": "slide", "crop_size": [8, 8]}),
    "choose from slide, whole": changed(test_cfg={"mode": "all"}),
    "no type 'RepGraphHeat' is registered; nearest": changed(decode_head__type="RepGraphHeat"),
    "importing os.system is refused": changed(type="os.system"),
    "importing torch.hub.load is refused": changed(backbone__type="torch.hub.load"),
    "importing evil_module is refused": {"model": CONFIG, "custom_imports": {"imports": ["evil_module"]}},
    "'_scope_' is refused": changed(_scope_="evil"),
    "'_base_' is refused": changed(_base_="evil.py"),
    "https://x/y.pth is remote": changed(pretrained="https://x/y.pth"),
    "hf-hub:x/y is remote": changed(backbone={"type": "TIMMBackbone", "model_name": "hf-hub:x/y"}),
    "nothing is downloaded": changed(backbone={"type": "TIMMBackbone", "model_name": "a", "pretrained": True}),
    "fetches files": changed(backbone={"type": "VPD"}),
    "a file is refused here": changed(decode_head__loss_decode={"type": "CrossEntropyLoss", "class_weight": "pkl"}),
    "text is a plain word": changed(backbone__style="../x"),
    "there is no file nope.pth": changed(pretrained="nope.pth"),
    "a .py config is a program": "evil.py",
    "remote configs are off": "https://x/y",
    "mmseg ships no config": "nonlocal_r51",
    "want a registered name": changed(type=torch.nn.ReLU),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_wrong_with_a_config_is_one_line(reason):
    with pytest.raises(ValueError, match=r"mmseg|weights") as caught:
        MmsegSegmenter(BAD[reason])
    text = str(caught.value)
    assert reason.split(";")[0] in text
    assert "\n" not in text


def test_a_module_that_the_user_opened_may_be_named():
    with opening(["mmseg.models"]):
        read = read_config(changed(decode_head__type="mmseg.models.decode_heads.FCNHead"))
    assert read.model.decode_head.type == "mmseg.models.decode_heads.FCNHead"
    with pytest.raises(MmsegConfigError):
        read_config(changed(decode_head__type="mmseg.models.decode_heads.FCNHead"))
