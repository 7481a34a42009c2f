from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fulgurite.data.image_files import check_images, class_folders, find_images, read_image


def made(path, array, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return str(path)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_images_of_every_depth_are_found_in_order_and_nothing_else(tmp_path):
    for name in ("b/2.png", "b/1.jpg", "a/deep/er/x.JPEG", "a/y.webp"):
        made(tmp_path / name, noise(3, 4, 3))
    for name in ("a/notes.txt", "a/.hidden.png", "b/._2.png", ".cache/z.png", "__MACOSX/z.png", "alone.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert class_folders(tmp_path) == ("a", "b")
    paths, labels = find_images(tmp_path, ("a", "b"))
    assert [str(Path(path).relative_to(tmp_path)) for path in paths] == [
        "a/deep/er/x.JPEG",
        "a/y.webp",
        "b/1.jpg",
        "b/2.png",
    ]
    assert labels.tolist() == [0, 0, 1, 1]


def test_a_class_may_be_missing_but_none_be_unknown(tmp_path):
    made(tmp_path / "b" / "1.png", noise(3, 4, 3))
    assert find_images(tmp_path, ("a", "b", "c"))[1].tolist() == [1]
    with pytest.raises(ValueError, match=r"b: no such class; those of the training part are a, c"):
        find_images(tmp_path, ("a", "c"))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_lossless_files_come_back_as_they_were(height, width, seed, channels):
    import tempfile

    pixels = noise(height, width, 3, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        image = read_image(made(f"{folder}/a.png", pixels), channels=channels)
    wanted = np.asarray(Image.fromarray(pixels).convert("RGB" if channels == 3 else "L"))
    wanted = torch.from_numpy(wanted.copy()).reshape(height, width, channels).permute(2, 0, 1)
    assert image.dtype == torch.uint8
    assert torch.equal(image, wanted)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_any_colours_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    Image.fromarray(np.full((6, 5, 3), 255, dtype=np.uint8)).convert(mode).save(tmp_path / f"white.{suffix}")
    image = read_image(str(tmp_path / f"white.{suffix}"), channels=3)
    assert image.shape == (3, 6, 5)
    assert image.min() >= 254


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(noise(6, 5, 3)).quantize(4)
    image.save(tmp_path / "p.png", transparency=b"\x00\x80\xff\xff")
    assert read_image(str(tmp_path / "p.png"), channels=3).shape == (3, 6, 5)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    image = read_image(made(tmp_path / "deep.png", values), channels=3)
    assert np.abs(image[0].numpy().astype(int) - values / 257).max() <= 1
    with pytest.raises(ValueError, match=r"deep\.tiff: cannot be decoded \(its grey values have more than 16 bits\)"):
        read_image(made(tmp_path / "deep.tiff", values.astype(np.int32) * 2), channels=1)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    pixels = noise(4, 6, 3)
    image = read_image(made(tmp_path / "turned.png", pixels, exif=exif), channels=3)
    assert torch.equal(image, torch.from_numpy(np.rot90(pixels, -1).copy()).permute(2, 0, 1))


def test_broken_files_are_named_before_training(tmp_path):
    whole = made(tmp_path / "whole.png", noise(8, 8, 3))
    broken = []
    for number in range(7):
        broken.append(str(tmp_path / f"{number}.jpg"))
        Path(broken[-1]).write_bytes(b"no image" * number)
    check_images([whole])
    with pytest.raises(
        ValueError, match=r"0\.jpg \(no known image format\), .*4\.jpg \(.*\), and 2 more; remove"
    ) as info:
        check_images([whole, *broken])
    assert "whole" not in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_breaks_off_is_named_when_it_is_read(tmp_path, suffix):
    path = made(tmp_path / f"cut.{suffix}", noise(64, 64, 3))
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    check_images([path])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}: cannot be decoded \(.+\); remove or replace it"):
        read_image(path, channels=3)
