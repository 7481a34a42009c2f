"""Image files in class folders: found, checked by their headers, decoded; what is wrong with one is said by name."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

# What Pillow raises for damaged files; a bomb is an image so large that opening it would fill the memory.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_SHOWN = 5  # broken files named in one message


def class_folders(folder: Path) -> tuple[str, ...]:
    """Give the names of a folder's sub-folders, sorted; those that begin with a dot or ``__`` are nobody's class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("dog", "cat", ".cache"):
        ...         Path(folder, name).mkdir()
        ...     class_folders(Path(folder))
        ('cat', 'dog')
    """
    return tuple(
        sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    )


def find_images(folder: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """List the images of each class, sorted, however deep below its folder.

    Args:
        folder: has a folder for each class; one may be missing.
        classes: the classes 0, 1, ….

    Returns:
        N paths and (N,) class numbers.

    Raises:
        ValueError: a folder that belongs to no class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "cat").mkdir()
        ...     Path(folder, "cat", "tom.PNG").touch()
        ...     Path(folder, "cat", "notes.txt").touch()
        ...     paths, labels = find_images(Path(folder), ["bird", "cat"])
        >>> [Path(path).name for path in paths], labels.tolist()
        (['tom.PNG'], [1])
    """
    unknown = [name for name in class_folders(folder) if name not in classes]
    if unknown:
        raise ValueError(f"{folder / unknown[0]}: no such class; those of the training part are {', '.join(classes)}")
    paths: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = []
        for place, _, files in os.walk(folder / name, followlinks=True):
            found += [os.path.join(place, file) for file in files if _is_image(file)]
        paths += sorted(found)
        labels += [number] * len(found)
    return paths, torch.tensor(labels, dtype=torch.long)


def check_images(paths: Iterable[str]) -> None:
    """Read the header of every file, so that most broken ones are known before training begins.

    Raises:
        ValueError: there are some; the first few are named, and their number.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 4)).save(f"{folder}/whole.png")
        ...     check_images([f"{folder}/whole.png"])
    """
    broken = []
    for path in paths:
        try:
            with Image.open(path):
                pass
        except _BROKEN as error:
            broken.append(f"{path} ({_reason(error)})")
    if broken:
        more = f", and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise ValueError(f"no images that can be read: {', '.join(broken[:_SHOWN])}{more}; remove or replace them")


def read_image(path: str, *, channels: int, upright: bool = True) -> Tensor:
    """Decode a file.

    Args:
        path: any file that Pillow reads; 16-bit grey ones are scaled to 8 bits.
        channels: 3 for colour, 1 for grey.
        upright: turn it as the camera was held; otherwise its pixels are where the file has them, which is what boxes
            and masks that belong to it are measured in.

    Returns:
        (channels, H, W), uint8.

    Raises:
        ValueError: a file that cannot be decoded to its end.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 3), "white").save(f"{folder}/white.png")
        ...     image = read_image(f"{folder}/white.png", channels=1)
        >>> image.shape, image.dtype, int(image.min())
        (torch.Size([1, 3, 4]), torch.uint8, 255)
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened) if upright else opened
            if image.mode.startswith("I"):
                image = _eight_bits(image)
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return pil_to_tensor(image.convert("RGB" if channels == 3 else "L"))
    except _BROKEN as error:
        raise ValueError(f"{path}: cannot be decoded ({_reason(error)}); remove or replace it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """What Pillow's own conversion would clip to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise ValueError("its grey values have more than 16 bits")
    return Image.fromarray((values // 257).astype(np.uint8))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _reason(error: Exception) -> str:
    # Pillow's own words repeat the path.
    return "no known image format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
