"""What the families of this plugin want of a recipe that was published on another one.

Steps and scale are the defaults of diffusers' own pipelines for the family. SD 1.x and 2.x have no
numbers here: almost all recipes that do not name their backbone's are of it.
"""

from __future__ import annotations

from pcs_core.data.profile import Profile

SD = Profile("sd", saw="photographs and drawings of the web with their alternative texts (LAION)")
SDXL = Profile("sdxl", steps=50, scale=5.0, saw="photographs and drawings, 1024 pixels wide")
SD3 = Profile("sd3", steps=28, scale=7.0, saw="pictures, half of them with long written captions")
FLUX = Profile("flux", steps=28, scale=1.0, saw="pictures with long written captions")
KONTEXT = Profile("flux-kontext", steps=28, scale=1.0, saw=FLUX.saw)
VIDEO = Profile(
    "video", steps=50, scale=9.0, saw="short clips of the web with their captions", clips=True
)
ANIMATEDIFF = Profile("animatediff", steps=50, scale=7.5, saw=VIDEO.saw, clips=True)
TOKENS = Profile("tokens", steps=12, scale=10.0, saw="photographs and drawings, as tokens")
