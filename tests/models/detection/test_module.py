"""The detector trains on what may come, is measured rightly, and says what is wrong."""

import sys
from datetime import timedelta

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from fulgurite.data.detection_data import collate_detection
from fulgurite.models.detection.module import ObjectDetector

SMALL = {
    "backbone": "tiny_resnet",
    "min_size": 32,
    "max_size": 48,
    "anchor_sizes": [4, 8, 12, 16, 24],
    "pyramid_width": 8,
    "head_width": 16,
    "proposals": 20,
    "samples": 8,
    "learning_rate": 0.002,
}


def scene(number, size=(32, 32), *, count=2):
    left = torch.arange(count) * 12.0 + number % 3
    boxes = torch.stack([left, left * 0 + 4, left + 10, left * 0 + 16], dim=1)
    image = torch.zeros(3, *size)
    masks = torch.zeros(count, *size, dtype=torch.uint8)
    for row, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        image[row % 3, y0:y1, x0:x1] = 1
        masks[row, y0:y1, x0:x1] = 1
    target = {"boxes": boxes, "labels": torch.arange(count) % 2 + 1, "masks": masks}
    return image, target | {
        "image_id": torch.tensor(number),
        "iscrowd": torch.zeros(count, dtype=torch.int64),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
    }


SCENES = [scene(0), scene(1, (40, 32)), scene(2, count=0), scene(3, (32, 44), count=3)]


def loader(rows=SCENES):
    return DataLoader(rows, batch_size=2, collate_fn=collate_detection)


