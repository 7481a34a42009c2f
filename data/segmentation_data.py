"""What the data modules of semantic segmentation have in common: what a batch is, parts, and loaders over them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fulgurite.data.splits import Split

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SegmentationData(L.LightningDataModule):
    """Base of the data modules whose batches are (images (B, C, H, W) float32, masks (B, H, W) int64).

    Images are shifted and scaled, ``(value − mean) / std`` a channel; masks hold classes 0 … ``num_classes`` − 1 and
    ``ignore_index`` where a pixel has none. Batches of prediction are images alone. A subclass sets the attributes
    below and says how to load: :meth:`make_parts`.

    Args:
        batch_size: images in a batch of training.
        eval_batch_size: images in a batch of validation, testing and prediction; ``None``: as in training. With 1,
            images of different sizes may be evaluated.
        num_workers: worker processes of each loader.
        seed: of what is drawn once; the order of training batches follows torch's global generator.

    Raises:
        ValueError: an option out of range.
    """

    num_classes: int  #: K
    class_names: tuple[str, ...]  #: of class 0 … K − 1
    ignore_index: int | None = 255  #: the mask's value where a pixel has no class; ``None``: every pixel has one
    palette: Tensor | None = None  #: (K, 3) uint8 colours to draw classes in
    mean: tuple[float, ...] = IMAGENET_MEAN  #: of each channel, of values in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD
    in_channels: int = 3

    def __init__(self, *, batch_size: int, eval_batch_size: int | None, num_workers: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"got {name}={value}; want at least {least}")
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._parts: Mapping[Split, Dataset[Any]] | None = None

    def make_parts(self) -> Mapping[Split, Dataset[Any]]:
        """Load the data and give the parts that there are; called once."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its data comes from: make_parts()")

    def images_to_predict(self) -> Dataset[Any]:
        """Give the images alone that are predicted; here, those of the test part, or of validation without one."""
        self.setup()
        assert self._parts is not None
        return ImagesAlone(self.part("test" if "test" in self._parts else "val"))

    def collate(self, batch: Any) -> Any:
        """Make a batch of what the part gives for its rows."""
        return stack_pairs(batch)

    @override
    def setup(self, stage: str | None = None) -> None:
        """Load on the first call; further calls do nothing."""
        if self._parts is None:
            self._parts = self.make_parts()

    def part(self, split: Split) -> Any:
        """The rows of one part, a map-style dataset.

        Raises:
            ValueError: there is no such part.
        """
        self.setup()
        assert self._parts is not None
        if split not in self._parts:
            raise ValueError(f"{type(self).__name__} has no {split} part; it has {', '.join(self._parts)}")
        return self._parts[split]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled anew every epoch; a last one that is not full is left out."""
        rows = self.part("train")
        return self._loader(rows, self.batch_size, shuffle=True, drop_last=len(rows) >= self.batch_size)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part, always the same."""
        return self._loader(self.part("val"), self.eval_batch_size)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part, always the same."""
        return self._loader(self.part("test"), self.eval_batch_size)

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of images (B, C, H, W) alone."""
        return self._loader(self.images_to_predict(), self.eval_batch_size, collate=stack_images)

    def _loader(
        self, rows: Dataset[Any], size: int, *, shuffle: bool = False, drop_last: bool = False, collate: Any = None
    ) -> DataLoader[Any]:
        return DataLoader(
            rows,
            batch_size=size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_fn=self.collate if collate is None else collate,
            num_workers=self.num_workers,
        )


class ImagesAlone(Dataset[Tensor]):
    """The images of a dataset of pairs.

    Args:
        pairs: a map-style dataset whose rows begin with the image.

    Example:
        >>> images = ImagesAlone([(torch.zeros(3, 2, 2), torch.ones(2, 2))])
        >>> len(images), images[0].shape
        (1, torch.Size([3, 2, 2]))
    """

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    @override
    def __getitem__(self, index: int) -> Tensor:
        return self.pairs[index][0]


def stack_pairs(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack images and masks of one size.

    Args:
        batch: B pairs of (C, H, W) and (H, W).

    Returns:
        (B, C, H, W) and (B, H, W).

    Raises:
        ValueError: images of different sizes.

    Example:
        >>> images, masks = stack_pairs([(torch.zeros(3, 4, 5), torch.zeros(4, 5))] * 2)
        >>> images.shape, masks.shape
        (torch.Size([2, 3, 4, 5]), torch.Size([2, 4, 5]))
    """
    return stack_images([image for image, _ in batch]), torch.stack([mask for _, mask in batch])


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W) of one size to (B, C, H, W).

    Raises:
        ValueError: images of different sizes.

    Example:
        >>> stack_images([torch.zeros(3, 4, 5), torch.ones(3, 4, 5)]).shape
        torch.Size([2, 3, 4, 5])
    """
    sizes = sorted({(image.shape[-2], image.shape[-1]) for image in images})
    if len(sizes) > 1:
        found = " and ".join(f"{height} × {width}" for height, width in sizes[:3])
        more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        raise ValueError(
            f"got images of {found}{more} pixels (height × width) in one batch; want one size: "
            "give size or crop_size, or evaluate one by one with eval_batch_size=1"
        )
    return torch.stack(list(images))


def distinct_colours(count: int, *, background: Literal["black", "none"] = "black") -> Tensor:
    """Give colours that differ, those of the Pascal VOC challenges: the bits of a class number spread over channels.

    Args:
        count: how many.
        background: ``black`` begins with black for class 0; ``none`` begins with the colour after it.

    Returns:
        (count, 3), uint8.

    Example:
        >>> distinct_colours(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    numbers = torch.arange(count) + (background == "none")
    colours = torch.zeros(count, 3, dtype=torch.long)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.to(torch.uint8)
