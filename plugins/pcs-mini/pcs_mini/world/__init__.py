"""The world: subjects of known truth at places, with captions, masks, depth, cameras and points."""
