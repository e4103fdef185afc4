"""The pcs-guidance techniques."""
