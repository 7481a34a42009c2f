"""What the data modules of detection have in common: checked boxes, batches of lists, parts and their loaders."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from typing_extensions import override

from fulgurite.data.detection_transforms import AUGMENTS, Augment, detection_transform
from fulgurite.data.image_files import read_image
from fulgurite.data.splits import Split

Target = dict[str, Tensor]
DetectionBatch = tuple[list[Tensor], list[Target]]
BadBoxes = Literal["error", "repair"]

_ROOT = "FULGURITE_DATA"
_TOLERANCE = 1.0  # pixels by which a box may stick out: annotation tools disagree about where pixels begin


@dataclass(frozen=True)
class BoxedImage:
    """One image and what is marked in it, before the file is decoded.

    Attributes:
        path: of the image.
        size: (H, W), as the annotation says.
        boxes: (n, 4) float32, (x1, y1, x2, y2) pixels; n may be 0.
        labels: (n,) int64, from 1.
        iscrowd: (n,) int64, 1 for a box that holds many things and is no one's miss.
        area: (n,) float32, square pixels, by which COCO's metric calls a thing small or large.
        image_id: a number of its own.
        segments: what :attr:`BoxedImages.masks` makes masks of, one an object.
    """

    path: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor
    area: Tensor
    image_id: int
    segments: Sequence[Any] = ()


class BoxedImages(Dataset[tuple[Tensor, Target]]):
    """Images that are decoded when they are asked for, and their targets.

    Args:
        records: what is marked in which image.
        transform: of (image uint8, target of :mod:`torchvision.tv_tensors`) together.
        masks: makes (n, H, W) uint8 of a record's ``segments``; ``None`` where there are no masks.

    Raises:
        ValueError: a file that cannot be decoded, or of another size than its annotation says, when it is asked for.
    """

    def __init__(
        self,
        records: Sequence[BoxedImage],
        transform: Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]],
        masks: Callable[[Sequence[Any], tuple[int, int]], Tensor] | None = None,
    ) -> None:
        self.records = records
        self.masks = masks
        self._transform = transform

    def __len__(self) -> int:
        return len(self.records)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record = self.records[index]
        image = read_image(record.path, channels=3, upright=False)
        if (size := tuple(image.shape[1:])) != record.size:
            raise ValueError(
                f"{record.path}: is {size[1]} × {size[0]}, its annotation says {record.size[1]} × {record.size[0]}; "
                "correct the annotation"
            )
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(record.boxes, format="XYXY", canvas_size=record.size),
            "labels": record.labels,
            "iscrowd": record.iscrowd,
            "area": record.area,
            "image_id": torch.tensor(record.image_id),
        }
        if self.masks is not None:
            target["masks"] = tv_tensors.Mask(self.masks(record.segments, record.size))
        image, target = self._transform(tv_tensors.Image(image), target)
        return image.as_subclass(Tensor), {key: value.as_subclass(Tensor) for key, value in target.items()}


class DetectionData(L.LightningDataModule):
    """Base of the data modules whose batches are (list of images, list of targets); a subclass says how to load.

    An image is (3, H, W) float32 in [0, 1], each of its own size. A target has ``boxes`` (n, 4) float32 (x1, y1, x2,
    y2), ``labels`` (n,) int64 from 1, ``iscrowd`` (n,), ``area`` (n,), ``image_id`` (), and ``masks`` (n, H, W) uint8
    where the data has them. An image with nothing in it has n = 0.

    Args:
        batch_size: images in a batch.
        max_side: pixels to which the longer side is brought, before anything else; ``None`` leaves images as they are.
        augment: of training images; see :func:`~fulgurite.data.detection_transforms.detection_transform`.
        bad_boxes: what becomes of a box without an area, or one that sticks out of its image by more than a pixel:
            ``error``, or ``repair``: cut at the border, and left out if nothing of it remains.
        num_workers: worker processes of each loader, which decode.

    Raises:
        ValueError: an option out of range.
    """

    class_names: tuple[str, ...] | None = None  #: of label 1, 2, …
    in_channels = 3

    def __init__(
        self,
        *,
        batch_size: int,
        max_side: int | None,
        augment: Augment,
        bad_boxes: BadBoxes,
        num_workers: int,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"got batch_size={batch_size}; want at least 1")
        if max_side is not None and max_side < 1:
            raise ValueError(f"got max_side={max_side}; want at least 1, or none")
        for name, value, known in (
            ("augment", augment, AUGMENTS),
            ("bad_boxes", bad_boxes, get_args(BadBoxes)),
        ):
            if value not in known:
                raise ValueError(f"got {name}={value!r}; choose from {', '.join(known)}")
        self.batch_size = batch_size
        self.max_side = max_side
        self.augment: Augment = augment
        self.bad_boxes: BadBoxes = bad_boxes
        self.num_workers = num_workers
        self.repaired = 0  #: boxes that were cut or left out
        self._parts: Mapping[Split, BoxedImages] | None = None

    @property
    def num_classes(self) -> int:
        """K, without a background; known once the data is set up."""
        self.setup()
        return len(self.class_names or ())

    def make_records(self) -> Mapping[Split, Sequence[BoxedImage]]:
        """Read the annotations, set ``class_names``, and give the parts that are not empty; called once."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its data comes from: make_records()")

    def masks(self, segments: Sequence[Any], size: tuple[int, int]) -> Tensor:
        """Make masks (n, H, W) uint8 of a record's segments; used where :attr:`has_masks`."""
        raise NotImplementedError(f"{type(self).__name__} has to say how masks are made: masks()")

    @property
    def has_masks(self) -> bool:
        """Whether targets have masks."""
        return False

    @override
    def setup(self, stage: str | None = None) -> None:
        """Read the annotations on the first call; further calls do nothing."""
        if self._parts is not None:
            return
        records = self.make_records()
        self._parts = {
            part: BoxedImages(found, self.transform(part), self.masks if self.has_masks else None)
            for part, found in records.items()
        }
        sizes = ", ".join(
            f"{len(found)} {part} with {sum(len(record.labels) for record in found)} boxes"
            for part, found in records.items()
        )
        rank_zero_info(f"{type(self).__name__}: {len(self.class_names or ())} classes, images: {sizes}")
        if self.repaired:
            rank_zero_info(f"{type(self).__name__}: {self.repaired} boxes were cut at the border or left out")

    def transform(self, split: Split) -> Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]:
        """Give what is done to an image and its target of a part."""
        return detection_transform(augment=self.augment if split == "train" else "none", max_side=self.max_side)

    def part(self, split: Split) -> BoxedImages:
        """The images of one part.

        Raises:
            ValueError: there are none.
        """
        self.setup()
        assert self._parts is not None
        if split not in self._parts:
            raise ValueError(f"{type(self).__name__} has no {split} part; it has {', '.join(self._parts)}")
        return self._parts[split]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled anew every epoch."""
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part, always the same."""
        return self._loader("val")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part, always the same."""
        return self._loader("test")

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part, or of the validation part where there is none."""
        self.setup()
        return self._loader("test" if "test" in (self._parts or ()) else "val")

    def _loader(self, split: Split, *, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            self.part(split),
            batch_size=self.batch_size,
            shuffle=shuffle,
            collate_fn=collate_detection,
            num_workers=self.num_workers,
        )


