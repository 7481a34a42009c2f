"""Implicit graph networks, whose fixed point survives asynchronous workers that come and go."""
