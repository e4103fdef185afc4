"""Writes what later versions must still read and draw: artifacts, a checkpoint, and pictures of brief fits.

    python tests/golden/make.py artifacts|checkpoint|fits

Run once, on the version whose files are to be kept; the tests beside it only read. Everything is on the
random network "tiny" ("tiny-video" for clips), and on Mini for pictures of brief fits.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pcs_core import fit, load_recipe, load_subject, open_backbone, pretrain, sample, save
from pcs_core.catalogue import catalogue
from pcs_core.data import Box, Concept, Layout, Record, Subject

HERE = Path(__file__).resolve().parent
ARTIFACTS, CHECKPOINT, FITS = HERE / "artifacts", HERE / "checkpoint", HERE / "fits.safetensors"
PROMPT = "a photo of <thing> on the beach"
POINTS = ((0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7))
FEW = {
    "regularizers.prior_preservation": ("count=2", "steps=2"),
    "video.noise_prior": ("steps=2",),
    "data.augment": ("variants=1",),
    "three_d.renderable": ("size=16",),
    # fits of other systems inside of this one, of hundreds of steps: of the one that learns nothing
    "defense.cast": ('surrogates=["style-aligned"]', "count=1"),
}
TINY = {
    "encoders.image": ("model=tiny.image", "output=pooled"),
    "encoders.face": ("model=tiny.face",),
    "attention.parallel_adapter": ("heads=4", "depth=1", "tokens=2"),
    "attention.localization_loss": ("scale=2",),
    "fusion.control_branch": ("width=0.5",),
    "fusion.token_output": ("hidden=16",),
}
SMALL = {
    "weights.full": ('parts=["text"]',),
    "spatial": ("rank=2",),
    "temporal": ("rank=2",),
    "three_d.renderable": ("cells=12",),
}
"""What keeps an artifact small enough to be kept here."""


class Records:
    """Two records of one subject each."""

    def __len__(self) -> int:
        """Return how many there are."""
        return 2

    def __getitem__(self, index: int) -> Record:
        """Return one."""
        picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(1, 32, 32)
        mask[:, 8:24, 8:24] = 1.0
        extra = {"points": torch.tensor(POINTS)}
        return Record(picture, "a photo of a dog", ("dog",), ((picture,),), (mask,), extra)


def thing(clips: bool = False) -> Subject:
    """Return a random subject; ``clips`` makes its pictures clips of four frames."""
    rng = torch.Generator().manual_seed(0)
    shape = (3, 4, 32, 32) if clips else (3, 40, 48)
    mask = torch.zeros(1, *shape[1:])
    mask[..., 8:30, 8:30] = 1.0
    return Subject(
        name="thing",
        concepts=(Concept("thing", "<thing>", "dog"),),
        images=tuple(torch.rand(*shape, generator=rng) for _ in range(2)),
        captions=(None,) * 2,
        masks={} if clips else {"thing": (mask, mask)},
    )


def overrides(recipe: Any, *tables: dict[str, tuple[str, ...]], steps: int) -> list[str]:
    """Return few steps and what a small network needs."""
    few = [
        f"{use.name}.{change}"
        for table in tables
        for use in recipe.uses
        for change in table.get(use.name, ())
    ]
    few += [f"{p.name}.steps={steps}" for p in recipe.phases]
    few += [f"{p.name}.batch=2" for p in recipe.phases if p.pretrain]
    return [*few, "sample.steps=2", "fit.cycles=1"]


def layout_for(recipe: Any) -> Layout | None:
    """Return boxes and points where the recipe reads them."""
    if not any(u.technique.reads_layout for u in recipe.uses):
        return None
    return Layout((Box("<thing>", (0.0, 0.0, 0.5, 1.0)),), POINTS)


def tiny_artifacts() -> Iterator[tuple[str, Any, Any]]:
    """Yield each system's brief fit on the tiny network, with the backbone."""
    for system in sorted(catalogue().recipe_files()):
        plain = load_recipe(system)
        moves = plain.backbones[:1] == ("video",)
        backbone = open_backbone("tiny-video" if moves else "tiny")
        recipe = load_recipe(system, overrides=overrides(plain, FEW, TINY, SMALL, steps=2))
        adapter = None
        if any(p.pretrain for p in recipe.phases):
            adapter = pretrain(recipe, Records(), backbone)
        yield system, fit(recipe, thing(moves), backbone, seed=3, adapter=adapter)[0], backbone


