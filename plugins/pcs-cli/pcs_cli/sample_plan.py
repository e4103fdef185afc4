"""What ``pcs sample`` is asked for, read from its words and options; what is wrong is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_cli.output import notice
from pcs_cli.strengths import numbers_by_name
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Layout, Personalization, Preset, SampleSettings


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs the networks: an engine by name, a deployment, both or neither."""

    name: str | None
    deployment: Path | None
    options: Mapping[str, Any]
    deployed: bool
    """Whether a deployment is drawn with: it has a backbone of its own."""


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """A drawing that nothing speaks against. ``artifacts`` are none where the untuned base draws."""

    artifacts: tuple[Path, ...]
    personalization: Personalization | None
    prompt: str
    count: int
    seed: int
    settings: SampleSettings
    preset: Preset
    layout: Layout | None
    strengths: Mapping[str, float]
    size: tuple[int, int] | None = None
    """Height and width in pixels, where they are not the backbone's own."""


def read_engine(
    name: str | None,
    deployment: Path | None,
    words: Sequence[str],
    *,
    base: str | None,
    backbone: str | None,
) -> Engine:
    """Return what runs the networks.

    Raises
    ------
    InputError, UnknownNameError
        A deployment beside another backbone; options that the engine does not have.
    """
    from pcs_engine.opening import runs_deployments

    options = read_options(name, words)
    deployed = deployment is not None or (name is not None and runs_deployments(name))
    if deployed and (base is not None or backbone is not None):
        raise InputError("--deployment holds its own backbone: leave out --base and --backbone")
    return Engine(name, deployment, options, deployed)


def read_spared(engine: Engine, quantize: str, offload: str) -> dict[str, str]:
    """Return how the networks spare memory, as options that open them.

    Raises
    ------
    InputError
        An engine or a deployment runs the networks, which holds them in its own way.
    """
    spared = {k: v for k, v in (("quantize", quantize), ("offload", offload)) if v}
    if spared and (engine.name is not None or engine.deployed):
        what = "a deployment" if engine.name is None else f"--engine {engine.name}"
        raise InputError(
            f"{what} holds weights in its own way: leave out --{' and --'.join(spared)}"
        )
    return spared


def read_numbers(
    preset: Preset,
    personalization: Personalization | None,
    *,
    steps: int | None,
    scale: float | None,
    scheduler: str | None,
    negative: str | None,
    base: str | None = None,
) -> SampleSettings:
    """Return the numbers of the drawing: as given, else the preset's, else the recipe's.

    Raises
    ------
    UnknownNameError, CapabilityError
        No such scheduler, or one that does not fit the backbone.
    """
    from pcs_core.data import SampleSettings

    recipe = personalization.recipe.sample if personalization else SampleSettings()
    usual = preset.over(recipe)
    return SampleSettings(
        steps=usual.steps if steps is None else steps,
        scale=usual.scale if scale is None else scale,
        scheduler=read_scheduler(
            usual.scheduler if scheduler is None else scheduler, personalization, base
        ),
        negative=usual.negative if negative is None else negative,
    )


def read_scheduler(name: str, personalization: Personalization | None, base: str | None) -> str:
    """Return the scheduler's id on what draws, whose weights are not read; ``name`` where none knows it."""
    from pcs_core.assembly.target import id_and_family
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if "check_scheduler" not in known.ids("services"):
        return name
    _, family = id_and_family(personalization.backbone if personalization else base, known)
    checked: str = known.get("services", "check_scheduler")(name, family)
    return checked


def split_words(
    words: Sequence[str], base: str | None, backbone: str | None
) -> tuple[Path | None, str]:
    """Return the artifact's folder (None with --base) and the prompt.

    Raises
    ------
    InputError
        One of the two is missing, or there is more.
    """
    if base is not None:
        if backbone is not None:
            raise InputError("--base names the backbone already: leave out --backbone")
        if len(words) == 1:
            return None, words[0]
        if len(words) == 2 and Path(words[0]).is_dir():
            raise InputError(
                f"--base {base} draws untuned: leave out {words[0]!r}, "
                "or leave out --base to draw with it"
            )
        raise InputError(f"--base takes one PROMPT, got {len(words)} words: put it in quotes")
    if len(words) == 2:
        return Path(words[0]), words[1]
    if len(words) == 1:
        what = "PROMPT" if Path(words[0]).is_dir() else "DIR"
        raise InputError(
            f"{what} is missing: pcs sample DIR PROMPT, or pcs sample --base mini PROMPT"
        )
    raise InputError(f"DIR and one PROMPT are wanted, got {len(words)} words: put it in quotes")


