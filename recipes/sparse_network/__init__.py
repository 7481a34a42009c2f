"""The recipes of SparseNetwork."""
