"""Pre-training: one set of weights for all subjects, from a data set of records."""
