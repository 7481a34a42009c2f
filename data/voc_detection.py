"""Boxes as Pascal VOC keeps them: an XML file for each image."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS
from typing_extensions import override

from fulgurite.data.detection_data import BadBoxes, BoxedImage, DetectionData, check_boxes, data_folder
from fulgurite.data.detection_transforms import Augment
from fulgurite.data.image_files import check_images
from fulgurite.data.splits import SPLITS, Split, split_by_hash

Difficult = Literal["keep", "drop"]

_NAME = "voc"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocDetection(DetectionData):
    """A folder in the form of `PASCAL VOC <http://host.robots.ox.ac.uk/pascal/VOC/>`_, also that of other data sets.

    ``Annotations/name.xml`` has the boxes of ``JPEGImages/name.jpg`` (or any other suffix). The parts are
    lists of names, ``ImageSets/Main/train.txt`` or ``ImageSets/train.txt``, likewise ``val`` and ``test``; where there
    is none of ``val``, it is cut from all images by ``val_share``, always the same. Every image needs its annotation;
    one without objects is an image in which there is nothing to find.

    Batches are (list of images, list of targets); see :class:`~fulgurite.data.detection_data.DetectionData`. Boxes are
    (x1, y1, x2, y2) with x2 and y2 behind the last pixel, so that x2 − x1 is the width: of VOC's coordinates, which
    count pixels from 1 and include the last, the first two lose 1.

    Args:
        root: the folder; ``None`` is ``$FULGURITE_DATA/voc``.
        batch_size: images in a batch.
        classes: names of label 1, 2, …; ``None`` takes those of the training part, sorted.
        max_side: pixels to which the longer side is brought; ``None`` leaves images as they are.
        augment: of training images: ``none``, ``mirror``, ``flips`` (both ways) or ``jitter`` (of scale and place, and
            mirrored).
        one_based: pixels are counted from 1, as in VOC; some tools write the same files counting from 0.
        difficult: what becomes of objects that are marked so.
        bad_boxes: ``error``, or ``repair``: boxes are cut at the border, and left out if nothing remains.
        val_share: share of the images for validation, where no list says so.
        num_workers: worker processes of each loader.

    Raises:
        ValueError: an option out of range; when the data is set up: a folder, list, image or annotation that is
            missing, XML that breaks off, an unknown class, a box without an area or outside its image; each named.

    Example:
        >>> import tempfile
        >>> from torchvision.utils import save_image
        >>> xml = '''<annotation><size><width>30</width><height>20</height></size><object><name>cell</name><bndbox>
        ...     <xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>5</ymax></bndbox></object></annotation>'''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("Annotations", "ImageSets", "JPEGImages"):
        ...         Path(folder, name).mkdir()
        ...     _ = Path(folder, "Annotations", "a.xml").write_text(xml)
        ...     _ = Path(folder, "ImageSets", "train.txt").write_text("a")
        ...     save_image(torch.rand(3, 20, 30), f"{folder}/JPEGImages/a.png")
        ...     data = VocDetection(folder, batch_size=1, val_share=0)
        ...     images, targets = next(iter(data.train_dataloader()))
        >>> images[0].shape, targets[0]["boxes"].tolist(), data.class_names
        (torch.Size([3, 20, 30]), [[0.0, 0.0, 10.0, 5.0]], ('cell',))
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        batch_size: int = 4,
        classes: list[str] | None = None,
        max_side: int | None = None,
        augment: Augment = "none",
        one_based: bool = True,
        difficult: Difficult = "keep",
        bad_boxes: BadBoxes = "error",
        val_share: float = 0.2,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, max_side=max_side, augment=augment, bad_boxes=bad_boxes, num_workers=num_workers
        )
        if not 0 <= val_share < 1:
            raise ValueError(f"got val_share={val_share}; want at least 0 and less than 1")
        if difficult not in get_args(Difficult):
            raise ValueError(f"got difficult={difficult!r}; choose from {', '.join(get_args(Difficult))}")
        if classes is not None and (not classes or len(set(classes)) < len(classes)):
            raise ValueError(f"got classes={classes}; want one or more, each once, or none")
        self.root = root
        self.classes = classes
        self.one_based = one_based
        self.difficult: Difficult = difficult
        self.val_share = val_share

    @override
    def make_records(self) -> Mapping[Split, Sequence[BoxedImage]]:
        """Find the parts, read every annotation, look at every image's header; none is decoded yet."""
        root = data_folder(self.root, _NAME, asker="VocDetection")
        for name in ("Annotations", "JPEGImages"):
            if not (root / name).is_dir():
                raise ValueError(
                    f"{root}: has no folder {name}; want Annotations, JPEGImages and, for parts, ImageSets"
                )
        parts = self._names(root)
        images = {
            Path(file).stem: str(root / "JPEGImages" / file)
            for file in sorted(os.listdir(root / "JPEGImages"))
            if file.lower().endswith(IMG_EXTENSIONS)
        }
        trees: dict[Split, list[ElementTree.Element]] = {}
        for part, names in parts.items():
            for name in names:
                if name not in images:
                    raise ValueError(
                        f"{root / 'JPEGImages' / name}.jpg: there is no such image, which is in the {part} part; "
                        "add it, or take its name from the list"
                    )
            trees[part] = [_read(root / "Annotations" / f"{name}.xml") for name in names]
        check_images(images[name] for names in parts.values() for name in names)
        found_names = {
            _name(item, root / "Annotations" / f"{name}.xml")
            for name, tree in zip(parts["train"], trees["train"], strict=True)
            for item in tree.iter("object")
        }
        known = self.classes or sorted(found_names)
        if not known:
            raise ValueError(f"{root}: no training image has an object; mark some, or give classes")
        self.class_names = tuple(known)
        numbers = {name: number for number, name in enumerate(known, start=1)}
        found: dict[Split, list[BoxedImage]] = {}
        for part, names in parts.items():
            found[part] = [
                self._record(tree, root / "Annotations" / f"{name}.xml", images[name], numbers, number)
                for number, (name, tree) in enumerate(zip(names, trees[part], strict=True))
            ]
        return found

    def _names(self, root: Path) -> dict[Split, list[str]]:
        lists: dict[Split, Path] = {}
        for part in SPLITS:
            for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
                if (folder / f"{part}.txt").is_file():
                    lists.setdefault(part, folder / f"{part}.txt")
        if lists and "train" not in lists:
            raise ValueError(f"{root / 'ImageSets'}: has {', '.join(lists)}.txt but no train.txt; add it")
        # A class's list in Main has a second column; a name alone stands on each line of the others.
        parts = {
            part: [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
            for part, file in lists.items()
        }
        if not lists:
            parts["train"] = sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
        if "val" not in parts and self.val_share:
            cut = split_by_hash(parts["train"], val_share=self.val_share, test_share=0)
            names = parts["train"]
            parts["train"] = [name for name in names if cut[name] == "train"]
            parts["val"] = [name for name in names if cut[name] == "val"]
        for part, names in parts.items():
            if not names:
                raise ValueError(f"{lists.get(part, root / 'Annotations')}: names no image; fill it, or remove it")
        return parts

    def _record(
        self, tree: ElementTree.Element, file: Path, image: str, numbers: Mapping[str, int], number: int
    ) -> BoxedImage:
        size = tree.find("size")
        if size is None:
            raise ValueError(f"{file}: says no <size>; want <size><width>…</width><height>…</height></size>")
        height, width = (int(_number(size, side, file)) for side in ("height", "width"))
        sides, labels = [], []
        for item in tree.iter("object"):
            if self.difficult == "drop" and (item.findtext("difficult") or "0").strip() == "1":
                continue
            name = _name(item, file)
            if name not in numbers:
                raise ValueError(f"{file}: has an object of class {name!r}; known are {', '.join(numbers)}")
            box = item.find("bndbox")
            if box is None:
                raise ValueError(f"{file}: its {name!r} has no <bndbox>; add it, or remove the object")
            left, top, right, bottom = (_number(box, side, file) for side in _SIDES)
            first = 1.0 if self.one_based else 0.0
            sides.append([left - first, top - first, right, bottom])
            labels.append(numbers[name])
        boxes, keep = check_boxes(
            torch.tensor(sides, dtype=torch.float32), (height, width), place=str(file), bad=self.bad_boxes
        )
        self.repaired += int((~keep).sum())
        boxes, kept = boxes[keep], torch.tensor(labels, dtype=torch.int64)[keep]
        return BoxedImage(
            path=image,
            size=(height, width),
            boxes=boxes,
            labels=kept,
            iscrowd=torch.zeros_like(kept),
            area=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
            image_id=number,
        )


def _read(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise ValueError(
            f"{file}: there is no such annotation; an image in which there is nothing needs one too"
        ) from error
    except (ElementTree.ParseError, OSError, ValueError) as error:  # ValueError: an unknown encoding
        raise ValueError(f"{file}: is not XML that can be read ({error}); correct or replace it") from error


def _name(item: ElementTree.Element, file: Path) -> str:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{file}: has an object without a <name>; name its class")
    return name


def _number(parent: ElementTree.Element, name: str, file: Path) -> float:
    text = (parent.findtext(name) or "").strip()
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{file}: says <{name}>{text}</{name}> in a <{parent.tag}>; want a number") from error
