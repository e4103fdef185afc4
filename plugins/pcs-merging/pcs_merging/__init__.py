"""Several personalizations in one."""
