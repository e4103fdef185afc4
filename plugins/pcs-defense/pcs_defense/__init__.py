"""The pcs-defense techniques."""
