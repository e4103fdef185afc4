"""The pcs-inversion techniques."""
