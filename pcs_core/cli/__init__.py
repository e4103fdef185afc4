"""The command line ``pcs``. Importing it imports no torch."""
