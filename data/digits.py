"""Real handwritten digits of 8 × 8 pixels that need no download: they lie in scikit-learn's wheel."""

from torch import Tensor
from typing_extensions import override

from fulgurite.data.labelled import LabelledImages
from fulgurite.data.scikit_sample import read_scikit


class Digits(LabelledImages):
    """The 1,797 handwritten digits of scikit-learn (extra ``fulgurite[data]``), 8 × 8 pixels, as images.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI). As flat rows they are
    ``ScikitSample(name="digits")``.

    Batches are (images (B, 1, 8, 8) float32, labels (B,) int64). The split is stratified and always the same.

    Args:
        batch_size: images in a batch.
        val_share: share of each digit for validation.
        test_share: share of each digit for testing.
        normalize: zero mean and unit spread over all pixels of the training part; otherwise grey values in [0, 1].
        seed: of the split.
        num_workers: worker processes of each loader.

    Raises:
        ImportError: scikit-learn is not installed, when the data is set up.
        ValueError: an option out of range.

    Example:
        >>> data = Digits(batch_size=20)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, [len(data.part(part)) for part in ("train", "val", "test")]
        (torch.Size([20, 1, 8, 8]), [1258, 359, 180])
    """

    def __init__(
        self,
        *,
        batch_size: int = 32,
        val_share: float = 0.2,
        test_share: float = 0.1,
        normalize: bool = True,
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
        self.class_names = tuple(str(digit) for digit in range(10))

    @override
    def load(self) -> tuple[Tensor, Tensor]:
        """Read the file of scikit-learn's wheel; its grey values go to 16."""
        pixels, labels = read_scikit("digits")
        return pixels.view(-1, 1, 8, 8) / 16, labels
