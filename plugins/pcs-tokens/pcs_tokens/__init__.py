"""The pcs-tokens techniques."""
