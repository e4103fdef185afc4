"""Systems and artifacts in the files of other tools."""
