import copy
import warnings

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.models import SemanticSegmenter
from fulgurite.models.backbone import build_backbone


def pairs(number=8, side=16, seed=0):
    """Three classes that the channels tell, and a void border."""
    images = torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(seed))
    images = functional.avg_pool2d(images, 5, stride=1, padding=2) * 5
    masks = images.argmax(dim=1)
    masks[:, 0] = 255
    return TensorDataset(images, masks)


def made(**options):
    torch.manual_seed(0)
    given = {"backbone": "tiny_resnet", "output_stride": 2, "head_channels": 16, "optimizer": "adamw",
             "learning_rate": 5e-3, "dropout": 0.0}  # fmt: skip
    return SemanticSegmenter(3, **(given | options))


def trainer(folder, **options):
    options = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0, "enable_checkpointing": False} | options
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
                   **({"devices": 1} | options))  # fmt: skip


def loader(batch_size=4, **options):
    return DataLoader(pairs(**options), batch_size)


def test_it_learns(tmp_path):
    run = trainer(tmp_path, max_epochs=12)
    module = made(output_stride=1, backbone="flat_cnn", learning_rate=0.02)
    run.fit(module, loader(), loader(seed=1))
    assert run.callback_metrics["val/pixel_accuracy"] > 0.8
    assert run.callback_metrics["val/miou"] > 0.65


def test_the_auxiliary_loss_is_weighed():
    images, masks = pairs(2).tensors
    module = made(aux_weight=0.25)
    losses = module.compute_losses(images, masks)
    logits, auxiliary = module.network(images)
    wanted = functional.cross_entropy(logits, masks, ignore_index=255)
    torch.testing.assert_close(losses["loss"], wanted)
    torch.testing.assert_close(losses["aux_loss"], 0.25 * functional.cross_entropy(auxiliary, masks, ignore_index=255))
    assert list(made(aux_weight=0.0).compute_losses(images, masks)) == ["loss"]


def test_heads_learn_at_their_own_rate():
    module = made(head_rate_factor=10.0)
    assert [round(group["lr"], 6) for group in module.configure_optimizers()["optimizer"].param_groups] == [0.005, 0.05]
    backbone = {id(p) for p in module.network.backbone.parameters()}
    assert not backbone & {id(p) for p in module.head_parameters()}
    assert len(backbone) + len(module.head_parameters()) == len(list(module.parameters()))


def test_a_deterministic_trainer_gives_the_same_twice(tmp_path):
    states = []
    for _ in range(2):
        module = made()
        run = trainer(tmp_path, deterministic=True)
        try:
            run.fit(module, loader(), loader())
        finally:
            torch.use_deterministic_algorithms(False)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_it_trains_and_evaluates_in_bfloat16(tmp_path):
    module = made()
    run = trainer(tmp_path, precision="bf16-mixed", max_epochs=2)
    run.fit(module, loader(), loader())
    assert torch.isfinite(run.callback_metrics["train/loss"])
    with torch.inference_mode():
        images = pairs(2).tensors[0]
        exact = module.eval().predict_logits(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module.predict_logits(images)
    assert (exact - rough.float()).abs().max() < 0.05 * exact.abs().max()


def test_a_checkpoint_is_loaded_without_another_word_and_without_its_weights(tmp_path):
    torch.save(build_backbone("tiny_resnet").state_dict(), tmp_path / "start.pt")
    module = made(weights=str(tmp_path / "start.pt"), context_options={"num_nodes": 5}, crop_size=8)
    run = trainer(tmp_path)
    run.fit(module, loader(), loader())
    run.save_checkpoint(tmp_path / "module.ckpt")
    (tmp_path / "start.pt").unlink()
    loaded = SemanticSegmenter.load_from_checkpoint(tmp_path / "module.ckpt").eval()
    images = pairs(2).tensors[0]
    assert torch.equal(loaded.predict_logits(images), module.eval().predict_logits(images))
    assert loaded.crop_size == (8, 8)


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tmp_path):
    whole, first, second = made(), made(), made()
    trainer(tmp_path, max_epochs=3).fit(whole, loader(), loader())
    run = trainer(tmp_path, max_epochs=3)
    first.on_train_epoch_end = lambda: setattr(run, "should_stop", run.current_epoch == 0)
    run.fit(first, loader(), loader())
    run.save_checkpoint(tmp_path / "half.ckpt")
    assert run.global_step == 2
    again = trainer(tmp_path, max_epochs=3)
    again.fit(second, loader(), loader(), ckpt_path=tmp_path / "half.ckpt")
    assert again.global_step == 6
    wanted, found = whole.state_dict(), second.state_dict()
    assert all(torch.allclose(wanted[key], found[key], atol=1e-6) for key in wanted)


def test_a_test_with_every_view_is_near_the_plain_one(tmp_path):
    module = made(scales=(0.5, 1.0), flip=True, crop_size=12, stride=8)
    found = trainer(tmp_path).test(module, loader(), verbose=False)[0]
    assert 0 <= found["test/miou"] <= 1


def test_synchronised_normalisation_gives_the_same():
    module = made()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(made())
    images = pairs(2).tensors[0]
    assert not any(type(layer) is torch.nn.BatchNorm2d for layer in converted.modules())
    torch.testing.assert_close(converted.eval()(images), module.eval()(images))


@pytest.mark.distributed
def test_two_ranks_score_the_whole_data_set(tmp_path):
    """Each rank sees half; the scores are those of all."""
    module = made()
    alone = trainer(tmp_path).validate(copy.deepcopy(module), loader(), verbose=False)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trainer(tmp_path, devices=2, strategy="ddp_fork").validate(module, loader(), verbose=False)[0]
    for name in ("val/miou", "val/pixel_accuracy", "val/loss"):
        assert found[name] == pytest.approx(alone[name], abs=1e-6)


def test_an_auxiliary_weight_below_zero_is_named():
    with pytest.raises(ValueError, match="got aux_weight=-1; want 0 or more"):
        made(aux_weight=-1)


def test_classes_are_weighed_as_torch_does():
    images, masks = pairs(2).tensors
    weights = [0.2, 1.0, 3.0]
    module = made(aux_weight=0.5, class_weights=weights)
    losses = module.compute_losses(images, masks)
    for name, logits, share in zip(losses, module.network(images), (1.0, 0.5), strict=True):
        wanted = share * functional.cross_entropy(logits, masks, weight=torch.tensor(weights), ignore_index=255)
        torch.testing.assert_close(losses[name], wanted)
    nothing = made(class_weights=[0.0, 1.0, 1.0]).compute_losses(images, torch.zeros_like(masks))
    assert nothing["loss"] == 0
    assert "class_weights" not in module.state_dict()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]])
def test_wrong_class_weights_are_named(weights):
    with pytest.raises(ValueError, match=r"got class_weights=\[.*; want 3 finite numbers from 0, one for each class"):
        made(class_weights=weights)
