"""Boxes and masks as COCO keeps them: one JSON file for all images of a part."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.data.coco_masks import segmentation_mask
from fulgurite.data.detection_data import BadBoxes, BoxedImage, DetectionData, check_boxes, data_folder
from fulgurite.data.detection_transforms import Augment
from fulgurite.data.image_files import check_images
from fulgurite.data.splits import Split

_NAME = "coco"


class CocoDetectionData(DetectionData):
    """A folder in the form of `COCO <https://cocodataset.org>`_: ``train2017/`` and ``annotations/instances_….json``.

    What :class:`torchvision.datasets.CocoDetection` reads, without ``pycocotools``. Categories become labels 1 … K
    in the order of their ids, which in COCO have gaps; ``class_names`` has their names. An image without annotations is
    one in which there is nothing to find. Crowds are left out of training, and passed to the metric as such in
    validation.

    Batches are (list of images, list of targets); see :class:`~fulgurite.data.detection_data.DetectionData`.

    Args:
        root: the folder; ``None`` is ``$FULGURITE_DATA/coco``.
        batch_size: images in a batch.
        masks: give instance masks, drawn of polygons and run lengths as COCO's tools draw them.
        train: name of the training part: of its folder, and in the name of its JSON file.
        val: name of the validation part; it is needed.
        test: name of the test part, whose annotations are needed as well; ``None`` for none.
        max_side: pixels to which the longer side is brought; ``None`` leaves images as they are.
        augment: of training images: ``none``, ``mirror``, ``flips`` or ``jitter``.
        keep_empty: train on images in which nothing is marked too.
        bad_boxes: ``error``, or ``repair``: boxes are cut at the border, and left out if nothing remains.
        check_files: read every image's header first; takes minutes for all of COCO.
        num_workers: worker processes of each loader.

    Raises:
        ValueError: an option out of range; when the data is set up: a folder or file that is missing, JSON that breaks
            off or lacks a key, an annotation of an unknown image or category, a box without an area or outside its
            image, other categories in validation than in training; later, a segmentation that is none. Each is named.

    Example:
        >>> import tempfile
        >>> from torchvision.utils import save_image
        >>> content = {
        ...     "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        ...     "categories": [{"id": 18, "name": "dog"}],
        ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10, 5], "iscrowd": 0,
        ...                      "area": 50, "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]]}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("annotations", "train2017", "val2017"):
        ...         Path(folder, name).mkdir()
        ...     for part in ("train2017", "val2017"):
        ...         _ = Path(folder, "annotations", f"instances_{part}.json").write_text(json.dumps(content))
        ...         save_image(torch.rand(3, 20, 30), f"{folder}/{part}/a.png")
        ...     data = CocoDetectionData(folder, batch_size=1, masks=True)
        ...     images, targets = next(iter(data.val_dataloader()))
        >>> targets[0]["boxes"].tolist(), targets[0]["labels"].tolist(), int(targets[0]["masks"].sum())
        ([[2.0, 3.0, 12.0, 8.0]], [1], 50)
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        batch_size: int = 2,
        masks: bool = False,
        train: str = "train2017",
        val: str = "val2017",
        test: str | None = None,
        max_side: int | None = None,
        augment: Augment = "none",
        keep_empty: bool = True,
        bad_boxes: BadBoxes = "error",
        check_files: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, max_side=max_side, augment=augment, bad_boxes=bad_boxes, num_workers=num_workers
        )
        self.root = root
        self.folders: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.keep_empty = keep_empty
        self.check_files = check_files
        self._masks = masks

    @property
    @override
    def has_masks(self) -> bool:
        return self._masks

    @override
    def masks(self, segments: Sequence[Any], size: tuple[int, int]) -> Tensor:
        """Draw the segmentations (place, segmentation) of one image."""
        drawn = []
        for place, segmentation in segments:
            try:
                drawn.append(segmentation_mask(segmentation, size))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{place}: {error}; correct it, or give masks=false") from error
        return torch.stack(drawn) if drawn else torch.zeros(0, *size, dtype=torch.uint8)

    @override
    def make_records(self) -> Mapping[Split, Sequence[BoxedImage]]:
        """Read the JSON files; no image is opened yet, unless ``check_files``."""
        root = data_folder(self.root, _NAME, asker="CocoDetectionData")
        found: dict[Split, list[BoxedImage]] = {}
        for part, name in self.folders.items():
            if name is None:
                continue
            file, folder = root / "annotations" / f"instances_{name}.json", root / name
            content = _read(file)
            if not folder.is_dir():
                raise ValueError(f"{folder}: there is no such folder; want the images of {file.name} there")
            categories = _categories(content, file)
            names = tuple(categories[number] for number in sorted(categories))
            if part == "train":
                self.class_names = names
            elif names != self.class_names:
                odd = sorted(set(names) ^ set(self.class_names or ()))
                what = f"differing in {', '.join(map(repr, odd[:5]))}" if odd else "in another order"
                raise ValueError(f"{file}: has other categories than the training part, {what}; use one list for both")
            found[part] = self._records(content, file, folder, categories, train=part == "train")
            if not found[part]:
                raise ValueError(f"{file}: has no image{'' if self.keep_empty else ' in which something is marked'}")
            if self.check_files:
                check_images(record.path for record in found[part])
        return found

    def _records(
        self, content: Mapping[str, Any], file: Path, folder: Path, categories: Mapping[int, str], *, train: bool
    ) -> list[BoxedImage]:
        labels = {number: label for label, number in enumerate(sorted(categories), start=1)}
        images = {_get(image, "id", file, "an image"): image for image in content["images"]}
        marked: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for item in content["annotations"]:
            place = f"annotation {item.get('id')}"
            if _get(item, "image_id", file, place) not in images:
                raise ValueError(
                    f"{file}: {place} is of image {item['image_id']}, which is not there; add or remove it"
                )
            if (category := _get(item, "category_id", file, place)) not in labels:
                raise ValueError(f"{file}: {place} has category {category}; known are {', '.join(map(str, labels))}")
            if not (train and item.get("iscrowd", 0)):
                marked[item["image_id"]].append(item)
        records = []
        for number, image in images.items():
            items = marked[number]
            size = tuple(int(_get(image, key, file, f"image {number}")) for key in ("height", "width"))
            record = self._record(image, items, size, folder, file, labels)  # type: ignore[arg-type]
            if len(record.labels) or self.keep_empty or not train:
                records.append(record)
        return records

    def _record(
        self,
        image: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        size: tuple[int, int],
        folder: Path,
        file: Path,
        labels: Mapping[int, int],
    ) -> BoxedImage:
        path = str(folder / _get(image, "file_name", file, f"image {image['id']}"))
        sides = []
        for item in items:
            box = _get(item, "bbox", file, f"annotation {item.get('id')}")
            if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)):
                raise ValueError(f"{file}: annotation {item.get('id')} has bbox {box!r}; want [x, y, width, height]")
            sides.append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
        boxes, keep = check_boxes(
            torch.tensor(sides, dtype=torch.float32), size, place=f"{file}: {path}", bad=self.bad_boxes
        )
        kept = [item for item, one in zip(items, keep.tolist(), strict=True) if one]
        self.repaired += len(items) - len(kept)
        boxes = boxes[keep]
        areas = [item.get("area") for item in kept]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if None not in areas:
            area = torch.tensor(areas, dtype=torch.float32).reshape(-1)
        segments = []
        for item in kept if self._masks else ():
            place = f"annotation {item.get('id')}"
            segments.append((f"{file}: {place}", _get(item, "segmentation", file, place)))
        return BoxedImage(
            path=path,
            size=size,
            boxes=boxes,
            labels=torch.tensor([labels[item["category_id"]] for item in kept], dtype=torch.int64),
            iscrowd=torch.tensor([int(item.get("iscrowd", 0)) for item in kept], dtype=torch.int64),
            area=area,
            image_id=int(image["id"]),
            segments=segments,
        )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{file}: there is no such file; want COCO's annotations there") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: broken JSON, or another encoding
        raise ValueError(f"{file}: is not JSON that can be read ({error}); download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"{file}: has no list {key!r}; want COCO's instances, with images, annotations, categories"
            )
        if not all(isinstance(item, dict) for item in content[key]):
            raise ValueError(f"{file}: {key!r} has something that is no mapping; want COCO's form")
    return content


def _categories(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    found = {
        _get(item, "id", file, "a category"): str(_get(item, "name", file, "a category"))
        for item in content["categories"]
    }
    if not found:
        raise ValueError(f"{file}: has no category; want at least one")
    return found


def _get(item: Mapping[str, Any], key: str, file: Path, what: str) -> Any:
    if key not in item:
        raise ValueError(f"{file}: {what} has no {key!r}; it has {', '.join(map(str, item))}")
    return item[key]
