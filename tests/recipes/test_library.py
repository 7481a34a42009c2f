from itertools import pairwise

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.library import Document, Recipe, RecipeError, copy_recipe, find_recipe, recipes_of

REGISTRY = discover()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: !!python/object/apply:os.system ['true']", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: !unknown 3", "tag"),
        ("a: 1\nb: {c: 1, c: 2}", r"file.yaml:2: the key 'c' stands here twice"),
        ("- 1\n- 2", "mapping of keys"),
        ("a: [1", "file.yaml:1: not a recipe"),
        ("a: &x {b: *x}", "refers to itself"),
        ("? [1, 2]\n: 3", "unhashable"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text, fault):
    with pytest.raises(RecipeError, match=fault):
        Document.parse(text, "file.yaml")


def test_aliases_of_aliases_do_not_fill_the_memory():
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise(letters))
    with pytest.raises(RecipeError, match="more than"):
        Document.parse(text, "file.yaml")


def test_lines_are_those_of_the_file():
    document = Document.parse("# a\n\ntrainer:\n  callbacks:\n    - class_path: X\n", "f.yaml")
    assert document.where(("trainer", "callbacks", 0, "class_path")) == "f.yaml:5"
    assert document.where(("trainer", "nowhere")) == "f.yaml:3"


def test_every_recipe_opens_with_what_it_shows_and_its_command():
    recipes = recipes_of(REGISTRY)
    assert recipes
    for recipe in recipes:
        opening = recipe.text.partition("\n\n")[0]
        assert len(recipe.summary) > 20
        assert f"fulgurite run {recipe.name}" in opening
        assert recipe.settings.get("expect"), f"{recipe.name} has no expect:"


def test_a_recipe_is_found_by_name_and_by_path(tmp_path):
    name = recipes_of(REGISTRY)[0].name
    assert find_recipe(name, REGISTRY).path.is_file()
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {}")
    assert find_recipe(str(mine), REGISTRY).path == mine


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seqpoint/translaton", "did you mean 'seqpoint/translation'"),
        ("no_such.yaml", "no such file"),
        ("https://localhost/recipe.yaml", "remote recipes are off"),
        ("memory://recipe.yaml", "remote recipes are off"),
        ("simplecache::https://localhost/recipe.yaml", "remote recipes are off"),
    ],
)
def test_an_unknown_recipe_says_so(name, hint):
    with pytest.raises(RecipeError, match=hint):
        find_recipe(name, REGISTRY)


def test_copy_keeps_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipes_of(REGISTRY)[0]
    first = copy_recipe(recipe, None)
    assert first.read_text() == recipe.text
    first.write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        copy_recipe(recipe, None)
    assert first.read_text() == "mine"
    assert copy_recipe(recipe, None, overwrite=True).read_text() == recipe.text
    assert copy_recipe(recipe, "other").name == "other.yaml"
    assert copy_recipe(recipe, "deep/er/third.yaml").is_file()


def test_a_file_that_is_no_text_is_said(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        Recipe("binary", path).document()
