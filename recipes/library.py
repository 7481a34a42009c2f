"""Recipes as files: found by name, read with line numbers, described by their opening comment. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fulgurite.plugins.files import write_text
from fulgurite.plugins.registry import Registry, nearest

SUFFIXES = (".yaml", ".yml")
MAX_KEYS = 100_000  # aliases of aliases grow without bound
REMOTE = re.compile(r"^\w[\w+.-]*(::|://)")


class RecipeError(ValueError):
    """A recipe cannot be used; the text is one line that says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Recipe:
    """A recipe file.

    Attributes:
        name: ``plugin/stem`` for a recipe of a plugin, else the path as given.
        path: where the file lies.
    """

    name: str
    path: Path

    @property
    def text(self) -> str:
        """The file as it is."""
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{self.path}: not a UTF-8 text file (byte {error.start})") from error
        except OSError as error:
            raise RecipeError(f"{self.path}: cannot be read: {error.strerror}") from error

    @property
    def summary(self) -> str:
        """The first sentence of the opening comment."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# ").rstrip())
        opening = " ".join(lines).strip()
        return re.split(r"(?<=\.)\s", opening, maxsplit=1)[0].rstrip(".") if opening else ""

    def document(self) -> Document:
        """Parse the YAML with line numbers; nothing is imported or run.

        Raises:
            RecipeError: not YAML, a tag that would build an object, a duplicate key, or not a mapping.
        """
        return Document.parse(self.text, str(self.path))

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe as plain dicts and lists."""
        return self.document().value


@dataclass(frozen=True)
class Document:
    """A parsed YAML recipe: plain values, and the line of each key.

    Attributes:
        value: dicts, lists and scalars.
        lines: path of keys and indices → line number, counted from 1.
        source: the file's name for messages.
    """

    value: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]
    source: str

    @classmethod
    def parse(cls, text: str, source: str) -> Document:
        """See :meth:`Recipe.document`."""
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            lines: dict[tuple[str | int, ...], int] = {}
            if node is not None:
                _walk(node, (), lines, source, ())
            value = loader.construct_document(node) if node is not None else {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{source}:{mark.line + 1}" if mark else source
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise RecipeError(f"{where}: not a recipe: {problem}") from error
        finally:
            loader.dispose()
        if not isinstance(value, dict):
            raise RecipeError(
                f"{source}: a recipe is a mapping of keys (trainer:, model:, data:), got {type(value).__name__}"
            )
        return cls(value, lines, source)

    def where(self, path: tuple[str | int, ...]) -> str:
        """``file:line`` of a key, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.source}:{self.lines[path]}" if path in self.lines else self.source


def recipes_of(registry: Registry) -> list[Recipe]:
    """Every recipe of every plugin, sorted by name."""
    found = []
    for plugin in registry.plugins:
        folder = plugin.recipe_folder()
        if folder is not None:
            for path in recipe_files(folder):
                found.append(Recipe(f"{plugin.name}/{path.relative_to(folder).with_suffix('').as_posix()}", path))
    return sorted(found, key=lambda recipe: recipe.name)


def recipe_files(folder: Path) -> list[Path]:
    """Every YAML file below a folder, recursively, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def find_recipe(name: str, registry: Registry) -> Recipe:
    """A recipe by its name or by a path.

    Raises:
        RecipeError: no such recipe (with the nearest name), or a URL.
    """
    if REMOTE.match(name):
        raise RecipeError(f"{name}: remote recipes are off; download the file, read it, and give its path")
    known = recipes_of(registry)
    for recipe in known:
        if name in (recipe.name, recipe.name.replace("_", "-")):
            return recipe
    path = Path(name)
    if path.is_file():
        return Recipe(name, path)
    if path.suffix in SUFFIXES:
        beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{name}: no such file{nearest(name, beside)}")
    raise RecipeError(
        f"no recipe {name!r}{nearest(name, [recipe.name for recipe in known]) or '; see: fulgurite list'}"
    )


def copy_recipe(recipe: Recipe, destination: str | None, *, overwrite: bool = False) -> Path:
    """Copy a recipe to a file or into a folder (the current one by default); an existing file is kept unless told.

    Raises:
        RecipeError: the target exists, or cannot be written.
    """
    target = Path(destination) if destination else Path(recipe.path.name)
    if target.is_dir():
        target = target / recipe.path.name
    if target.suffix not in SUFFIXES:
        target = target.with_name(target.name + ".yaml")
    if target.exists() and not overwrite:
        raise RecipeError(f"{target} exists already and is kept; give another name, or --overwrite")
    try:
        write_text(target, recipe.text)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def _walk(
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    source: str,
    above: tuple[yaml.Node, ...],
) -> None:
    where = f"{source}:{node.start_mark.line + 1}"
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        raise RecipeError(f"{where}: the YAML tag {node.tag!r} is refused: a recipe holds plain values only")
    if node in above:
        raise RecipeError(f"{where}: an anchor refers to itself; write the value out")
    if len(lines) > MAX_KEYS:
        raise RecipeError(f"{source}: more than {MAX_KEYS:,} keys once its aliases are written out; this is no recipe")
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = (*path, str(key.value))
            if name in lines:
                raise RecipeError(
                    f"{source}:{key.start_mark.line + 1}: the key {key.value!r} stands here twice; remove one"
                )
            lines[name] = key.start_mark.line + 1
            _walk(value, name, lines, source, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*path, index] = value.start_mark.line + 1
            _walk(value, (*path, index), lines, source, above)
