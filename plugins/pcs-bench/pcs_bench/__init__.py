"""The benchmark: suites, metrics, runs and reports, with the whole protocol pinned."""
