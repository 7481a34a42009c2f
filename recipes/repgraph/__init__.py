"""The recipes of RepGraph."""
