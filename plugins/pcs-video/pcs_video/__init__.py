"""The pcs-video techniques."""
