"""The quality gate: what Mini-CLIP says of real renders and of generated pictures, and a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_mini.generate import load_parts, pictures
from pcs_mini.scorer import Scorer
from pcs_mini.world.atlas import holds
from pcs_mini.world.captions import caption
from pcs_mini.world.compose import compose
from pcs_mini.world.places import PLACES
from pcs_mini.world.pool import render_pool
from pcs_mini.world.roster import roster

RENDER_SEED = 987_654
"""Far from any training seed: renders of the gate are not in the pools."""


@dataclass(frozen=True)
class Gate:
    """The figures; shares are 0..1."""

    render_class: float
    """Class accuracy on renders of trained subjects: is the ruler to be trusted?"""
    render_place: float
    instance_retrieval: float
    """Share of held-out drawings whose nearest neighbour at another place is the same drawing."""
    psnr: float
    """Mean round trip of the autoencoder on renders, dB."""
    generated_class: float
    generated_place: float
    text_alignment: float
    prompts: int

    @property
    def passed(self) -> bool:
        """Whether every bound of version 0 holds."""
        return (
            self.render_class >= 0.9
            and self.render_place >= 0.9
            and self.generated_class >= 0.6
            and self.generated_place >= 0.8
        )

    def as_dict(self) -> dict[str, float | bool]:
        """All figures and whether they pass."""
        return {**asdict(self), "passed": self.passed}


def to_tensor(images: np.ndarray) -> Tensor:
    """``[n, h, w, 3]`` bytes to ``[n, 3, h, w]`` in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def prompt_set(n: int) -> list[tuple[str, str, str]]:
    """`n` prompts with their noun and place: 18 of them hold every noun and every place once."""
    nouns = list(roster().nouns)
    chosen = []
    for i in range(n):
        turn, k = divmod(i, len(nouns))
        noun, place = nouns[k], PLACES[(k * 7 + turn * 5) % len(PLACES)]
        chosen.append((caption(noun, place, template="a photo of {}"), noun, place))
    return chosen


def held_out_views(views: int = 4, seed: int = RENDER_SEED) -> tuple[Tensor, list[str]]:
    """Held-out drawings at `views` different places each, with a name per drawing."""
    people = roster()
    rng = np.random.default_rng(seed)
    images, names = [], []
    for style in people.held_out_styles:
        for noun in people.world_nouns:
            if not holds(noun, style):
                continue
            for place in rng.choice(len(PLACES), views, replace=False):
                images.append(compose(rng, noun, style, PLACES[place])[0])
                names.append(f"{style} {noun}")
    return to_tensor(np.stack(images)), names


def instance_retrieval(scorer: Scorer) -> float:
    """Share of held-out renders whose nearest other render shows the same drawing."""
    images, names = held_out_views()
    with torch.no_grad():
        features = scorer.image_features(images)
    likeness = (features @ features.T).fill_diagonal_(-2)
    nearest = likeness.argmax(1).tolist()
    return sum(names[i] == names[j] for i, j in enumerate(nearest)) / len(names)


def evaluate(
    folder: Path,
    prompts: int = 180,
    *,
    seed: int = 0,
    steps: int = 25,
    guidance: float = 3.0,
    device: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Gate, Tensor]:
    """The gate's figures and the generated pictures ``[prompts, 3, 64, 64]`` in 0..1."""
    from pcs_mini.training.vae import psnr

    scorer = Scorer(folder, device)
    parts = load_parts(folder, device)
    pool = render_pool(360, RENDER_SEED)
    renders = to_tensor(pool.images)
    report("scoring renders")
    wanted = prompt_set(prompts)
    report(f"generating {prompts} pictures")
    drawn = pictures(
        parts, [text for text, _, _ in wanted], steps=steps, guidance=guidance, seed=seed
    )
    report("scoring generated pictures")
    gate = Gate(
        render_class=scorer.class_accuracy(renders, [noun for noun, _, _ in pool.labels]),
        render_place=scorer.place_accuracy(renders, [place for _, _, place in pool.labels]),
        instance_retrieval=instance_retrieval(scorer),
        psnr=psnr(parts.vae, renders.to(device) * 2 - 1),
        generated_class=scorer.class_accuracy(drawn, [noun for _, noun, _ in wanted]),
        generated_place=scorer.place_accuracy(drawn, [place for _, _, place in wanted]),
        text_alignment=scorer.text_alignment(drawn, [text for text, _, _ in wanted]),
        prompts=prompts,
    )
    return gate, drawn


def grid(images: Tensor, columns: int, path: Path, scale: int = 1) -> Path:
    """Write pictures ``[n, 3, h, w]`` in 0..1 as one PNG, row by row."""
    n, _, height, width = images.shape
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
    return path
