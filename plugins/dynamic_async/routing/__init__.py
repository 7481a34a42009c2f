"""Routing, the application of the paper: algebras, their checker, and distance- and path-vector iterations."""
