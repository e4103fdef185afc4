"""World v0: drawn subjects on procedural places, with captions and exact masks."""
