"""Recipes: whole experiments as YAML, and the command line that lists, shows, copies, checks and runs them."""
