"""Many fits and many subjects in one forward of the network."""
