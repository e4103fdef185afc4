"""The model card of a trained folder, made from the folder itself and from its run's journal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pcs_mini.training.journal import read_journal

_PARTS = {
    "text_encoder": "CLIPTextModel",
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
}
_TEMPLATE = """# {title}

A text-to-image latent diffusion model of {pixels} x {pixels} pictures, in the diffusers layout. It
exists so that personalisation can be seen and tested without a network, a GPU or a download.

| part | class | parameters | MB | facts |
| --- | --- | --- | --- | --- |
{rows}

The weights are exponential moving averages. Load them in fp32 on a CPU.

{sections}
## Training

{training}

## Licence

{licence}
"""


def count_parameters(folder: Path) -> int:
    """Elements of all tensors in a part's safetensors files; buffers count too."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = file.keys()
            total += sum(prod(file.get_slice(name).get_shape()) for name in names)
    return total


def megabytes(folder: Path) -> float:
    """What the files of a folder take, in millions of bytes."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def knows(record: Mapping[str, Any]) -> str:
    """What the weights know, as their record (`world.curriculum`) says."""
    if not record["stage"]:
        return "The words of the whole trained world were drawn for them."
    styles, people = ", ".join(record["styles"]), ", ".join(record["people"])
    text = (
        f"They were trained last on stage {record['stage']} of the world: {record['title']}. These "
        f"{len(record['concepts'])} things, in the styles {styles}, were drawn for them: "
        f"{', '.join(record['concepts'])}."
    )
    if people:
        text += f" People are drawn in the styles {people}."
    return (
        text
        + " Other words of the world came up seldom or never, and are drawn badly or not at all."
    )


def metrics(folder: Path) -> str:
    """The metrics in a folder, their sizes, and how well they do on real renders."""
    lines = []
    for path in sorted(folder.glob("*/config.json")):
        scores = _config(path.parent).get("scores", {})
        said = ", ".join(f"{key} {value}" for key, value in scores.items()) or "not measured"
        lines.append(f"- **{path.parent.name}**: {megabytes(path.parent):.1f} MB; {said}.")
    return "\n".join(lines)


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return data


def _facts(part: str, config: Mapping[str, Any], pixels: int, latent: int) -> str:
    if part == "text_encoder":
        return (
            f"width {config['hidden_size']}, {config['num_hidden_layers']} layers, "
            "trained with the UNet"
        )
    widths = "/".join(str(width) for width in config["block_out_channels"])
    if part == "vae":
        shape = f"{latent}x{latent}x{config['latent_channels']}"
        return (
            f"{pixels} px to {shape} with {widths} channels; each latent channel has mean 0 and "
            f"variance 1, `scaling_factor` {config['scaling_factor']:g}"
        )
    return f"{widths} channels at {latent}, {latent // 2} and {latent // 4}, cross attention"


def _rows(folder: Path) -> tuple[list[str], int]:
    unet, vae = _config(folder / "unet"), _config(folder / "vae")
    latent = unet["sample_size"]
    pixels = latent * 2 ** (len(vae["block_out_channels"]) - 1)
    words = _config(folder / "tokenizer", "tokenizer_config.json")
    pieces = _config(folder / "text_encoder")["vocab_size"]
    rows = [
        f"| tokenizer | `CLIPTokenizer` | | {megabytes(folder / 'tokenizer'):.1f} "
        f"| {pieces} pieces, {words['model_max_length']} tokens; "
        "words of the world are whole, all others split |"
    ]
    for part, kind in _PARTS.items():
        size = count_parameters(folder / part) / 1e6
        facts = _facts(part, _config(folder / part), pixels, latent)
        rows.append(
            f"| {part} | `{kind}` | {size:.2f} M | {megabytes(folder / part):.1f} | {facts} |"
        )
    plan = _config(folder / "scheduler", "scheduler_config.json")
    rows.append(
        f"| scheduler | `{plan['_class_name']}` | | | {plan['num_train_timesteps']} steps, "
        f"{plan['beta_schedule']} {plan['beta_start']:g} to {plan['beta_end']:g}, "
        f"{plan['prediction_type']}, {plan['timestep_spacing']} spacing |"
    )
    return rows, pixels


def _training(runs: Sequence[Path]) -> list[str]:
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for line in read_journal(run):
            lines.setdefault(line["stage"], []).append(line)
    bullets = []
    for stage, entries in lines.items():
        last = entries[-1]
        text = f"- **{stage}**: {last['images']:,} pictures in {last['step']:,} steps"
        # A resumed run says again what it draws from; a stage has a cache of its own.
        scenes = [k for k, _ in groupby(e["scenes"] for e in entries if "scenes" in e)]
        if scenes:
            each = ", then ".join(f"{count:,}" for count in scenes)
            text += f", of {each} scenes"
        if hours := sum(_hours(entries)):
            devices = dict.fromkeys(e["device"] for e in entries if "device" in e)
            text += f"; {hours:.1f} hours" + "".join(f" on {name}" for name in devices)
        if "psnr" in last:
            text += f"; round trip of pictures held back {last['psnr']:.1f} dB"
        if "loss" in last:
            text += f"; last loss {last['loss']:.4f}"
        bullets.append(text + ".")
    return bullets


def _hours(entries: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """Hours between the lines of a stage, by the pictures and the speed that they tell."""
    for before, line in pairwise(({"images": 0}, *entries)):
        if line.get("images_per_s"):
            yield max(0, line["images"] - before["images"]) / line["images_per_s"] / 3600


def model_card(
    folder: Path,
    runs: Sequence[Path] = (),
    *,
    title: str = "pcs-mini",
    sections: Mapping[str, str] | None = None,
    licence: str = "Apache-2.0. What the training data was drawn from stands in `LICENSES.md`.",
) -> str:
    """The card as Markdown. ``runs`` are folders with a journal; ``sections`` are heading -> text.

    :raises FileNotFoundError: if `folder` is no diffusers folder of the five parts.
    """
    rows, pixels = _rows(folder)
    written = "".join(f"## {name}\n\n{text}\n\n" for name, text in (sections or {}).items())
    training = "\n".join(_training(runs)) or "No journal was given."
    text = _TEMPLATE.format(
        title=title,
        pixels=pixels,
        rows="\n".join(rows),
        sections=written,
        training=training,
        licence=licence,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def write_card(folder: Path, runs: Sequence[Path] = (), **facts: Any) -> Path:
    """Write ``model_card.md`` into `folder`; takes what :func:`model_card` takes."""
    path = folder / "model_card.md"
    path.write_text(model_card(folder, runs, **facts), encoding="utf-8")
    return path
