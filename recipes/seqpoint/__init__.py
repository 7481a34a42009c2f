"""The recipes of SeqPoint and its sub-commands."""