def collate_detection(rows: Sequence[tuple[Tensor, Target]]) -> DetectionBatch:
    """Make a batch of images of any sizes: two lists.

    Example:
        >>> images, targets = collate_detection([(torch.zeros(3, 8, 9), {}), (torch.zeros(3, 5, 4), {})])
        >>> [tuple(image.shape) for image in images]
        [(3, 8, 9), (3, 5, 4)]
    """
    return [image for image, _ in rows], [target for _, target in rows]


def check_boxes(boxes: Tensor, size: tuple[int, int], *, place: str, bad: BadBoxes = "error") -> tuple[Tensor, Tensor]:
    """Hold boxes against their image; what sticks out by a pixel at most is cut off without a word.

    Args:
        boxes: (n, 4), (x1, y1, x2, y2) pixels.
        size: (H, W) of the image.
        place: the file that they are from, for the message.
        bad: ``error``, or ``repair``: boxes are cut at the border however far they stick out, and those of which
            nothing remains are not kept.

    Returns:
        The boxes (n, 4), float32, within the image, and which of them to keep, (n,) bool: all, where ``bad`` is
        ``error``.

    Raises:
        ValueError: a box that is not finite; under ``error``, one without a positive width and height, or out of the
            image.

    Example:
        >>> found = torch.tensor([[-0.5, 0, 8, 8], [9, 2, 20, 4]])
        >>> boxes, keep = check_boxes(found, (8, 10), place="a.xml", bad="repair")
        >>> boxes.tolist(), keep.tolist()
        ([[0.0, 0.0, 8.0, 8.0], [9.0, 2.0, 10.0, 4.0]], [True, True])
    """
    boxes = boxes.to(torch.float32).reshape(-1, 4)
    height, width = size
    if not boxes.isfinite().all():
        number = int((~boxes.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"{place}: box {number + 1}, {_text(boxes[number])}, is not finite; correct it")
    border = torch.tensor([width, height, width, height], dtype=torch.float32)
    if bad == "error":
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        out = ((boxes < -_TOLERANCE) | (boxes > border + _TOLERANCE)).any(dim=1)
        for fault, what in (
            (flat, "has no area; want x1 < x2 and y1 < y2"),
            (out, f"is outside the image, {width} × {height}"),
        ):
            if fault.any():
                number = int(fault.nonzero()[0])
                raise ValueError(
                    f"{place}: box {number + 1}, {_text(boxes[number])}, {what}; correct it, or give bad_boxes=repair"
                )
    cut = boxes.clamp(min=0).minimum(border)
    keep = (cut[:, 2:] > cut[:, :2]).all(dim=1)
    if bad == "error" and not keep.all():
        number = int((~keep).nonzero()[0])
        raise ValueError(
            f"{place}: box {number + 1}, {_text(boxes[number])}, is outside the image, {width} × {height}; "
            "correct it, or give bad_boxes=repair"
        )
    return cut, keep


def data_folder(root: str | None, name: str, *, asker: str) -> Path:
    """Give the folder of a data set: the one that is named, or ``name`` below ``$FULGURITE_DATA``.

    Raises:
        ValueError: there is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data_folder(folder, "voc", asker="VocDetection") == Path(folder)
        True
    """
    if root is None and _ROOT not in os.environ:
        raise ValueError(f"{asker} has no folder: give root, or set ${_ROOT} to a folder that has {name!r}")
    folder = Path(os.environ[_ROOT], name) if root is None else Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give {asker} the one that has the data")
    return folder


def _text(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box.tolist()) + ")"
