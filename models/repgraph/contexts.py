"""The context layers by their short names, as options and recipes give them."""

from importlib import import_module
from typing import Any

from torch import nn

# Short name → module and class; loaded on use.
CONTEXTS = {
    "repgraph": ("fulgurite.models.repgraph.layer", "RepGraph2d"),
    "non_local": ("fulgurite.models.repgraph.non_local", "NonLocal2d"),
    "global_context": ("fulgurite.models.repgraph.global_context", "GlobalContext2d"),
    "none": ("torch.nn", "Identity"),
}


def build_context(name: str, in_channels: int, **options: Any) -> nn.Module:
    """Build a context layer by its short name.

    Args:
        name: ``repgraph``, ``non_local``, ``global_context``, or ``none``, which is the identity and takes no options.
        in_channels: channels of the map.
        options: the layer's own, such as ``num_nodes``.

    Raises:
        ValueError: an unknown name, an option that the layer does not have, or one out of range.

    Example:
        >>> build_context("repgraph", 64, num_nodes=4).num_nodes
        4
        >>> build_context("none", 64)
        Identity()
    """
    if name not in CONTEXTS:
        raise ValueError(f"got context={name!r}; choose from {', '.join(CONTEXTS)}")
    if name == "none":
        if options:
            raise ValueError(
                f"got options {', '.join(sorted(options))} for context='none', which has none; remove them"
            )
        return nn.Identity()
    module, cls = CONTEXTS[name]
    kind = getattr(import_module(module), cls)
    return build_layer(kind, in_channels, **options)


def build_layer(kind: type[nn.Module], in_channels: int, **options: Any) -> nn.Module:
    """Build ``kind(in_channels, **options)``, and say which options it has where one is unknown.

    Raises:
        ValueError: an option that the layer does not have, or one out of range.
    """
    known = kind.__init__.__kwdefaults__ or {}
    unknown = sorted(set(options) - set(known))
    if known and unknown:
        raise ValueError(f"got {kind.__name__} options {', '.join(unknown)}; it has {', '.join(known)}")
    return kind(in_channels, **options)
