"""The pcs-attention techniques."""
