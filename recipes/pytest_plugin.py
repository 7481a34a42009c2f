"""A pytest plugin that collects recipes as tests: ``pytest --recipes DIR`` checks every YAML below ``DIR``.

Off unless ``--recipes`` is given; until then neither torch nor Lightning is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--recipes`` and ``--allow-import``."""
    group = parser.getgroup("fulgurite", "recipes of Fulgurite as tests")
    group.addoption("--recipes", metavar="DIR", help="check every YAML recipe below DIR, one test each")
    group.addoption(
        "--allow-import",
        metavar="PKG",
        action="append",
        default=[],
        help="a module of your own that these recipes may name",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the folder to what pytest collects."""
    folder = config.getoption("--recipes")
    if not folder:
        return
    path = (config.invocation_params.dir / folder).resolve()
    if not path.is_dir():
        raise pytest.UsageError(f"--recipes {folder}: no such folder")
    config.pluginmanager.register(_Recipes(path), "fulgurite-recipes")
    given = [Path(config.invocation_params.dir, str(arg).partition("::")[0]).resolve() for arg in config.args]
    if not any(path == other or other in path.parents or path in other.parents for other in given):
        config.args.append(str(path))


class _Recipes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        # Folders that pytest leaves out by default (build, dist, ...) count too: every YAML means every YAML.
        inside = collection_path == self.folder or self.folder in collection_path.parents
        return False if inside or collection_path in self.folder.parents else None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        if file_path.suffix in (".yaml", ".yml") and self.folder in file_path.parents:
            return RecipeFile.from_parent(parent, path=file_path)
        return None


class RecipeFile(pytest.File):
    """A YAML file that holds a recipe."""

    def collect(self) -> Iterable[pytest.Item]:
        """One test a recipe."""
        yield RecipeItem.from_parent(self, name="check")


class RecipeItem(pytest.Item):
    """``fulgurite check`` of one recipe; a recipe whose needs are missing is skipped with that reason."""

    def runtest(self) -> None:
        """Parse, build, and take one step of each loop."""
        from fulgurite.plugins.registry import discover
        from fulgurite.recipes.check import check_recipe
        from fulgurite.recipes.library import Recipe

        allow = tuple(self.config.getoption("--allow-import"))
        outcome = check_recipe(Recipe(str(self.path), self.path), discover(), allow_import=allow)
        if outcome.status == "not run":
            pytest.skip(outcome.message)
        if outcome.status == "fault":
            raise RecipeFault(outcome.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The one line that ``check`` gives."""
        if isinstance(excinfo.value, RecipeFault):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        """What the report shows."""
        return self.path, 0, f"recipe {self.path.name}"


class RecipeFault(Exception):
    """What ``check`` found wrong."""
