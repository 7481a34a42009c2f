"""What a recipe needs beyond a bare install (`needs:`), and what of it is missing here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from fulgurite.recipes.library import RecipeError

DATA_ROOT = "FULGURITE_DATA"
_SAYS_ROOT = re.compile(r"--data\.(init_args\.)?root(=|$)")


def missing_needs(needs: Mapping[str, Any] | None, overrides: Iterable[str] = ()) -> list[str]:
    """What is missing, one phrase each, with what to do about it; empty if all is there.

    Args:
        needs: ``{"data": [folder, ...], "extras": [extra, ...]}``. A data folder is looked for below
            ``$FULGURITE_DATA``; an extra is one of Fulgurite's, or ``package[extra]`` of another distribution's.
        overrides: command-line arguments; ``--data.root`` or ``--data.init_args.root`` says where the data is.

    Raises:
        RecipeError: ``needs`` has another form.

    Example:
        >>> missing_needs(None)
        []
        >>> missing_needs({"extras": ["no_such_extra"]})
        ["the extra 'no_such_extra' (unknown to fulgurite)"]
    """
    missing = []
    if needs is not None and not isinstance(needs, Mapping):
        raise RecipeError(f"needs: got {needs!r}, expected a mapping such as {{extras: [data]}}")
    for kind, names in (needs or {}).items():
        if kind not in ("data", "extras"):
            raise RecipeError(f"needs: no such kind {kind!r}; choose from data, extras")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RecipeError(f"needs.{kind}: expected a list of names, got {names!r}")
        if kind == "data":
            missing += _missing_data(names, overrides)
        else:
            missing += [text for name in names if (text := _missing_extra(name))]
    return missing


def data_arguments(needs: Mapping[str, Any] | None, overrides: Iterable[str] = ()) -> list[str]:
    """Where a recipe that needs one data folder finds it, as an override; nothing where the user said so himself.

    Example:
        >>> data_arguments({"extras": ["data"]})
        []
    """
    names = (needs or {}).get("data") or []
    root = os.environ.get(DATA_ROOT)
    if root is None or len(names) != 1 or any(_SAYS_ROOT.match(word) for word in overrides):
        return []
    return [f"--data.init_args.root={Path(root) / names[0]}"]


def _missing_data(names: Iterable[str], overrides: Iterable[str]) -> list[str]:
    if any(_SAYS_ROOT.match(word) for word in overrides):
        return []
    root = os.environ.get(DATA_ROOT)
    return [
        f"the data folder {name!r} ({f'not in {root}' if root else f'give --data.root, or set ${DATA_ROOT}'})"
        for name in names
        if root is None or not (Path(root) / name).is_dir()
    ]


def _missing_extra(name: str) -> str | None:
    match = re.fullmatch(r"(?:([\w.-]+)\[)?([\w-]+)\]?", name)
    if not match:
        raise RecipeError(f"needs.extras: {name!r} is not an extra; expected a name, or package[name]")
    package, extra = match[1] or "fulgurite", match[2]
    wanted = _requirements(package, extra)
    if wanted is None:
        return f"the package {package!r} (not installed)"
    if not wanted:
        return f"the extra {extra!r} (unknown to {package})"
    absent = [str(requirement.name) for requirement in wanted if not _satisfied(requirement)]
    return f'the extra {extra!r} (pip install "{package}[{extra}]"; absent: {", ".join(absent)})' if absent else None


def _requirements(package: str, extra: str) -> list[Requirement] | None:
    try:
        lines = requires(package) or []
    except PackageNotFoundError:
        return None
    found: list[Requirement] = []
    for requirement in map(Requirement, lines):
        if (
            requirement.marker
            and not requirement.marker.evaluate({"extra": ""})
            and requirement.marker.evaluate({"extra": extra})
        ):
            if requirement.name == package:  # an extra made of other extras
                for inner in requirement.extras:
                    found += _requirements(package, inner) or []
            else:
                found.append(requirement)
    return found


def _satisfied(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
