import os

import pytest

from fulgurite.plugins.files import replacing, write_text


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "report.html"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="midway"), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_suffix_is_kept_and_the_mode_is_an_ordinary_file_s(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with replacing(tmp_path / "deep" / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
    assert (tmp_path / "deep" / "picture.png").stat().st_mode == plain.stat().st_mode


def test_a_folder_in_the_way_surfaces_whole(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "report.html", "x")
    assert os.listdir(tmp_path) == ["file"]
