"""What is trained: a script of diffusers and the recipe that does the same, on one folder of a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPE = """
[recipe]
id = "{id}"

{uses}

[[phase]]
name = "all"
steps = 10
lr = {rate}
train = {train}
clip = {clip}
weight_decay = 1e-2
batch = {{ subject = 1 }}
losses = ["core.denoise"]
"""


@dataclass(frozen=True, slots=True)
class Task:
    """One method. ``script`` is its place in a checkout of diffusers, ``passes`` the forwards of a step.

    A step of an adapter takes two (one forward, and gradients as far as its input), of whole weights three.
    """

    name: str
    script: str
    options: tuple[str, ...]
    pictures: str
    uses: str
    rate: float
    passes: int
    train: str = '["*"]'
    clip: float = 1.0
    prompted: bool = True

    def recipe(self) -> str:
        """Return the recipe of the same method with the same numbers."""
        numbers = {"rate": self.rate, "train": self.train, "clip": self.clip}
        return RECIPE.format(id=f"bench-{self.name}", uses=self.uses, **numbers)

    def peer(self, checkout: Path, work: Path, steps: int, side: int, seed: int) -> list[str]:
        """Return the command of diffusers' script."""
        out = work / f"peer-{self.name}"
        return [
            *(sys.executable, str(checkout / self.script)),
            *("--pretrained_model_name_or_path", str(work / "model")),
            *(self.pictures, str(work / "pictures" / "s0")),
            *(("--instance_prompt", "a photo of sks dog") if self.prompted else ()),
            *("--output_dir", str(out), "--resolution", str(side), "--train_batch_size", "1"),
            *("--max_train_steps", str(steps), "--checkpointing_steps", "1000000"),
            *("--learning_rate", str(self.rate), "--lr_scheduler", "constant"),
            *("--lr_warmup_steps", "0", "--seed", str(seed), "--mixed_precision", "no"),
            *self.options,
        ]


RARE = '[[use]]\ntechnique = "tokens.rare"\nidentifier = "sks"\n'
WORD = '[[use]]\ntechnique = "tokens.learnable"\n'
TASKS = {
    task.name: task
    for task in (
        Task(
            "dreambooth-lora",
            "examples/dreambooth/train_dreambooth_lora.py",
            ("--rank", "4"),
            "--instance_data_dir",
            RARE + '[[use]]\ntechnique = "weights.lora"\nrank = 4\n',
            5e-4,
            2,
        ),
        Task(
            "dreambooth",
            "examples/dreambooth/train_dreambooth.py",
            (),
            "--instance_data_dir",
            RARE + '[[use]]\ntechnique = "weights.full"\n',
            5e-6,
            3,
        ),
        Task(
            "textual-inversion",
            "examples/textual_inversion/textual_inversion.py",
            (
                *("--placeholder_token", "<thing>", "--initializer_token", "dog"),
                *("--learnable_property", "object", "--save_steps", "1000000"),
            ),
            "--train_data_dir",
            WORD,
            5e-4,
            2,
            clip=0.0,
            prompted=False,
        ),
        Task(
            "custom-diffusion",
            "examples/custom_diffusion/train_custom_diffusion.py",
            (
                "--modifier_token",
                "<thing>",
                "--initializer_token",
                "dog",
                "--no_safe_serialization",
            ),
            "--instance_data_dir",
            WORD + '[[use]]\ntechnique = "weights.kv"\n',
            1e-5,
            2,
        ),
    )
}


def queue(work: Path, task: Task, subjects: int, steps: int, seed: int) -> Path:
    """Write the queue of as many fits, each of ``steps`` steps."""
    recipe = work / f"{task.name}.toml"
    recipe.write_text(task.recipe(), "utf-8")
    rows: list[dict[str, Any]] = [
        {
            "system": str(recipe),
            "folder": f"pictures/s{number}",
            "noun": "dog",
            "token": f"<s{number}>",
            "seed": seed + number,
            "set": [f"all.steps={steps}"],
        }
        for number in range(subjects)
    ]
    path = work / f"{task.name}-{subjects}-{steps}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return path


def ours(work: Path, queue_file: Path, out: Path, together: int) -> Sequence[str]:
    """Return the command that fits a queue."""
    return [
        *(sys.executable, "-m", "pcs_cli.main", "fit-many", str(queue_file), "--out", str(out)),
        *("--backbone", str(work / "model"), "--together", str(together), "--json"),
    ]
