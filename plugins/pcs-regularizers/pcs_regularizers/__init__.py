"""The pcs-regularizers techniques."""
