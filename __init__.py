"""Fulgurite: research papers as solid PyTorch Lightning components.

Callbacks (``fulgurite.callbacks``), layers and networks (``fulgurite.models``) and strategies
(``fulgurite.plugins``) that drop into a ``Trainer`` of your own, and YAML recipes (``fulgurite list``) that compose
them into whole experiments.
"""

__version__ = "0.1.0"
