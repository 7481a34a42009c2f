"""Recipes of dynamic graph networks, and `fulgurite dynamic-gnn`."""
