"""Pre-trained weights of personalization systems on the embedded backbone."""
