"""Generated pages of the docs, a module each."""
