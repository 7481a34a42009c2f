import pytest

from fulgurite.recipes.library import RecipeError
from fulgurite.recipes.needs import data_arguments, missing_needs


def test_data_is_looked_for_below_the_root(tmp_path, monkeypatch):
    (tmp_path / "camvid").mkdir()
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    assert missing_needs({"data": ["camvid"]}) == []
    assert "ade20k" in missing_needs({"data": ["ade20k"]})[0]
    assert missing_needs({"data": ["ade20k"]}, ["--data.root=/somewhere"]) == []
    monkeypatch.delenv("FULGURITE_DATA")
    assert "$FULGURITE_DATA" in missing_needs({"data": ["camvid"]})[0]


def test_extras_come_from_the_package_s_own_metadata():
    assert missing_needs({"extras": ["data", "dev"]}) == []
    assert missing_needs({"extras": ["pytest[dev]"]}) != missing_needs({"extras": ["data"]})
    assert "not installed" in missing_needs({"extras": ["no_such_package[x]"]})[0]
    assert "unknown to fulgurite" in missing_needs({"extras": ["no_such_extra"]})[0]


@pytest.mark.parametrize("bad", [{"gpu": ["1"]}, {"data": "camvid"}, {"extras": [1]}, {"extras": ["a b"]}])
def test_another_form_is_refused(bad):
    with pytest.raises(RecipeError, match="needs"):
        missing_needs(bad)


def test_the_data_folder_is_handed_to_the_data_module(tmp_path, monkeypatch):
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    assert data_arguments({"data": ["speech"]}) == [f"--data.init_args.root={tmp_path / 'speech'}"]
    assert data_arguments({"data": ["speech"]}, ["--data.root", "elsewhere"]) == []
    assert data_arguments({"data": ["a", "b"]}) == []


def test_needs_that_are_no_mapping_are_refused():
    with pytest.raises(RecipeError, match="expected a mapping"):
        missing_needs(["data"])
