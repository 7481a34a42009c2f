"""Index masks as files: found beside their images by name, checked, decoded; what is wrong with one is said by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

_INDEX_MODES = ("L", "1", "I", "I;16", "I;16B", "I;16L")
_SHOWN = 5  # names in one message


def pair_by_stem(images: Path, masks: Path, *, mask_suffix: str = "") -> list[tuple[str, str]]:
    """Match images and masks whose file names are the same up to the extension, sorted.

    Args:
        images: a folder of images.
        masks: a folder of masks.
        mask_suffix: what a mask's stem has after the image's: ``_L`` for ``street.jpg`` and ``street_L.png``.

    Returns:
        Pairs of paths.

    Raises:
        ValueError: a folder that is missing or empty, an image without a mask, a mask without an image, two files of
            one stem.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images/a.jpg", "masks/a.png"):
        ...         Path(folder, name).parent.mkdir()
        ...         Path(folder, name).touch()
        ...     pairs = pair_by_stem(Path(folder, "images"), Path(folder, "masks"))
        >>> [[Path(path).name for path in pair] for pair in pairs]
        [['a.jpg', 'a.png']]
    """
    found = _stems(images)
    partners = {}
    for stem, path in _stems(masks).items():
        if not stem.endswith(mask_suffix):
            raise ValueError(f"{path}: a mask without an image; its name has to end in {mask_suffix!r}")
        partners[stem.removesuffix(mask_suffix)] = path
    alone = [str(path) for stem, path in found.items() if stem not in partners]
    if alone:
        raise ValueError(
            f"{_first(alone)}: {'an image' if len(alone) == 1 else 'images'} without a mask; "
            f"want one of the same name in {masks}{f', ending in {mask_suffix!r}' if mask_suffix else ''}, or remove it"
        )
    alone = [str(path) for stem, path in partners.items() if stem not in found]
    if alone:
        raise ValueError(
            f"{_first(alone)}: {'a mask' if len(alone) == 1 else 'masks'} without an image; "
            f"want one of the same name in {images}, or remove it"
        )
    return [(str(found[stem]), str(partners[stem])) for stem in sorted(found)]


def list_images(folder: Path) -> list[str]:
    """List the image files of a folder, sorted by name.

    Raises:
        ValueError: the folder is missing or has none.

    Example:
        >>> list_images(Path("nowhere"))
        Traceback (most recent call last):
        ...
        ValueError: nowhere: no such folder; want one of image files
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; want one of image files")
    found = sorted(
        str(path)
        for path in folder.iterdir()
        if path.name.lower().endswith(IMG_EXTENSIONS) and not path.name.startswith(".")
    )
    if not found:
        raise ValueError(f"{folder}: holds no image; fill it, or remove it")
    return found


def read_mask(path: str, *, num_classes: int, ignore_index: int | None) -> Tensor:
    """Decode a mask of class numbers.

    Args:
        path: a grey image of 1, 8 or 16 bits, or of 32; each value is a class.
        num_classes: K; classes are 0 … K − 1.
        ignore_index: allowed besides.

    Returns:
        (H, W) int64.

    Raises:
        ValueError: a file that cannot be decoded, that has colours or a palette, or an unknown class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.array([[0, 2], [1, 255]], np.uint8)).save(f"{folder}/a.png")
        ...     read_mask(f"{folder}/a.png", num_classes=3, ignore_index=255).tolist()
        [[0, 2], [1, 255]]
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image) if mode in _INDEX_MODES else None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace it") from error
    if values is None:
        what = "has a palette" if mode in ("P", "PA") else f"has colours (mode {mode})"
        how = (
            "if the palette's numbers are the classes, save them alone: Image.fromarray(np.array(Image.open(path)))"
            if mode == "P"
            else "map each colour to its class and save the numbers"
        )
        raise ValueError(f"{path}: {what}; want a grey image whose values are class numbers; {how}")
    mask = torch.from_numpy(values.astype(np.int64))
    known = (mask >= 0) & (mask < num_classes)
    if ignore_index is not None:
        known |= mask == ignore_index
    if not known.all():
        unknown = mask[~known].unique().tolist()
        besides = "" if ignore_index is None else f" or {ignore_index}, ignore_index"
        raise ValueError(
            f"{path}: has class {', '.join(map(str, unknown[:_SHOWN]))}{' …' if len(unknown) > _SHOWN else ''}, "
            f"{int((~known).sum())} pixels; want 0 to {num_classes - 1}{besides}; "
            "correct the mask, num_classes or ignore_index"
        )
    return mask


def check_same_size(image: str, mask: str) -> None:
    """Compare a mask with its image by their headers.

    Raises:
        ValueError: sizes that differ.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 3)).save(f"{folder}/a.png")
        ...     check_same_size(f"{folder}/a.png", f"{folder}/a.png")
    """
    with Image.open(image) as opened:
        wanted = opened.size
    with Image.open(mask) as opened:
        size = opened.size
    if size != wanted:
        raise ValueError(
            f"{mask}: is {size[0]} × {size[1]} pixels, its image {image} is {wanted[0]} × {wanted[1]}; "
            "want the same size"
        )


def _stems(folder: Path) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for name in list_images(folder):
        path = Path(name)
        if path.stem in stems:
            raise ValueError(f"{path}: has the same name as {stems[path.stem].name}; want one file a name, remove one")
        stems[path.stem] = path
    return stems


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
