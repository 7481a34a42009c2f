"""mmsegmentation's data sets as a data module: ADE20K, Cityscapes, PASCAL-Context and others that are on disk."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from fulgurite.data.image_files import read_image
from fulgurite.data.mmseg_datasets import find_dataset
from fulgurite.data.segmentation_data import IMAGENET_MEAN, IMAGENET_STD, SegmentationData
from fulgurite.data.segmentation_transforms import Size, Transform, segmentation_transform
from fulgurite.data.splits import Split

_VOID = 255  # mmsegmentation's
_ROOT = "FULGURITE_DATA"
_LISTS = "ImageSets/SegmentationContext"
_CONTEXT = {
    part: {"images": "JPEGImages", "masks": "SegmentationClassContext", "list": f"{_LISTS}/{part}.txt"}
    for part in ("train", "val")
}
# Where a data set's own archive puts its parts; folders and lists are relative to the root.
LAYOUTS: dict[str, dict[str, dict[str, str]]] = {
    "ADE20KDataset": {
        "train": {"images": "images/training", "masks": "annotations/training"},
        "val": {"images": "images/validation", "masks": "annotations/validation"},
    },
    "CityscapesDataset": {
        part: {"images": f"leftImg8bit/{part}", "masks": f"gtFine/{part}"} for part in ("train", "val")
    },
    "PascalContextDataset": _CONTEXT,
    "PascalContextDataset59": _CONTEXT,
}
# The folder below $FULGURITE_DATA where none is given.
_FOLDERS = {
    "ADE20KDataset": "ADEChallengeData2016",
    "CityscapesDataset": "cityscapes",
    "PascalContextDataset": "VOCdevkit/VOC2010",
    "PascalContextDataset59": "VOCdevkit/VOC2010",
}


class MmsegRows(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks of one part, decoded when they are asked for.

    Args:
        rows: what a data set of mmsegmentation lists: ``img_path``, ``seg_map_path``, ``label_map``,
            ``reduce_zero_label``.
        transform: makes of (image (3, H, W) uint8, mask (H, W) int64) what the network gets.
        num_classes: K.

    Raises:
        ValueError: when a row is asked for, a file that cannot be decoded, a mask of another size than its image's, or
            with an unknown class.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], transform: Transform, *, num_classes: int) -> None:
        self.rows = rows
        self._transform = transform
        self._num_classes = num_classes

    def __len__(self) -> int:
        return len(self.rows)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        image = read_image(row["img_path"], channels=3)
        mask = _decode(row["seg_map_path"])
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{row['seg_map_path']}: is {mask.shape[1]} × {mask.shape[0]} pixels, its image {row['img_path']} is "
                f"{image.shape[2]} × {image.shape[1]}; want the same size"
            )
        mask = relabel(mask, reduce_zero_label=row["reduce_zero_label"], label_map=row["label_map"])
        unknown = mask[(mask >= self._num_classes) & (mask != _VOID)].unique().tolist()
        if unknown:
            shift = "; with 0 as none, 1 is the first" if row["reduce_zero_label"] else ""
            raise ValueError(
                f"{row['seg_map_path']}: has class {', '.join(map(str, unknown[:5]))}; "
                f"want 0 to {self._num_classes - 1}, or {_VOID} where a pixel has none{shift}"
            )
        return self._transform(image, mask)


class MmsegData(SegmentationData):
    """A data set that mmsegmentation knows, in its own layout on disk.

    File lists, class names, colours, the meaning of 0 (``reduce_zero_label``) and chosen classes come from
    mmsegmentation's data set class; images and masks are decoded, augmented and batched as those of every data module
    here: (images (B, 3, H, W) float32, masks (B, H, W) int64), void 255. Validation is the test part, too.

    Args:
        dataset: name of the class: ``ADE20KDataset``, ``CityscapesDataset``, ``PascalContextDataset``,
            ``PascalContextDataset59`` or another, whose folders ``parts`` then has to say.
        root: the folder; ``None``: where ``$FULGURITE_DATA`` has the four above.
        parts: of ``train`` and ``val``, folders below the root and, if it has one, the file that lists names:
            ``{"train": {"images": …, "masks": …, "list": …}, "val": {…}}``; ``None``: the data set's own.
        classes: names of the classes that are wanted; pixels of others become void. ``None``: all.
        reduce_zero_label: whether 0 is no class and 1 the first; ``None``: as the data set says.
        batch_size: images in a batch of training.
        eval_batch_size: images in a batch of everything else; 1 where they differ in size.
        size: (height, width) to which all images and masks are brought first; ``None`` leaves them as they are.
        scale: smallest and largest factor by which a training image is scaled at random.
        crop_size: (height, width) of a random crop of a training image; what is outside is void.
        flip: probability that a training image is mirrored.
        photometric: alter brightness, contrast, saturation and hue of training images.
        mean: of the channels, of values in [0, 1].
        std: likewise.
        seed: unused so far, as the parts are given.
        num_workers: worker processes of each loader, which decode.

    Raises:
        ImportError: mmsegmentation is not installed.
        ValueError: an unknown data set or class; when the data is set up, a folder or list that is missing or empty,
            an image without its mask; when a row is read, what is wrong with its file.

    Example:
        >>> MmsegData(dataset="CityscapesDataset", root="cityscapes").class_names[:3]
        ('road', 'sidewalk', 'building')
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: str | None = None,
        parts: dict[str, dict[str, str]] | None = None,
        classes: Sequence[str] | None = None,
        reduce_zero_label: bool | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = 1,
        size: Size | None = None,
        scale: tuple[float, float] | None = None,
        crop_size: Size | None = None,
        flip: float = 0.0,
        photometric: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self._kind = find_dataset(dataset)
        if len(mean) != 3:
            raise ValueError(f"got mean={list(mean)}; want three numbers, of red, green and blue")
        if parts is None and dataset not in LAYOUTS:
            raise ValueError(f"got dataset={dataset!r} without parts; say where its images and masks lie")
        self.dataset = dataset
        self.root = root
        self.parts = LAYOUTS[dataset] if parts is None else parts
        for part, places in self.parts.items():
            if part not in ("train", "val", "test") or not {"images", "masks"} <= set(places):
                raise ValueError(f"got parts {part!r}: {places}; want images and masks of train, val or test")
        known = self._kind.METAINFO["classes"]
        unknown = [name for name in classes or () if name not in known]
        if unknown:
            raise ValueError(f"got classes {', '.join(unknown)}; {dataset} has {', '.join(known)}")
        if classes is not None and (len(classes) < 2 or len(set(classes)) < len(classes)):
            raise ValueError(f"got classes {', '.join(classes)}; want 2 or more, all different")
        self.class_names = tuple(known if classes is None else classes)
        self.num_classes = len(self.class_names)
        colours = dict(zip(known, self._kind.METAINFO["palette"], strict=True))
        self.palette = torch.tensor([colours[name] for name in self.class_names], dtype=torch.uint8)
        self.mean, self.std = tuple(mean), tuple(std)
        self._reduce = reduce_zero_label
        common: dict[str, Any] = {"size": size, "mean": mean, "std": std, "ignore_index": _VOID}
        self._evaluate = segmentation_transform(**common)
        self._train = segmentation_transform(
            **common, scale=scale, crop_size=crop_size, flip=flip, photometric=photometric
        )

    @override
    def make_parts(self) -> Mapping[Split, MmsegRows]:
        """List the files, and look whether they are there; none is decoded yet."""
        root = self._folder()
        found: dict[Split, MmsegRows] = {}
        for name in ("train", "val", "test"):
            if name in self.parts:
                rows = self._list(root, self.parts[name])
                change = self._train if name == "train" else self._evaluate
                found[name] = MmsegRows(rows, change, num_classes=self.num_classes)
        if "val" in found:
            found.setdefault("test", found["val"])
        sizes = ", ".join(f"{len(rows)} {name}" for name, rows in found.items())
        rank_zero_info(f"MmsegData: {self.dataset} in {root}: {self.num_classes} classes, images: {sizes}")
        return found

    def _list(self, root: Path, places: Mapping[str, str]) -> list[dict[str, Any]]:
        for key in ("images", "masks"):
            if not (root / places[key]).is_dir():
                raise ValueError(f"{root / places[key]}: no such folder; {self.dataset} has its {key} there")
        if "list" in places and not (root / places["list"]).is_file():
            raise ValueError(f"{root / places['list']}: no such file; {self.dataset} has a part's names there")
        options: dict[str, Any] = {} if self._reduce is None else {"reduce_zero_label": self._reduce}
        listing = self._kind(
            data_root=str(root),
            data_prefix={"img_path": places["images"], "seg_map_path": places["masks"]},
            ann_file=places.get("list", ""),
            metainfo={"classes": self.class_names},
            lazy_init=True,
            **options,
        )
        rows = listing.load_data_list()
        where = root / places.get("list", places["images"])
        if not rows:
            raise ValueError(f"{where}: has no image ending in {listing.img_suffix}; {self.dataset} wants some")
        for key, what in (("img_path", "image"), ("seg_map_path", "mask")):
            absent = [row[key] for row in rows if not os.path.isfile(row[key])]
            if absent:
                more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
                raise ValueError(
                    f"{absent[0]}: no such file{more}; {where} has {len(rows)} names, each wants its {what}"
                )
        return rows

    def _folder(self) -> Path:
        if self.root is not None:
            return Path(self.root).expanduser()
        if _ROOT in os.environ and self.dataset in _FOLDERS:
            return Path(os.environ[_ROOT], _FOLDERS[self.dataset])
        raise ValueError(f"MmsegData has no folder: give root, or set ${_ROOT}")


def relabel(mask: Tensor, *, reduce_zero_label: bool, label_map: Mapping[int, int] | None) -> Tensor:
    """Give classes for a mask's numbers, as mmsegmentation's ``LoadAnnotations`` does.

    Args:
        mask: (H, W) int64.
        reduce_zero_label: 0 becomes void, and every other class one less.
        label_map: class → class or void, applied after that.

    Example:
        >>> relabel(torch.tensor([0, 1, 2, 255]), reduce_zero_label=True, label_map={0: 1, 1: 255}).tolist()
        [255, 1, 255, 255]
    """
    if reduce_zero_label:
        mask = torch.where((mask == 0) | (mask == _VOID), _VOID, mask - 1)
    if label_map is None:
        return mask
    mapped = mask.clone()
    for old, new in label_map.items():
        mapped[mask == old] = new
    return mapped


def _decode(path: str) -> Tensor:
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace it") from error
    if values.ndim != 2:
        raise ValueError(f"{path}: has colours (mode {mode}); want an image whose values are class numbers")
    return torch.from_numpy(values.astype(np.int64))
