"""What a recipe may import. A recipe is data from strangers; naming a class is the only way it can reach code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fulgurite.plugins.registry import Registry
from fulgurite.recipes.library import RecipeError

# Sub-packages, never a whole library: `torch.hub.load` and `torch.utils.cpp_extension.load` run what they are given.
LIBRARIES = (
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.nn",
    "torch.optim",
    "torchmetrics.aggregation",
    "torchmetrics.classification",
    "torchmetrics.regression",
    "torchmetrics.segmentation",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
)

# What lies below an allowed prefix and must not be reached: it imports or runs what it is told to.
REFUSED = (
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.lambda_function",
    "torch.nn.attention",
    "torch.nn.utils._deprecation_utils",
)


def allow_list(registry: Registry, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Dotted prefixes that may be imported: the libraries', the installed plugins', and ``--allow-import``'s.

    Raises:
        RecipeError: an extra one is no dotted module name.
    """
    for name in extra:
        if not name or not all(part.isidentifier() for part in name.split(".")):
            raise RecipeError(f"--allow-import {name}: expected a module's dotted name, such as my_package.models")
    return (*LIBRARIES, *registry.modules, *extra)


def is_allowed(path: str, allowed: Iterable[str]) -> bool:
    """Whether a dotted path lies under one of the prefixes; the longest prefix decides against :data:`REFUSED`.

    Example:
        >>> is_allowed("torch.optim.Adam", ["torch.optim"]), is_allowed("torch.optimism.Adam", ["torch.optim"])
        (True, False)
    """

    def longest(prefixes: Iterable[str]) -> int:
        return max((len(prefix) for prefix in prefixes if path == prefix or path.startswith(prefix + ".")), default=-1)

    return longest(allowed) >= max(0, longest(REFUSED))


def opening_hint(path: str) -> str:
    """How to open a module of the user's own; nothing for what no recipe should reach.

    Example:
        >>> opening_hint("my_package.models.Net"), opening_hint("os.system")
        ('; for a module of your own: --allow-import my_package', '')
    """
    top = path.lstrip(".").partition(".")[0]
    if top in sys.stdlib_module_names or re.match(r"(torch|lightning|fulgurite|jsonargparse|pytorch_lightning)", top):
        return ""
    return f"; for a module of your own: --allow-import {top}" if top.isidentifier() else ""


def opened_by_user(allowed: Iterable[str], registry: Registry) -> tuple[str, ...]:
    """What ``--allow-import`` added to an allow-list; configs inside a recipe may name no more than that.

    Example:
        >>> opened_by_user(["torch.nn", "my_package"], Registry(()))
        ('my_package',)
    """
    given = {*LIBRARIES, *registry.modules}
    return tuple(name for name in allowed if name not in given)


@contextmanager
def enforced(allowed: Iterable[str]) -> Iterator[None]:
    """Hold every jsonargparse parser to the allow-list while inside, remote configs off; restore its settings after.

    jsonargparse checks a name before it imports anything, and where the object was defined after: ``torch.os.system``
    is refused although ``torch`` were allowed.
    """
    # LightningCLI's module turns fsspec reading on when it is imported: import first, then set.
    import lightning.pytorch.cli  # noqa: F401
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import default_import_path_denylist, parsing_settings
    from jsonargparse._optionals import _get_config_read_mode

    before, mode = dict(parsing_settings), _get_config_read_mode()
    # What the host process allowed for itself is not allowed to a recipe.
    parsing_settings["import_path_verdicts"] = dict.fromkeys(default_import_path_denylist, False)
    set_parsing_settings(
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*", *REFUSED],
        import_path_allowlist=list(allowed),
    )
    try:
        yield
    finally:
        # jsonargparse has no way to take an entry back, so what it kept is put back; a user's own parser in the same
        # process (their test suite, with our pytest plugin) must not notice us.
        parsing_settings.update(before)
        set_parsing_settings(config_read_mode_fsspec_enabled="s" in mode, config_read_mode_urls_enabled="u" in mode)
