"""What plugs into the Trainer beside callbacks, and the registry that finds plugins."""
