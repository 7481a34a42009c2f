"""mmsegmentation's data sets as a data module; labels against mmsegmentation's own loader."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")
from fulgurite.data.mmseg_data import MmsegData

NAMES = {"train": ["2008_000002", "2008_000003"], "val": ["2008_000007"]}


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"):
        (tmp_path / folder).mkdir(parents=True)
    for part, names in NAMES.items():
        (tmp_path / f"ImageSets/SegmentationContext/{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"JPEGImages/{name}.jpg")
            mask = rng.choice([*range(60), 255], (40, 48)).astype(np.uint8)
            Image.fromarray(mask).save(tmp_path / f"SegmentationClassContext/{name}.png")
    return tmp_path


@pytest.mark.parametrize("dataset", ["PascalContextDataset", "PascalContextDataset59"])
@pytest.mark.parametrize("classes", [None, ["wood", "bag", "tree"]])
def test_labels_are_those_of_mmseg_s_own_loader(dataset, classes, root):
    data = MmsegData(dataset=dataset, root=str(root), classes=classes)
    from mmseg.datasets.transforms import LoadAnnotations  # which the line above has made possible

    rows = data.part("train")
    for index in range(2):
        mask = rows[index][1]
        wanted = LoadAnnotations().transform({**rows.rows[index], "seg_fields": []})["gt_seg_map"]
        assert torch.equal(mask, torch.from_numpy(wanted).long())
    names = [Path(row["img_path"]).stem for row in rows.rows]
    assert names == NAMES["train"]
    assert len(data.class_names) == data.num_classes == len(data.palette)


def test_a_batch_is_that_of_every_segmentation(root):
    data = MmsegData(dataset="PascalContextDataset59", root=str(root), batch_size=2, crop_size=(32, 64), flip=0.5)
    images, masks = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((2, 3, 32, 64), torch.float32)
    assert (masks.shape, masks.dtype) == ((2, 32, 64), torch.int64)
    assert set(masks.unique().tolist()) <= {*range(59), 255}
    assert next(iter(data.predict_dataloader())).shape == (1, 3, 40, 48)
    assert data.class_names[0] == "aeroplane"
    assert data.palette[0].tolist() == [180, 120, 120]


def test_what_is_missing_or_wrong_is_named(root):
    def data(**options):
        return MmsegData(**{"dataset": "PascalContextDataset59", "root": str(root), **options})

    with pytest.raises(ValueError, match="choose from ADE20KDataset"):
        data(dataset="BaseSegDataset")
    with pytest.raises(ValueError, match="without parts"):
        data(dataset="LoveDADataset")
    with pytest.raises(ValueError, match="got classes unicorn"):
        data(classes=["unicorn", "bag"])
    with pytest.raises(ValueError, match="images/training: no such folder"):
        data(dataset="ADE20KDataset").setup()
    mask = root / "SegmentationClassContext/2008_000002.png"
    Image.fromarray(np.full((40, 48), 60, np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"2008_000002.png: has class 60; want 0 to 59"):
        data(dataset="PascalContextDataset").part("train")[0]
    Image.fromarray(np.zeros((40, 47), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="want the same size"):
        data().part("train")[0]
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="has colours"):
        data().part("train")[0]
    mask.unlink()
    with pytest.raises(ValueError, match=r"2008_000002.png: no such file"):
        data().setup()
    (root / "ImageSets/SegmentationContext/train.txt").write_text("")
    with pytest.raises(ValueError, match=r"train.txt: has no image"):
        data().setup()
