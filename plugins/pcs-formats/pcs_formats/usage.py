"""What whoever gets an exported file must know: the words, the base, the sampler and the strength."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.backbone import Attachment
    from pcs_core.data import Recipe

README = "README.md"
STRENGTH = 1.0
"""alpha / rank stands in the file, so that its full effect is that of the artifact."""


def usage(
    net: Attachment, recipe: Recipe, learned: Mapping[str, str], *, named_by_file: bool
) -> dict[str, Any]:
    """Return how the files of an export are used: ``words`` (placeholder -> what to write instead) and numbers.

    ``learned``: file of a learned word -> its placeholder. Tools around kohya's files call such a word by the
    name of its file (``named_by_file``); diffusers is told the placeholder when it loads the file.
    """
    words = {word.token: word.text for word in net.fusion.words}
    for file, token in learned.items():
        words[token] = file.removesuffix(".safetensors") if named_by_file else token
    card, sample = net.backbone.card, recipe.sample
    return {
        "words": words,
        "prompt": "a photo of " + (" and ".join(words.values()) or "..."),
        "base": {"id": card.id, "family": card.family, "sha256": card.hash},
        "sampling": {"scheduler": sample.scheduler, "steps": sample.steps, "scale": sample.scale},
        "strength": STRENGTH,
    }


def metadata(facts: Mapping[str, Any], system: str) -> dict[str, str]:
    """Return the same for a safetensors file's metadata, by the modelspec standard's keys where it has some."""
    numbers = facts["sampling"]
    return {
        "modelspec.title": system,
        "modelspec.trigger_phrase": ", ".join(facts["words"].values()),
        "modelspec.usage_hint": (
            f"{facts['prompt']}; on {facts['base']['id']}, {numbers['scheduler']}, "
            f"{numbers['steps']} steps, guidance scale {numbers['scale']:g}, strength {facts['strength']:g}"
        ),
        "pcs.words": json.dumps(facts["words"], ensure_ascii=False),
        **(
            {"pcs.approximation": json.dumps(facts["approximation"])}
            if "approximation" in facts
            else {}
        ),
    }


def approximated(facts: Mapping[str, Any]) -> str:
    """Return what an approximation leaves out, in words: relative errors by kind of layer."""
    errors = dict(facts["errors"])
    overall = errors.pop("overall")
    kinds = ", ".join(f"{kind} {error:.1%}" for kind, error in errors.items())
    return (
        f"approximated by updates of rank {facts['rank']}: {overall:.1%} of what was learned is left out "
        f"({kinds})"
    )


def readme(
    facts: Mapping[str, Any], system: str, lora: Sequence[str], learned: Mapping[str, str]
) -> str:
    """Return the text of the README beside the files."""
    base, numbers = facts["base"], facts["sampling"]
    lines = [
        f"# A subject learned by {system}",
        "",
        f"Made on `{base['id']}` (family {base['family']}): draw with that model.",
        "",
        *(f"- Write `{text}` where PCS has `{token}`." for token, text in facts["words"].items()),
        f"- For example: `{facts['prompt']}`.",
        f"- Sampler {numbers['scheduler']}, {numbers['steps']} steps, guidance scale {numbers['scale']:g}.",
        *([f"- {approximated(facts['approximation'])}."] if "approximation" in facts else []),
        *(f"- `{file}`: a LoRA of strength {facts['strength']:g}." for file in lora),
        *(
            f"- `{file}`: the learned word `{facts['words'][token]}`."
            for file, token in learned.items()
        ),
    ]
    return "\n".join(lines) + "\n"
