"""The model without torch or Lightning: schedules, the state function δ, pseudocycles, tags and certificates."""