def trainer(folder, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class Knows(ObjectDetector):
    """Gives what it is told to have found."""

    told: list

    def forward(self, images):
        return [self.told.pop(0) for _ in images]


def found(target, scores=None, keep=slice(None)):
    boxes = target["boxes"][keep]
    scores = torch.linspace(0.9, 0.6, len(boxes)) if scores is None else scores
    return {
        "boxes": boxes,
        "labels": target["labels"][keep],
        "scores": scores,
        "masks": target["masks"][keep].bool(),
    }


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_a_run_over_mixed_sizes_and_empty_images(kind, tmp_path):
    detector = ObjectDetector(2, kind=kind, **SMALL)
    engine = trainer(tmp_path, deterministic=True)
    layer = detector.network.backbone.body.layer3[1]
    before = [value.detach().clone() for value in layer.parameters()]
    engine.fit(detector, loader(), loader())
    logged = engine.callback_metrics
    parts = {"train/loss_classifier", "train/loss_box_reg", "train/loss_objectness", "train/loss_rpn_box_reg"}
    wanted = {"train/loss", *parts, "val/map", "val/map_50", "val/map_75", "val/mar_100"}
    if kind == "mask_rcnn":
        wanted |= {"train/loss_mask", "val/segm_map", "val/segm_map_50", "val/segm_map_75", "val/segm_mar_100"}
    assert set(logged) == wanted
    assert all(value.isfinite() for value in logged.values())
    assert any(not torch.equal(value, old) for value, old in zip(layer.parameters(), before, strict=True))
    torch.use_deterministic_algorithms(False)
    predicted = engine.predict(detector, DataLoader([row[0] for row in SCENES], batch_size=2, collate_fn=list))
    assert len(predicted) == 2
    for objects, (image, _) in zip([one for batch in predicted for one in batch], SCENES, strict=True):
        assert (objects["boxes"][:, 2::2] <= image.shape[2] + 1e-3).all()
        if kind == "mask_rcnn":
            assert objects["masks"].shape[1:] == image.shape[1:]
            assert objects["masks"].dtype == torch.bool


def test_perfect_predictions_have_precision_one(tmp_path):
    detector = Knows(2, kind="mask_rcnn", pictures=0, **SMALL)
    detector.told = [found(target) for _, target in SCENES]
    (logged,) = trainer(tmp_path).test(detector, loader(), verbose=False)
    for name in ("map", "map_50", "segm_map", "map/1", "map/2", "segm_map/1", "map_small"):
        assert logged[f"test/{name}"] == pytest.approx(1.0), name
    assert "test/map_large" not in logged


def test_the_precision_is_that_worked_out_by_hand(tmp_path):
    """Ten things of one class, half of them found, before each a false alarm of a higher score.

    The k-th hit has precision k / 2k = 0.5 whatever k, and recall k / 10; so the precision at the 51 recalls of COCO's
    101 that are at most 0.5 is 0.5, and 0 at the others: AP = 51 · 0.5 / 101.
    """
    rows, told = [], []
    for number in range(10):
        image, target = scene(number, count=1)
        rows.append((image, target))
        alarm = target["boxes"] + torch.tensor([0.0, 16, 0, 14])
        score = 1 - number / 20
        objects = {"boxes": alarm, "labels": torch.tensor([1]), "scores": torch.tensor([score])}
        if number < 5:
            objects["boxes"] = torch.cat([alarm, target["boxes"]])
            objects["labels"] = torch.tensor([1, 1])
            objects["scores"] = torch.tensor([score, score - 0.01])
        else:
            objects = {key: value[:0] for key, value in objects.items()}
        told.append(objects)
    detector = Knows(1, pictures=0, **SMALL)
    detector.told = told
    (logged,) = trainer(tmp_path).test(detector, loader(rows), verbose=False)
    assert logged["test/map"] == pytest.approx(51 * 0.5 / 101, abs=1e-4)
    assert logged["test/mar_100"] == pytest.approx(0.5)


def test_a_checkpoint_gives_the_same_without_its_weights_file(tmp_path):
    detector = ObjectDetector(2, context_options={"num_nodes": 4}, **SMALL)
    engine = trainer(tmp_path, max_steps=2, max_epochs=-1)
    engine.fit(detector, loader(), loader())
    engine.save_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    other = ObjectDetector.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True).eval()
    for one, two in zip(detector.eval()([SCENES[0][0]]), other([SCENES[0][0]]), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_bfloat16(tmp_path):
    engine = trainer(tmp_path, precision="bf16-mixed")
    engine.fit(ObjectDetector(2, kind="mask_rcnn", **SMALL), loader(), loader())
    assert engine.callback_metrics["train/loss"].isfinite()


def test_it_learns_where_two_boxes_are(tmp_path):
    L.seed_everything(1, verbose=False)
    options = SMALL | {"pyramid_width": 16, "head_width": 32, "optimizer": "adamw", "learning_rate": 0.003}
    detector = ObjectDetector(2, schedule="cosine", context_options={"num_nodes": 4}, **options)
    rows = [scene(number % 3) for number in range(8)]
    engine = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20, num_sanity_val_steps=0)
    engine.fit(detector, loader(rows), loader(rows))
    assert engine.callback_metrics["val/map_50"] > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([1, 3])}, "image 0 has labels from 1 to 3; want 1 to 2: 0 is the background"),
        ({"labels": torch.tensor([0, 1])}, "labels from 0 to 1"),
        ({"boxes": torch.zeros(2, 5)}, r"image 0 has boxes \(2, 5\) of torch.float32 for 2 labels; want \(2, 4\)"),
        ({"boxes": torch.tensor([[1.0, 1, 1, 5], [1, 1, 5, 5]])}, "without an area; want x1 < x2"),
        ({"masks": torch.zeros(2, 5, 5)}, r"has masks \(2, 5, 5\); kind='mask_rcnn' wants \(2, 32, 32\)"),
    ],
)
def test_a_wrong_target_is_named(change, message):
    image, target = scene(0)
    with pytest.raises(ValueError, match=message):
        ObjectDetector(2, kind="mask_rcnn", **SMALL).training_step(([image], [target | change]), 0)


