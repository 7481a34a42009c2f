"""Recipes of dynamic asynchronous iterations."""
