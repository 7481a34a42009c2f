"""The plugin registry: what a package adds to Fulgurite, said in plain strings, found through entry points.

Nothing here imports a component. A plugin is described by names; a module is loaded when a recipe or command uses it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

GROUP = "fulgurite.plugins"


class PluginError(ValueError):
    """A plugin says something about itself that cannot be used."""


@dataclass(frozen=True)
class Plugin:
    """One plugin, as plain strings.

    Args:
        name: short name, also the prefix of its recipes (``name/recipe``); its sub-command is the name with ``-``
            for ``_``.
        summary: one line for ``fulgurite plugins``.
        paper: the paper and where to read it, or "".
        components: short name for YAML → ``"module:attribute"`` of a class.
        strategies: name for ``strategy:`` (lower case) → ``"module:attribute"`` of the class; where importing that
            module registers the name with Lightning, with options of its own perhaps, that stands.
        recipes: dotted name of the package that holds the YAML recipes, or "".
        modules: dotted prefixes that a recipe may import because this plugin is installed.
        commands: ``"module:function"``; the function takes the arguments (list of str) and returns an exit code.
            "" for none.

    Raises:
        PluginError: a field has the wrong form.

    Example:
        >>> plugin = Plugin("acme_tools", "a callback", components={"Beep": "acme.callbacks:Beep"})
        >>> plugin.command
        'acme-tools'
    """

    name: str
    summary: str
    paper: str = ""
    components: Mapping[str, str] = field(default_factory=dict)
    strategies: Mapping[str, str] = field(default_factory=dict)
    recipes: str = ""
    modules: tuple[str, ...] = ()
    commands: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise PluginError(f"plugin name {self.name!r} is not an identifier; use letters, digits and _")
        for name in self.strategies:
            if not (name.isidentifier() and name == name.lower()):
                raise PluginError(
                    f"plugin {self.name!r}: strategy name {name!r}, expected lower-case letters, digits and _: "
                    "Lightning lowers what it is given"
                )
        targets = [*self.components.items(), *self.strategies.items()]
        for what, target in [*targets, *([("commands", self.commands)] if self.commands else [])]:
            module, _, attribute = target.partition(":")
            if not (_dotted(module) and attribute.isidentifier()):
                raise PluginError(f"plugin {self.name!r}: {what} is {target!r}, expected 'package.module:attribute'")
        for module in [*self.modules, *([self.recipes] if self.recipes else [])]:
            if not _dotted(module):
                raise PluginError(f"plugin {self.name!r}: {module!r} is not a dotted module name")

    @property
    def command(self) -> str:
        """The sub-command's name on the command line."""
        return self.name.replace("_", "-")

    def recipe_folder(self) -> Path | None:
        """Where the YAML recipes lie; found without importing the package itself (its parents are)."""
        if not self.recipes:
            return None
        spec = find_spec(self.recipes)
        if spec is None or not spec.submodule_search_locations:
            raise PluginError(
                f"plugin {self.name!r}: recipe package {self.recipes!r} is not a package that is installed"
            )
        return Path(next(iter(spec.submodule_search_locations)))


@dataclass(frozen=True)
class Registry:
    """The installed plugins, and what was wrong with those that were skipped.

    Example:
        >>> registry = Registry.from_plugins([Plugin("acme", "a callback", components={"Beep": "acme.callbacks:Beep"})])
        >>> registry.components
        {'Beep': 'acme.callbacks:Beep'}
    """

    plugins: tuple[Plugin, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def from_plugins(cls, plugins: Iterable[Plugin], problems: Iterable[str] = ()) -> Registry:
        """Keep the plugins whose names are free; a duplicate is refused and becomes a problem."""
        kept: list[Plugin] = []
        found = list(problems)
        for plugin in plugins:
            taken = {name for other in kept for name in (*other.components, *other.strategies)} & {
                *plugin.components,
                *plugin.strategies,
            }
            if plugin.name in {other.name for other in kept}:
                found.append(
                    f"plugin {plugin.name!r} is installed twice; the second one is skipped: uninstall one of the two"
                )
            elif taken:
                names = ", ".join(sorted(taken))
                found.append(
                    f"plugin {plugin.name!r} is skipped: the short name {names} belongs to another plugin already"
                )
            else:
                kept.append(plugin)
        return cls(tuple(kept), tuple(found))

    @property
    def components(self) -> dict[str, str]:
        """Short name → ``"module:attribute"`` over all plugins."""
        return {name: target for plugin in self.plugins for name, target in plugin.components.items()}

    @property
    def strategies(self) -> dict[str, str]:
        """Name for ``strategy:`` → ``"module:attribute"`` over all plugins."""
        return {name: target for plugin in self.plugins for name, target in plugin.strategies.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted prefixes that recipes may import."""
        return tuple(dict.fromkeys(module for plugin in self.plugins for module in plugin.modules))

    @property
    def commands(self) -> dict[str, Plugin]:
        """Sub-command → its plugin."""
        return {plugin.command: plugin for plugin in self.plugins if plugin.commands}


def discover() -> Registry:
    """Read the plugins of every installed package; our own come first and are entries like anybody's.

    A plugin whose description cannot be loaded is reported in ``problems`` and skipped.
    """
    found, problems = [], []
    # The same distribution may be listed twice (an editable install seen from its own folder): one entry is enough.
    entries = dict.fromkeys(entry_points(group=GROUP))
    for entry in sorted(entries, key=lambda entry: (not entry.value.startswith("fulgurite."), entry.name)):
        try:
            found.append(_load(entry))
        except Exception as error:
            problems.append(f"plugin {entry.name!r} ({entry.value}) is skipped: {type(error).__name__}: {error}")
    return Registry.from_plugins(found, problems)


def load(target: str) -> Callable[..., object]:
    """Import ``"module:attribute"``.

    Example:
        >>> load("math:sqrt")(9.0)
        3.0
    """
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for an error line: the nearest right names, or all of them when none is near and they are few.

    Example:
        >>> nearest("SeqPont", ["SeqPoint", "RandomState"])
        "; did you mean 'SeqPoint'?"
        >>> nearest("x", ["fit", "test"])
        '; choose from fit, test'
    """
    known = sorted(set(choices))
    lowered = {choice.lower(): choice for choice in reversed(known)}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=2, cutoff=0.6)]
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "; choose from " + ", ".join(known) if 0 < len(known) <= 12 else ""


def _load(entry: EntryPoint) -> Plugin:
    plugin = entry.load()
    if not isinstance(plugin, Plugin):
        raise PluginError(f"it names {type(plugin).__name__}, expected a fulgurite.plugins.registry.Plugin")
    return plugin


def _dotted(name: str) -> bool:
    return bool(name) and all(part.isidentifier() for part in name.split("."))
