"""Read a recipe critically before anything of it is used: unknown keys, unknown or forbidden classes, wrong options.

jsonargparse checks types; this says first, with line and nearest right name, what a person most often gets wrong.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path as Folder
from typing import Any

from fulgurite.plugins.registry import Registry, load, nearest
from fulgurite.recipes.expect import parse_bars
from fulgurite.recipes.library import REMOTE, Document, RecipeError
from fulgurite.recipes.trust import is_allowed, opening_hint

KEYS = (
    "ckpt_path",
    "data",
    "expect",
    "lr_scheduler",
    "model",
    "needs",
    "optimizer",
    "seed_everything",
    "trainer",
    "weights_only",
)
CLASS_KEYS = ("class_path", "dict_kwargs", "init_args")
# Where a class may be named without its module.
_SHORT_NAMES = (
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.optim",
    "torch.optim.lr_scheduler",
)

PROFILERS = ("simple", "advanced", "pytorch")

Path = tuple[str | int, ...]


def lint(document: Document, registry: Registry, allowed: tuple[str, ...]) -> None:
    """Raise on the first fault; afterwards every class that the recipe names has been imported.

    Raises:
        RecipeError: one line with file, line number, what was got and the nearest right name.
    """
    from lightning.pytorch import Trainer

    for key, value in document.value.items():
        if key not in KEYS:
            raise _fault(document, (key,), f"no such key {key!r}{nearest(str(key), KEYS)}")
        if key == "trainer" and isinstance(value, Mapping):
            _check_options(document, ("trainer",), Trainer, value)
    _check_settings(document)
    for path, value in _mappings(document.value):
        if "class_path" in value:
            _check_class(document, path, value, registry, allowed)
    trainer = document.value.get("trainer")
    _check_strategy(document, trainer, registry)
    for key in ("callbacks", "logger", "profiler") if isinstance(trainer, Mapping) else ():
        value = (trainer or {}).get(key)
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            path = ("trainer", key, index) if isinstance(value, list) else ("trainer", key)
            if key == "callbacks" and not isinstance(item, str | Mapping | None):
                raise _fault(
                    document, path, f"callbacks: got {item!r}, expected a class's name, or class_path: and init_args:"
                )
            if isinstance(item, str) and not (key == "profiler" and item in PROFILERS):
                _find_class(document, path, item, registry, allowed)


def load_named(words: Iterator[str] | list[str], registry: Registry) -> None:
    """Import the components whose short names appear among the words, so that jsonargparse finds them by name.

    Strategies that appear are registered with Lightning, where the Trainer looks a string up.
    """
    named = set(words)
    for name in set(registry.components) & named:
        load(registry.components[name])
    for name in sorted(set(registry.strategies) & named):
        from lightning.pytorch.strategies import StrategyRegistry

        strategy = load(registry.strategies[name])
        if name not in StrategyRegistry:
            StrategyRegistry.register(name, strategy, description="of an installed plugin")


def short_names(registry: Registry) -> set[str]:
    """Classes that a recipe may name without their module."""
    return set(registry.components).union(*(_classes(module) for module in _SHORT_NAMES))


def _check_settings(document: Document) -> None:
    value = document.value
    for key in ("trainer", "model", "data"):
        if key in value and value[key] is not None and not isinstance(value[key], Mapping | str):
            raise _fault(document, (key,), f"{key}: got {type(value[key]).__name__}, expected a mapping")
    for key in ("model", "data"):
        if isinstance(value.get(key), Mapping) and "class_path" not in value[key]:
            raise _fault(document, (key,), f"{key} names no class: give class_path: and, below init_args:, its options")
    for key in ("model", "data"):
        if isinstance(value.get(key), str) and not re.fullmatch(r"[A-Za-z_][\w.]*", value[key]):
            raise _fault(
                document, (key,), f"{key}: got {value[key]!r}; a recipe does not read other files, write it out"
            )
    if isinstance(value.get("trainer"), str):
        raise _fault(document, ("trainer",), "trainer: a recipe does not read other files, write it out")
    trainer = value.get("trainer")
    if isinstance(trainer, Mapping) and trainer.get("model_registry"):
        raise _fault(document, ("trainer", "model_registry"), "model registries are remote, and off in a recipe")
    if "weights_only" in value and value["weights_only"] is not True:
        raise _fault(
            document, ("weights_only",), "a recipe may not turn weights_only off: it would run code from a checkpoint"
        )
    checkpoint = str(value.get("ckpt_path") or "")
    if REMOTE.match(checkpoint) or checkpoint.lower().startswith("registry"):
        raise _fault(document, ("ckpt_path",), "remote checkpoints are off; download the file and give its path")
    if Folder(checkpoint).is_dir() and checkpoint:
        raise _fault(
            document, ("ckpt_path",), f"{checkpoint} is a folder: sharded checkpoints are read by unsafe means"
        )
    try:
        parse_bars(value.get("expect"))
    except RecipeError as error:
        raise _fault(document, ("expect",), str(error)) from None


def _check_strategy(document: Document, trainer: object, registry: Registry) -> None:
    from lightning.pytorch.strategies import StrategyRegistry

    name = trainer.get("strategy") if isinstance(trainer, Mapping) else None
    known = {"auto", *StrategyRegistry.available_strategies(), *registry.strategies}
    if isinstance(name, str) and name.lower() not in known:
        raise _fault(
            document,
            ("trainer", "strategy"),
            f"no strategy {name!r}{nearest(name, known) or '; give one of the names or class_path: and init_args:'}",
        )


def _check_class(
    document: Document, path: Path, value: Mapping[str, Any], registry: Registry, allowed: tuple[str, ...]
) -> None:
    for key in value:
        if key not in CLASS_KEYS:
            raise _fault(
                document, (*path, key), f"no such key {key!r} beside class_path{nearest(str(key), CLASS_KEYS)}"
            )
    found = _find_class(document, (*path, "class_path"), value["class_path"], registry, allowed)
    options = value.get("init_args") or {}
    if not isinstance(options, Mapping):
        raise _fault(document, (*path, "init_args"), f"init_args: got {type(options).__name__}, expected a mapping")
    _check_options(document, (*path, "init_args"), found, options)


def _find_class(document: Document, path: Path, name: object, registry: Registry, allowed: tuple[str, ...]) -> Any:
    if not isinstance(name, str):
        raise _fault(document, path, f"class_path: got {name!r}, expected a class's name or dotted path")
    if "." not in name:
        if name in registry.components:
            return load(registry.components[name])
        for module in _SHORT_NAMES:
            found = getattr(import_module(module), name, None)
            if isinstance(found, type) and is_allowed(f"{found.__module__}.{name}", allowed):
                return found
        hint = nearest(name, short_names(registry)) or "; give its dotted path"
        raise _fault(document, path, f"no class {name!r}{hint}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise _fault(document, path, f"class_path: {name!r} is not a dotted path")
    if not is_allowed(name, allowed):
        raise _refusal(document, path, name)
    return _import(document, path, name, allowed)


def _import(document: Document, path: Path, name: str, allowed: tuple[str, ...]) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise _fault(document, path, f"{name} needs the module {error.name!r}, which is not installed") from error
        raise _fault(document, path, f"no module {module!r}") from error
    found = getattr(home, attribute, None)
    if found is None:
        raise _fault(document, path, f"{module} has no {attribute!r}{nearest(attribute, _classes(module))}")
    defined = found.__name__ if inspect.ismodule(found) else f"{getattr(found, '__module__', '')}.{attribute}"
    if not is_allowed(defined, allowed):
        raise _refusal(document, path, name, defined)
    if not isinstance(found, type):
        raise _fault(document, path, f"{name} is no class; class_path names a class")
    return found


def _check_options(document: Document, path: Path, target: Any, options: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # jsonargparse follows **kwargs through the source; it checks these
    for key in options:
        if key not in parameters:
            name = getattr(target, "__name__", str(target))
            raise _fault(document, (*path, str(key)), f"{name} has no option {key!r}{nearest(str(key), parameters)}")


def _classes(module: str) -> set[str]:
    home = sys.modules.get(module) or import_module(module)
    return {name for name in dir(home) if not name.startswith("_") and isinstance(getattr(home, name, None), type)}


def _mappings(value: object, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield from _mappings(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _mappings(inner, (*path, index))


def _fault(document: Document, path: Path, text: str) -> RecipeError:
    return RecipeError(f"{document.where(path)}: {text}")


def _refusal(document: Document, path: Path, name: str, defined: str = "") -> RecipeError:
    what = f"{name} (that is {defined})" if defined else name
    return _fault(
        document,
        path,
        f"importing {what} is refused: a recipe may name classes of fulgurite, its plugins and parts of lightning, "
        f"torch, torchvision and torchmetrics{opening_hint(defined or name)}",
    )
