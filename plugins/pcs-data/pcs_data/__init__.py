"""The pcs-data techniques."""
