"""What a recipe may import. A recipe is data from strangers; naming a class is the only way it can reach code."""

from __future__ import annotations

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
    """Whether a dotted path lies under one of the prefixes.

    Example:
        >>> is_allowed("torch.optim.Adam", ["torch.optim"]), is_allowed("torch.optimism.Adam", ["torch.optim"])
        (True, False)
    """
    return any(path == prefix or path.startswith(prefix + ".") for prefix in allowed)


@contextmanager
def enforced(allowed: Iterable[str]) -> Iterator[None]:
    """Hold every jsonargparse parser to the allow-list while inside, remote configs off; restore its settings after.

    jsonargparse checks a name before it imports anything, and where the object was defined after: ``torch.os.system``
    is refused although ``torch`` were allowed.
    """
    # LightningCLI's module turns fsspec reading on when it is imported: import first, then set.
    import lightning.pytorch.cli  # noqa: F401
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings)
    set_parsing_settings(
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=list(allowed),
    )
    try:
        yield
    finally:
        # jsonargparse has no way to take an entry back, so what it kept is put back; a user's own parser in the same
        # process (their test suite, with our pytest plugin) must not notice us.
        parsing_settings.update(before)
        set_parsing_settings(config_read_mode_fsspec_enabled=True)