def read_folders(artifact: Path | None, added: Sequence[Path]) -> tuple[Path, ...]:
    """Return the folders of all that draws together.

    Raises
    ------
    InputError
        Something is added to the untuned base.
    """
    if artifact is None and added:
        raise InputError(
            f"--base draws untuned, so nothing is added to it: pcs sample {added[0]} PROMPT draws with one"
        )
    return () if artifact is None else (artifact, *added)


def stack_notes(
    personalization: Personalization | None, folders: Sequence[Path], prompt: str
) -> list[str]:
    """Return what is to be known of artifacts that draw together: new tokens, and tokens not in the prompt."""
    from pcs_core.backbone import names_token
    from pcs_core.storage.manifest import read_manifest

    notes = []
    parts = personalization.parts if personalization else ()
    for folder, (_, part) in zip(folders, parts, strict=False):
        tokens = [concept.token for concept in part.concepts]
        before = [concept.token for concept in read_manifest(folder.expanduser()).concepts]
        notes += [
            f"{folder} calls its subject {old} as another does: here it is {new}"
            for old, new in zip(before, tokens, strict=True)
            if old != new
        ]
        if tokens and not any(names_token(prompt, token) for token in tokens):
            notes.append(
                f"the prompt does not name {' or '.join(tokens)} of {folder}: only what it changes in the "
                "network itself shows"
            )
    return notes


def read_layout(
    file: Path | None, prompt: str, personalization: Personalization | None, preset: Preset
) -> Layout | None:
    """Return the layout in ``file``, its phrases found in ``prompt``, if what draws reads one."""
    from pcs_cli.layouts import load_layout
    from pcs_engine.opening import check_layout

    if file is None:
        for use in preset.uses:
            if use.technique.reads_layout:
                notice(
                    f"{use.technique.id} does nothing without --layout FILE.json: it has no boxes"
                )
        return None
    layout = load_layout(file.expanduser())
    check_layout(layout, [prompt], personalization, preset.uses)
    return layout


def read_strengths(
    words: Sequence[str],
    personalization: Personalization | None,
    preset: Preset,
    folders: Sequence[Path] = (),
) -> dict[str, float]:
    """Return name -> value of the words ``NAME=VALUE``; the first folder's name means all uses of its artifact.

    Raises
    ------
    InputError
        Not of this form, no finite number, a name given twice, or one that nothing drawn reads.
    """
    from pcs_engine.strengths import part_strengths

    recipe = () if personalization is None else personalization.recipe.uses
    strengths = numbers_by_name(words)
    if personalization is not None and folders:
        first = personalization.parts[0][1] if personalization.parts else personalization
        strengths = of_first(strengths, folders[0].expanduser().resolve().name, first)
    part_strengths(strengths, (*recipe, *preset.uses))
    return strengths


def of_first(
    strengths: Mapping[str, float], label: str, first: Personalization
) -> dict[str, float]:
    """Return ``strengths`` with "<label>" and "<label>:<use>" as the first artifact's uses are called alone."""
    from pcs_engine.strengths import strength_names

    known = strength_names(first.recipe.uses)
    read: dict[str, float] = {}
    for name, value in strengths.items():
        if name == label and name not in known and known:
            read |= dict.fromkeys(dict.fromkeys(known.values()), value)
        else:
            short = name.removeprefix(f"{label}:")
            read[short if short in known else name] = value
    return read


def read_preset(
    name: str | None,
    added: Sequence[str],
    changes: Sequence[str],
    personalization: Personalization | None,
    base: str | None,
) -> Preset:
    """Return the preset ``name`` with the techniques of ``--with`` behind it and ``--set`` applied.

    Raises
    ------
    PcsError
        No such preset, technique or setting; something wrong in its file.
    """
    from pcs_core.assembly import load_preset
    from pcs_core.data import Preset

    if name is None and not added:
        if changes:
            raise InputError(f"--set {changes[0]}: it changes what --preset and --with add")
        return Preset("none")
    backbone = personalization.backbone.id if personalization else base
    return load_preset(name, backbone=backbone, techniques=added, overrides=changes)


def read_options(engine: str | None, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of an engine from words ``KEY=VALUE``.

    Raises
    ------
    InputError, UnknownNameError
        No engine that has options, no such option, or another type than its default.
    """
    from pcs_cli.merge import read_settings
    from pcs_core.catalogue import catalogue
    from pcs_engine.opening import runs_deployments

    if not words:
        return {}
    if engine is None:
        raise InputError(f"--option {words[0]}: name its engine with --engine")
    noun = "loaders" if runs_deployments(engine) else "engines"
    function = catalogue().get(noun, engine)
    return read_settings(
        words, engine, function, option="--option", given=("id", "device", "dtype")
    )
