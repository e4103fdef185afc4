"""PCS memory: what a fit and a drawing take, found by running them on numbers that nobody knows."""
