"""The pcs-masks techniques."""
