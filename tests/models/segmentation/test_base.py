import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex

from fulgurite.models.segmentation.base import SegmentationModule, pixel_loss
from fulgurite.models.segmentation.score import SegmentationScore

MASKS = torch.tensor([[[0, 0, 1], [1, 2, 255]], [[2, 2, 2], [0, 255, 1]]])
GIVEN = torch.tensor([[[0, 1, 1], [1, 2, 0]], [[2, 0, 2], [0, 1, 1]]])


class Shown(SegmentationModule):
    """Predicts the class that the image's one channel says, with a weight that learns nothing."""

    def __init__(self, num_classes=3, **options):
        super().__init__(num_classes, **options)
        self.backbone, self.head = nn.Conv2d(1, 1, 1), nn.Conv2d(1, num_classes, 1)
        self.sizes = []
        self.save_hyperparameters()

    def compute_losses(self, images, masks):
        loss = pixel_loss(self.head(self.backbone(images)), masks, self.ignore_index)
        return {"a.loss_one": loss, "b.loss_two": 2 * loss, "a.accuracy": torch.tensor(0.25)}

    def compute_logits(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        return 10.0 * functional.one_hot(images[:, 0].long(), self.num_classes).permute(0, 3, 1, 2)

    def head_parameters(self):
        return list(self.head.parameters())


class Data(LightningDataModule):
    def __init__(self, images, masks, **said):
        super().__init__()
        self.pairs = TensorDataset(images, masks)
        vars(self).update(said)

    def train_dataloader(self):
        return DataLoader(self.pairs, batch_size=1)

    val_dataloader = test_dataloader = train_dataloader

    def predict_dataloader(self):
        return DataLoader(self.pairs.tensors[0], batch_size=2)


def trainer(folder, **options):
    options = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0} | options
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, enable_progress_bar=False,
                   enable_checkpointing=False, enable_model_summary=False, **options)  # fmt: skip


def data(**said):
    return Data(GIVEN[:, None].float(), MASKS, **({"num_classes": 3, "class_names": ("a", "b", "c")} | said))


def test_scores_are_those_of_a_confusion_matrix_made_by_hand(tmp_path):
    """Of the ten pixels that have a class: a 2 right, b 3, c 3; one a is taken for b, one c for a."""
    run = trainer(tmp_path)
    found = run.test(Shown(), data(), verbose=False)[0]
    iou = {"a": 2 / 4, "b": 3 / 4, "c": 3 / 4}
    assert {name.removeprefix("test/iou/"): value for name, value in found.items() if "/iou/" in name} == pytest.approx(
        iou
    )
    assert found["test/miou"] == pytest.approx(sum(iou.values()) / 3)
    assert found["test/pixel_accuracy"] == pytest.approx(8 / 10)
    wanted = functional.cross_entropy(
        10.0 * functional.one_hot(GIVEN, 3).permute(0, 3, 1, 2).float(), MASKS, ignore_index=255
    )
    assert found["test/loss"] == pytest.approx(wanted.item())


def test_a_class_that_does_not_occur_is_left_out(tmp_path):
    found = trainer(tmp_path).test(Shown(5), data(num_classes=5, class_names=tuple("abcde")), verbose=False)[0]
    assert found["test/miou"] == pytest.approx(2 / 3)
    assert sorted(name for name in found if "/iou/" in name) == ["test/iou/a", "test/iou/b", "test/iou/c"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([None, 255, 0]))
def test_the_score_is_torchmetrics(seed, classes, void):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = SegmentationScore(classes, ignore_index=void), MulticlassJaccardIndex(classes, ignore_index=void)
    for _ in range(3):
        truth, given_ = (torch.randint(classes, (2, 3, 4), generator=generator) for _ in range(2))
        if void is not None:
            truth[torch.rand(truth.shape, generator=generator) < 0.2] = void
        ours.update(given_, truth)
        theirs.update(given_, truth)
    assert torch.equal(ours.confmat, theirs.confmat)
    assert torch.equal(ours.compute(), theirs.compute())


def test_losses_are_summed_and_logged_with_their_parts(tmp_path):
    run = trainer(tmp_path)
    module = Shown()
    run.fit(module, data())
    logged = run.logged_metrics
    assert logged["train/loss"] == pytest.approx(3 * logged["train/a.loss_one"].item())
    assert logged["train/a.accuracy"] == 0.25
    assert {"val/loss", "val/miou", "val/pixel_accuracy"} <= set(logged)


