"""Reports: tables, plots and pages of what a run measured."""
