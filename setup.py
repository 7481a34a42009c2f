"""Lists the packages: the repository's top folders are ``fulgurite.plugins``, ``fulgurite.callbacks`` and so on."""

from setuptools import find_packages, setup

KINDS = ("plugins", "callbacks", "models", "data", "recipes")
found = find_packages(include=[pattern for kind in KINDS for pattern in (kind, f"{kind}.*")])

setup(packages=["fulgurite", *(f"fulgurite.{name}" for name in found)])