def test_a_wrong_batch_is_named():
    image, target = scene(0)
    detector = ObjectDetector(2, **SMALL)
    for batch, message in (
        (torch.zeros(2, 3, 8, 8), "got a batch of Tensor; want"),
        (([image, image], [target]), "got 2 images and 1 targets"),
        (([image[:1]], [target]), r"image 0 is \(1, 32, 32\) of torch.float32; want \(3, H, W\)"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.training_step(batch, 0)
    with pytest.raises(ValueError, match="in training mode"):
        detector([image])
    for option, message in (
        ({"optimizer": "lion"}, "choose from sgd, adamw"),
        ({"learning_rate": 0.0}, "want more than 0"),
        ({"pictures": -1}, "got pictures=-1"),
        ({"schedule": "linear"}, "got schedule='linear'"),
    ):
        with pytest.raises(ValueError, match=message):
            ObjectDetector(2, **SMALL | option)


def test_a_missing_extra_is_named_when_the_run_begins(tmp_path, monkeypatch):
    def absent(*args, **options):
        raise ModuleNotFoundError("faster_coco_eval")

    monkeypatch.setattr(sys.modules["fulgurite.models.detection.module"], "MeanAveragePrecision", absent)
    detector = ObjectDetector(2, **SMALL)
    with pytest.raises(ImportError, match=r'run: pip install "fulgurite\[detection\]"'):
        trainer(tmp_path).fit(detector, loader(), loader())


class Named(L.LightningDataModule):
    class_names = ("cell", "leaf", "dog")

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


def test_other_classes_than_the_datas_are_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"num_classes=2 for data of 3 classes \(cell, leaf, dog\); give num_classes=3"
    ):
        trainer(tmp_path).fit(ObjectDetector(2, **SMALL), Named())


def test_pictures_go_to_the_logger_and_below_its_folder(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path)
    engine = trainer(tmp_path, logger=logger, num_sanity_val_steps=0, log_every_n_steps=1)
    engine.fit(ObjectDetector(3, pictures=3, **SMALL), Named())
    logger.finalize("success")
    assert (tmp_path / "lightning_logs" / "version_0" / "pictures" / "val.png").stat().st_size > 1000


def _rank(rank, folder, results):
    torch.set_num_threads(1)
    detector = Knows(2, pictures=0, **SMALL)
    mine = SCENES[rank::2]
    detector.told = [
        {k: v for k, v in found(t).items() if k != "masks"}
        if rank
        else {k: v[:0] for k, v in found(t).items() if k != "masks"}
        for _, t in mine
    ]
    engine = L.Trainer(
        accelerator="cpu", devices=2, strategy=_Joined(rank, folder), logger=False, use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    (logged,) = engine.test(detector, loader(mine), verbose=False)
    results.put((rank, logged["test/map"], logged["test/mar_100"]))


def _Joined(rank, folder):
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    environment = LightningEnvironment()
    environment._world_size, environment._global_rank = 2, rank
    environment.local_rank = lambda: rank

    class Joined(DDPStrategy):
        def setup_distributed(self):
            self._process_group_backend = "gloo"
            self.set_world_ranks()
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
            )

        def _configure_launcher(self):
            self._launcher = None

    environment.__class__ = type(
        "Started", (LightningEnvironment,), {"creates_processes_externally": property(lambda self: True)}
    )
    return Joined(cluster_environment=environment)


@pytest.mark.distributed
def test_ranks_are_measured_together(tmp_path):
    """Rank 1 finds all of its 5 things, rank 0 none of its 2; either alone would say 1 or 0."""
    context = torch.multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path), results), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        answers = [results.get(timeout=90) for _ in ranks]
    finally:
        for process in ranks:
            process.join(timeout=10)
            process.kill()
    assert answers[0][1:] == pytest.approx(answers[1][1:])
    single = Knows(2, pictures=0, **SMALL)
    single.told = [{k: v if n % 2 else v[:0] for k, v in found(t).items()} for n, (_, t) in enumerate(SCENES)]
    (logged,) = trainer(tmp_path).test(single, loader(), verbose=False)
    assert answers[0][1] == pytest.approx(logged["test/map"])
    assert 0 < logged["test/map"] < 1
