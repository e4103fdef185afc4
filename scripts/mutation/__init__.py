"""Mutants of the techniques' files: which are made, which tests should kill them, what came of it."""
