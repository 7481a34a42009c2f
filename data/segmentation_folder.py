"""Images of one's own with a class for every pixel: a folder of images and one of masks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from fulgurite.data.image_files import check_images, read_image
from fulgurite.data.mask_files import check_same_size, list_images, pair_by_stem, read_mask
from fulgurite.data.segmentation_data import IMAGENET_MEAN, IMAGENET_STD, SegmentationData, distinct_colours
from fulgurite.data.segmentation_transforms import Size, Transform, segmentation_transform
from fulgurite.data.splits import Split

_ROOT, _NAME, _CLASSES = "FULGURITE_DATA", "segmentation", "classes.txt"
_PARTS: tuple[Split, ...] = ("train", "val", "test")


class MaskedFiles(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks that are decoded when they are asked for.

    Args:
        pairs: paths of N images and their masks.
        transform: makes of (image (3, H, W) uint8, mask (H, W) int64) what the network gets.
        num_classes: K.
        ignore_index: a mask's value besides 0 … K − 1.

    Raises:
        ValueError: when a row is asked for, a file that cannot be decoded, or an unknown class.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str]], transform: Transform, *, num_classes: int, ignore_index: int | None
    ) -> None:
        self.pairs = pairs
        self._transform = transform
        self._num_classes = num_classes
        self._ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.pairs)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.pairs[index]
        pixels = read_image(image, channels=3, upright=False)
        classes = read_mask(mask, num_classes=self._num_classes, ignore_index=self._ignore_index)
        return self._transform(pixels, classes)


class ImageFiles(Dataset[Tensor]):
    """Images without masks.

    Args:
        paths: of N images.
        transform: as of :class:`MaskedFiles`; it is given an empty mask.
    """

    def __init__(self, paths: Sequence[str], transform: Transform) -> None:
        self.paths = paths
        self._transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    @override
    def __getitem__(self, index: int) -> Tensor:
        pixels = read_image(self.paths[index], channels=3, upright=False)
        return self._transform(pixels, torch.zeros(pixels.shape[1:], dtype=torch.int64))[0]


class SegmentationFolder(SegmentationData):
    """A folder with ``train/images``, ``train/labels``, ``val/images``, ``val/labels``, and perhaps ``test``.

    A mask is a grey image of the size of its image, whose values are class numbers, and has its name up to the
    extension: ``images/street.jpg``, ``labels/street.png``. All of that is checked when the data is set up, by reading
    every mask. Pixels are taken where the files have them: a photograph's note to be turned is not followed, as masks
    have none. Batches are (images (B, 3, H, W) float32, masks (B, H, W) int64); of prediction, images alone.

    Args:
        root: the folder; ``None`` is ``$FULGURITE_DATA/segmentation``.
        num_classes: K; ``None``: as many as there are names.
        class_names: of class 0, 1, …; ``None``: the lines of ``root/classes.txt``, if it is there, else the numbers.
        ignore_index: the masks' value of pixels without a class, which count neither in training nor in scores;
            ``None``: there are none.
        image_folder: name of the folder of a part's images.
        mask_folder: name of the folder of a part's masks.
        mask_suffix: what the stems of masks have after those of the images, such as ``_L``.
        predict_folder: images to predict, without masks; ``None``: those of the test part, or else of validation.
        batch_size: images in a batch of training.
        eval_batch_size: images in a batch of everything else; 1 where they differ in size. ``None``: as in training.
        size: (height, width) to which all images and masks are brought first; ``None`` leaves them as they are.
        scale: smallest and largest factor by which a training image is scaled at random, such as (0.5, 2).
        crop_size: (height, width) of a random crop of a training image; what is outside is ``ignore_index``.
        flip: probability that a training image is mirrored.
        photometric: alter brightness, contrast, saturation and hue of training images.
        mean: of the channels, of values in [0, 1]; ImageNet's by default, which published weights expect.
        std: likewise.
        check_files: read every image's header and every mask first, so that what is wrong is known before training
            begins.
        seed: unused so far, as the parts are folders.
        num_workers: worker processes of each loader, which decode.

    Raises:
        ValueError: an option out of range; when the data is set up, a folder that is missing or empty, an image
            without its mask, a mask without its image, sizes that differ, a mask with colours or a palette, an unknown
            class (file and value are named); images of different sizes in one batch.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "val"):
        ...         for kind, mode in (("images", "RGB"), ("labels", "L")):
        ...             Path(folder, part, kind).mkdir(parents=True)
        ...             Image.new(mode, (30, 20)).save(f"{folder}/{part}/{kind}/a.png")
        ...     data = SegmentationFolder(root=folder, class_names=["road", "sky"], crop_size=(16, 16), flip=0.5)
        ...     images, masks = next(iter(data.train_dataloader()))
        ...     next(iter(data.predict_dataloader())).shape
        torch.Size([1, 3, 20, 30])
        >>> images.shape, masks.shape, data.num_classes
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 16, 16]), 2)
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_index: int | None = 255,
        image_folder: str = "images",
        mask_folder: str = "labels",
        mask_suffix: str = "",
        predict_folder: str | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        size: Size | None = None,
        scale: tuple[float, float] | None = None,
        crop_size: Size | None = None,
        flip: float = 0.0,
        photometric: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        check_files: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"got num_classes={num_classes}; want 2 or more")
        if class_names is not None and num_classes not in (None, len(class_names)):
            raise ValueError(f"got num_classes={num_classes} and {len(class_names)} class_names; want as many")
        if len(mean) != 3:
            raise ValueError(f"got mean={list(mean)}; want three numbers, of red, green and blue")
        self.root = root
        self.ignore_index = ignore_index
        self.image_folder = image_folder
        self.mask_folder = mask_folder
        self.mask_suffix = mask_suffix
        self.predict_folder = predict_folder
        self.check_files = check_files
        self.mean, self.std = tuple(mean), tuple(std)
        common: dict[str, Any] = {"size": size, "mean": mean, "std": std, "ignore_index": ignore_index}
        self._evaluate = segmentation_transform(**common)
        self._train = segmentation_transform(
            **common, scale=scale, crop_size=crop_size, flip=flip, photometric=photometric
        )
        self._asked_names, self._asked_classes = class_names, num_classes
        if class_names is not None:
            self._name_classes(class_names)
        elif num_classes is not None:
            self._name_classes([str(number) for number in range(num_classes)])

    @override
    def make_parts(self) -> Mapping[Split, MaskedFiles]:
        """Find images and masks, and check them; no image is decoded yet."""
        root = self._folder()
        self._read_names(root)
        folders = {part: root / part for part in _PARTS if (root / part).is_dir()}
        if not folders:
            inside = f"{self.image_folder} and {self.mask_folder}"
            raise ValueError(f"{root}: has no folder train, val or test; want those, each with {inside}")
        pairs = {
            part: pair_by_stem(folder / self.image_folder, folder / self.mask_folder, mask_suffix=self.mask_suffix)
            for part, folder in folders.items()
        }
        if self.check_files:
            check_images(path for found in pairs.values() for pair in found for path in pair)
            for found in pairs.values():
                for image, mask in found:
                    check_same_size(image, mask)
                    read_mask(mask, num_classes=self.num_classes, ignore_index=self.ignore_index)
        sizes = ", ".join(f"{len(found)} {part}" for part, found in pairs.items())
        rank_zero_info(f"SegmentationFolder: {root}: {self.num_classes} classes, images: {sizes}")
        return {
            part: MaskedFiles(
                found,
                self._train if part == "train" else self._evaluate,
                num_classes=self.num_classes,
                ignore_index=self.ignore_index,
            )
            for part, found in pairs.items()
        }

    @override
    def setup(self, stage: str | None = None) -> None:
        """Find and check on the first call; to predict a folder of its own, no masks are needed."""
        if stage == "predict" and self.predict_folder is not None:
            self._read_names(self._folder() if self.root is not None or _ROOT in os.environ else None)
            return
        super().setup(stage)

    @override
    def images_to_predict(self) -> Dataset[Any]:
        """Give the images of ``predict_folder``, or else of the test or the validation part."""
        if self.predict_folder is None:
            self.setup()
            assert self._parts is not None
            pairs = self.part("test" if "test" in self._parts else "val").pairs
            return ImageFiles([image for image, _ in pairs], self._evaluate)
        paths = list_images(Path(self.predict_folder).expanduser())
        if self.check_files:
            check_images(paths)
        return ImageFiles(paths, self._evaluate)

    def _read_names(self, root: Path | None) -> None:
        if self._asked_names is not None:
            return
        if root is not None and (root / _CLASSES).is_file():
            lines = (root / _CLASSES).read_text(encoding="utf-8").split("\n")
            names = [line.strip() for line in lines if line.strip()]
            if self._asked_classes not in (None, len(names)):
                raise ValueError(
                    f"{root / _CLASSES}: has {len(names)} names, num_classes is {self._asked_classes}; want as many"
                )
            self._name_classes(names)
        elif self._asked_classes is None:
            raise ValueError(
                f"{root or 'SegmentationFolder'}: nothing says which classes there are; "
                f"give num_classes or class_names, or write {_CLASSES}, a name a line"
            )

    def _name_classes(self, names: Sequence[str]) -> None:
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"got class names {', '.join(names)}; want 2 or more, all different")
        self.class_names = tuple(names)
        self.num_classes = len(names)
        self.palette = distinct_colours(len(names))

    def _folder(self) -> Path:
        if self.root is not None:
            root = Path(self.root).expanduser()
        elif _ROOT in os.environ:
            root = Path(os.environ[_ROOT], _NAME)
        else:
            raise ValueError(
                f"SegmentationFolder has no folder: give root, or set ${_ROOT} to a folder that has {_NAME!r}"
            )
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder; want one with train and val")
        return root
