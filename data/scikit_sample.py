"""Small real classification tasks that need no download: they lie in scikit-learn's wheel."""

from importlib import import_module
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.data.labelled import LabelledData

Task = Literal["breast_cancer", "digits", "iris", "wine"]
_TASKS: tuple[Task, ...] = ("breast_cancer", "digits", "iris", "wine")


class ScikitSample(LabelledData):
    """A small real data set of scikit-learn (extra ``fulgurite[data]``) with standardised features.

    Batches are (features (B, F) float32, labels (B,) int64). The split is stratified and always the same.

    ===============  ======  ==========  =========
    name             rows    features F  classes
    ===============  ======  ==========  =========
    breast_cancer    569     30          2
    digits           1,797   64          10
    iris             150     4           3
    wine             178     13          3
    ===============  ======  ==========  =========

    Args:
        name: which one.
        batch_size: rows in a batch.
        val_share: share of each class for validation.
        test_share: share of each class for testing.
        normalize: zero mean and unit spread of each feature, over the training part.
        seed: of the split.
        num_workers: worker processes of each loader.

    Raises:
        ImportError: scikit-learn is not installed, when the data is set up.
        ValueError: an option out of range.

    Example:
        >>> data = ScikitSample(name="wine", batch_size=16)
        >>> features, labels = next(iter(data.train_dataloader()))
        >>> features.shape, features.dtype, labels.dtype
        (torch.Size([16, 13]), torch.float32, torch.int64)
    """

    def __init__(
        self,
        *,
        name: Task = "breast_cancer",
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
        if name not in _TASKS:
            raise ValueError(f"got name={name!r}; choose from {', '.join(_TASKS)}")
        self.name: Task = name

    @override
    def load(self) -> tuple[Tensor, Tensor]:
        """Read the files of scikit-learn's wheel."""
        return read_scikit(self.name)


def read_scikit(name: Task) -> tuple[Tensor, Tensor]:
    """Give the features (N, F), float32, and the labels (N,), int64, of one of scikit-learn's small data sets.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> features, labels = read_scikit("iris")
        >>> features.shape, labels.bincount().tolist()
        (torch.Size([150, 4]), [50, 50, 50])
    """
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"the data set {name!r} comes with scikit-learn, which is not installed ({error}); "
            'run: pip install "fulgurite[data]"'
        ) from error
    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.from_numpy(features).float(), torch.from_numpy(labels).long()
