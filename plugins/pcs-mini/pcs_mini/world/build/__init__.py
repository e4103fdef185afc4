"""Making the world's assets from published packages; needs the extra ``pcs-mini[pack]``."""
