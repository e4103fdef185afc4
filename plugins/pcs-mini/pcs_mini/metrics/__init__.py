"""What measures pictures of the world: Mini-CLIP, a text-free embedder, an identity embedder, a judge.

Each is trained apart, on renders alone, and none has seen what is held out or a generated picture.
"""
