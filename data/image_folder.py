"""Images of one's own: a folder of class folders."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from typing_extensions import override

from fulgurite.data.classification import ClassificationData, stratified_split
from fulgurite.data.image_files import check_images, class_folders, find_images, read_image
from fulgurite.data.splits import Split

Resize = Literal["crop", "squash", "pad"]
Normalize = Literal["imagenet", "half", "none"]
Augment = Literal["none", "mirror", "crop"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "resize": get_args(Resize),
    "normalize": get_args(Normalize),
    "augment": get_args(Augment),
}
_ROOT, _NAME = "FULGURITE_DATA", "images"
_FOLDERS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and spread of its channels


class LabelledFiles(Dataset[tuple[Tensor, Tensor]]):
    """Images that are decoded when they are asked for, and their class numbers.

    Args:
        paths: of N files.
        labels: (N,) class numbers.
        transform: makes of a uint8 image (channels, H, W) what the network gets.
        channels: 3 for colour, 1 for grey.

    Example:
        >>> files = LabelledFiles(["tom.jpg", "rex.jpg"], torch.tensor([0, 1]), v2.Identity(), channels=3)
        >>> len(files), files.labels.tolist()
        (2, [0, 1])
    """

    def __init__(
        self, paths: Sequence[str], labels: Tensor, transform: Callable[[Tensor], Tensor], *, channels: int
    ) -> None:
        self.paths = paths
        self.labels = labels
        self._transform = transform
        self._channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(read_image(self.paths[index], channels=self._channels)), self.labels[index]


class ImageFolder(ClassificationData):
    """A folder of class folders of images: ``root/cat/tom.jpg``, ``root/dog/rex.jpg``.

    Where ``root`` has the folders ``train`` and ``val`` (or ``valid``, ``validation``), each with class folders, those
    are the parts; ``test`` likewise. What is missing of ``val`` and ``test`` is cut from the training images by the
    shares, class by class and always the same.

    Batches are (images (B, C, image_size, image_size) float32, labels (B,) int64). Classes are numbered by their
    names' order, and ``class_names`` has the names.

    Args:
        root: the folder; ``None`` is ``$FULGURITE_DATA/images``.
        batch_size: images in a batch.
        image_size: pixels of a side, to which images are brought.
        resize: how: ``crop`` scales the shorter side and takes the middle, ``squash`` scales each side by itself,
            ``pad`` scales the longer side and fills up with black.
        grey: one channel instead of three.
        normalize: ``imagenet``: shift and scale by ImageNet's mean and spread, which published weights expect;
            ``half``: values in [-1, 1]; ``none``: values in [0, 1].
        augment: of training images: ``mirror`` turns half of them left to right; ``crop`` does so too, and takes a part
            of 60 to 100 % of the area instead of the whole.
        val_share: share of each class's training images for validation, where no folder has them.
        test_share: share of each class's training images for testing, where no folder has them.
        check_files: read every file's header first, so that broken ones are known before training begins.
        seed: of the split.
        num_workers: worker processes of each loader, which decode.

    Raises:
        ValueError: an option out of range; when the data is set up, a folder that is missing or without images, a
            class that training does not know, broken files (named); later, a file that breaks off (named).

    Example:
        >>> import tempfile
        >>> from torchvision.utils import save_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("circles", "squares"):
        ...         Path(folder, name).mkdir()
        ...         for number in range(5):
        ...             save_image(torch.rand(3, 20, 30), f"{folder}/{name}/{number}.png")
        ...     data = ImageFolder(root=folder, image_size=16, batch_size=4)
        ...     images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, data.class_names, len(data.part("val"))
        (torch.Size([4, 3, 16, 16]), ('circles', 'squares'), 2)
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        batch_size: int = 32,
        image_size: int = 64,
        resize: Resize = "crop",
        grey: bool = False,
        normalize: Normalize = "imagenet",
        augment: Augment = "none",
        val_share: float = 0.2,
        test_share: float = 0.0,
        check_files: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_share=val_share, test_share=test_share, seed=seed, num_workers=num_workers
        )
        if image_size < 1:
            raise ValueError(f"got image_size={image_size}; want at least 1")
        for name, value in (("resize", resize), ("normalize", normalize), ("augment", augment)):
            if value not in _CHOICES[name]:
                raise ValueError(f"got {name}={value!r}; choose from {', '.join(_CHOICES[name])}")
        self.root = root
        self.image_size = image_size
        self.resize = resize
        self.grey = grey
        self.normalize = normalize
        self.augment = augment
        self.check_files = check_files

    @override
    def make_parts(self) -> Mapping[Split, LabelledFiles]:
        """Find the images, split them, and look at their headers; none is decoded yet."""
        root = self._folder()
        folders = _part_folders(root)
        home = folders.pop("train", root)
        classes = class_folders(home)
        if len(classes) < 2:
            raise ValueError(f"{home}: has {len(classes)} class folders; want 2 or more, each with images of one class")
        paths, labels = find_images(home, classes)
        counts = labels.bincount(minlength=len(classes)).tolist()
        if 0 in counts:
            raise ValueError(f"{home / classes[counts.index(0)]}: holds no image; fill it, or remove it")
        rows = stratified_split(
            labels,
            val_share=0 if "val" in folders else self.val_share,
            test_share=0 if "test" in folders else self.test_share,
            seed=self.seed,
        )
        files = {part: ([paths[row] for row in index.tolist()], labels[index]) for part, index in rows.items()}
        for part, folder in folders.items():
            files[part] = find_images(folder, classes)
            if not files[part][0]:
                raise ValueError(f"{folder}: holds no image; fill it, or remove it")
        files = {part: content for part, content in files.items() if content[0]}
        if self.check_files:
            check_images(path for found, _ in files.values() for path in found)
        self.class_names = classes
        sizes = ", ".join(f"{len(found)} {part}" for part, (found, _) in files.items())
        rank_zero_info(f"ImageFolder: {root}: {len(classes)} classes, images: {sizes}")
        return {
            part: LabelledFiles(found, numbers, self.transform(part), channels=1 if self.grey else 3)
            for part, (found, numbers) in files.items()
        }

    def transform(self, split: Split) -> v2.Compose:
        """Give what is done to an image (C, H, W), uint8, of a part."""
        size = self.image_size
        steps: list[torch.nn.Module]
        if split == "train" and self.augment == "crop":
            steps = [v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True)]
        elif self.resize == "squash":
            steps = [v2.Resize((size, size), antialias=True)]
        elif self.resize == "pad":
            steps = [v2.Resize(None, max_size=size, antialias=True), v2.CenterCrop(size)]
        else:
            steps = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
        if split == "train" and self.augment != "none":
            steps.append(v2.RandomHorizontalFlip())
        steps.append(v2.ToDtype(torch.float32, scale=True))
        if self.normalize != "none":
            mean, spread = _IMAGENET if self.normalize == "imagenet" else ([0.5] * 3, [0.5] * 3)
            if self.grey:
                mean, spread = [sum(mean) / 3], [sum(spread) / 3]
            steps.append(v2.Normalize(mean, spread))
        return v2.Compose(steps)

    def _folder(self) -> Path:
        if self.root is not None:
            root = Path(self.root).expanduser()
        elif _ROOT in os.environ:
            root = Path(os.environ[_ROOT], _NAME)
        else:
            raise ValueError(f"ImageFolder has no folder: give root, or set ${_ROOT} to a folder that has {_NAME!r}")
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder; want one with a folder for each class")
        return root


def _part_folders(root: Path) -> dict[Split, Path]:
    """The folders of the parts, if there are; ``train`` may be a class of vehicles as well, and then holds images."""
    train = root / _FOLDERS["train"][0]
    if not (train.is_dir() and class_folders(train)):
        return {}
    return {part: root / name for part, names in _FOLDERS.items() for name in names[::-1] if (root / name).is_dir()}
