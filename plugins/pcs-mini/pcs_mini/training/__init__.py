"""One module per trained part: ``vae``, ``clip``, ``denoiser``."""
