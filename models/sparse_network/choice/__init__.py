"""The backends in plain torch, what each should cost, and which is taken."""