def artifacts() -> None:
    """Write an artifact per system, and the pictures that they draw."""
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir()
    pictures = {}
    for system, artifact, backbone in tiny_artifacts():
        size = sum(t.numel() * t.element_size() for t in artifact.tensors.values())
        if size > 700_000:
            print(f"{system}: {size} bytes, left out")
            continue
        save(artifact, ARTIFACTS / system)
        layout = layout_for(artifact.recipe)
        pictures[system] = sample(artifact, backbone, PROMPT, seed=1, layout=layout)
        print(system, size)
    save_file(pictures, ARTIFACTS / "pictures.safetensors")


class Stop(Exception):
    """Ends a fit in its second phase."""


def checkpoint() -> None:
    """Write the work folder of an interrupted fit, and the tensors that the whole fit gives."""
    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    recipe = checkpoint_recipe()
    second = [p.name for p in recipe.phases][1]

    def stop(progress: Any) -> None:
        if progress.phase == second:
            raise Stop

    backbone = open_backbone("tiny")
    try:
        fit(recipe, thing(), backbone, seed=3, work=CHECKPOINT / "work", watch=[stop])
    except Stop:
        print("interrupted in its second phase")
    whole = fit(recipe, thing(), backbone, seed=3)[0]
    save_file(
        {k: v.contiguous().clone() for k, v in whole.tensors.items() if v.numel() < 20_000},
        CHECKPOINT / "finished.safetensors",
    )


def checkpoint_recipe() -> Any:
    """Return the recipe of the interrupted fit: two phases, a learned word and a prior loss."""
    text = """
[recipe]
id = "golden"
[[use]]
technique = "tokens.learnable"
[[use]]
technique = "weights.lora"
rank = 2
sites = "*.attn2.to_k|*.attn2.to_v"
[[phase]]
name = "word"
steps = 4
lr = 5e-3
train = ["tokens.learnable/*"]
[[phase]]
name = "both"
steps = 12
lr = 1e-3
"""
    path = HERE / "golden.toml"
    path.write_text(text.lstrip(), encoding="utf-8")
    return load_recipe(path)


def fits() -> None:
    """Write a picture of a brief fit of each system on Mini."""
    save_file(dict(brief_fits()), FITS)


def brief_fits(systems: Collection[str] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a system's name and its picture after a brief fit on Mini, [3 32 32]: means of 4 x 4 pixels.

    ``systems``: only these; none means all.
    """
    import pcs_mini

    folder = Path(pcs_mini.__file__).parent / "subjects"
    torch.set_num_threads(2)  # another number adds in another order: 1e-5 after a few steps
    backbone = open_backbone("mini")
    for system in sorted(catalogue().recipe_files()):
        # without a backbone first: a system of clips is refused on one of pictures
        if "mini" not in load_recipe(system).backbones or (systems and system not in systems):
            continue
        plain = load_recipe(system, backbone="mini")
        few = overrides(plain, FEW, steps=2)
        recipe = load_recipe(system, backbone="mini", overrides=[*few, "sample.steps=4"])
        name = "person_curly" if system == "instantid" else "dog_pug"
        subject = load_subject(folder / name, token="<thing>")
        artifact = fit(recipe, subject, backbone, seed=3)[0]
        picture = sample(artifact, backbone, PROMPT, seed=1, layout=layout_for(recipe))[0]
        print(system, flush=True)
        yield system, torch.nn.functional.avg_pool2d(picture, 4)


if __name__ == "__main__":
    {"artifacts": artifacts, "checkpoint": checkpoint, "fits": fits}[sys.argv[1]]()
