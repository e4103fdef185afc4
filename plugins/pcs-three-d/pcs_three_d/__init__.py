"""The pcs-three-d techniques."""