def test_a_batch_without_any_class_has_no_loss_and_no_nan():
    masks = torch.full((1, 2, 2), 255)
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_loss(logits, masks, 255)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_heads_have_their_own_rate():
    module = Shown(head_rate_factor=10.0, learning_rate=0.01, schedule="constant", optimizer="adamw")
    first, second = module.configure_optimizers().param_groups
    assert (first["lr"], second["lr"]) == pytest.approx((0.01, 0.1))
    assert {id(p) for p in second["params"]} == {id(p) for p in module.head.parameters()}
    assert len(first["params"]) + len(second["params"]) == len(list(module.parameters()))


def test_views_are_for_tests_and_windows_for_all(tmp_path):
    images, masks = torch.zeros(1, 1, 6, 6), torch.zeros(1, 6, 6, dtype=torch.int64)
    module = Shown(crop_size=4, stride=2, scales=(1.0, 2.0), flip=True, pictures=0)
    trainer(tmp_path).validate(module, Data(images, masks), verbose=False)
    assert module.sizes == [(4, 4)] * 4
    module.sizes.clear()
    trainer(tmp_path).test(module, Data(images, masks), verbose=False)
    assert module.sizes == [(4, 4)] * (2 * 4 + 2 * 25)


def test_images_alone_are_predicted(tmp_path):
    predicted = trainer(tmp_path).predict(Shown(), data())
    assert torch.equal(torch.cat(predicted), GIVEN)


def test_pictures_are_below_the_log_folder_and_in_tensorboard(tmp_path):
    run = trainer(tmp_path, logger=True)
    run.fit(Shown(pictures=1), data())
    assert [path.name for path in tmp_path.rglob("pictures/*")] == ["val.png"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.logger.experiment.flush()
    events = EventAccumulator(run.log_dir, size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["val/pictures"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(1, 1, 2, 2), "got a batch of images (1, 1, 2, 2) alone; want (images (B, C, H, W), masks"),
        ((torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long()), "got images of shape (1, 2, 2); want (batch, channels"),
        ((torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 3).long()), "got masks (1, 2, 3)"),
        ((torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2)), "of torch.float32 for images"),
        (
            (torch.zeros(1, 1, 2, 2), torch.tensor([[[0, 7], [-1, 255]]])),
            "a mask has the unknown class -1, 7 in 2 pixels; want 0 … 2, and 255 where there is none",
        ),
        ((torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long()), "got images of 4 channels for in_channels=1"),
    ],
)
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_bad_batch_is_named(batch, message, step):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(Shown(in_channels=1), step)(batch, 0)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"num_classes": 4, "class_names": tuple("abcd")},
            "got num_classes=3 for data of 4 classes (a, b, c, d); give",
        ),
        ({"ignore_index": 11}, "got ignore_index=255 for data whose void label is 11; give ignore_index=11"),
        ({"in_channels": 3}, "got in_channels=1 for images of 3 channels; give in_channels=3"),
    ],
)
def test_data_of_another_kind_is_named_before_training(tmp_path, said, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer(tmp_path).fit(Shown(in_channels=1), data(**said))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "got num_classes=1; want at least 2"),
        ({"optimizer": "adam"}, "got optimizer='adam'; choose from sgd, adamw"),
        ({"learning_rate": 0.0}, "got learning_rate=0.0; want more than 0"),
        ({"head_rate_factor": -1.0}, "got head_rate_factor=-1.0"),
        ({"schedule": "exp"}, "got schedule='exp'"),
        ({"scales": ()}, "got scales=[]"),
        ({"stride": 3}, "got stride=3 without crop_size"),
        ({"crop_size": 4, "stride": 5}, "got crop_size=4, stride=5; want a window"),
        ({"pictures": -1}, "got pictures=-1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Shown(**options)


def test_a_subclass_that_says_nothing_is_named():
    module = SegmentationModule(3)
    with pytest.raises(NotImplementedError, match="compute_logits"):
        module(torch.zeros(1, 1, 2, 2))
    with pytest.raises(NotImplementedError, match="compute_losses"):
        module.training_step((torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long()), 0)
    module.compute_losses = lambda images, masks: {"accuracy": torch.zeros(())}
    module._trainer = SimpleNamespace()
    with pytest.raises(ValueError, match="want a name that contains 'loss'"):
        module.training_step((torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long()), 0)
