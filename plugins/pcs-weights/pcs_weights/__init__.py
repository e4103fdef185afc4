"""The pcs-weights techniques."""
