"""What can be wrong with a topology file, an algebra or what is asked of them."""

from __future__ import annotations


class TopologyError(ValueError):
    """A topology file cannot be used; where it is a line that is wrong, the text begins with ``file:line``."""


class AlgebraError(ValueError):
    """An algebra is given what is no label or route of it."""
