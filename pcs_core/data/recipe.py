"""A resolved recipe: an ordered list of technique instances, phases and numbers. No code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.technique import Technique


RENDERED = "rendered"
"""Role in a phase's ``batch`` of the rows that a renderable gives; no example has it."""


ALL = -1
"""Count in a phase's ``batch`` of a role whose examples all stand in every step; "all" in a file."""


@dataclass(frozen=True, slots=True)
class Use:
    """One ``[[use]]``: ``name`` tells two uses of one technique apart in globs, losses and files."""

    name: str
    technique: Technique


@dataclass(frozen=True, slots=True)
class FurtherModel:
    """One ``[[model]]``: a frozen network that techniques ask by ``name`` in a step of the fit.

    ``backbone`` is an id, a folder or a hub id ("": the one that is fitted). On it acts nothing, or the
    ``artifact`` in that folder, or a fit of ``system`` on the same subject, made before this one.
    """

    name: str
    backbone: str = ""
    artifact: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One ``[[phase]]`` of the fit.

    ``batch`` maps a role to its rows per subject and step (:data:`ALL`: each of its examples once). ``lr``
    maps a glob over ``"<use>/<site>/<param>"`` to a learning rate; ``train`` globs of what trains;
    ``losses`` globs of the terms that count. ``warmup`` steps bring the rates up, the share ``decay`` of
    the steps at the end brings them down, ``schedule`` is the shape of that fall and ``floor`` where it
    ends, as a share of the rate. ``ema`` is the decay of a moving average of what trains, which the phase
    ends with (0: none). ``size`` is the shorter side of its pictures in pixels (0: the backbone's own
    size). ``reach`` says of losses, by glob, which of the globs in ``train`` their gradient
    moves; a loss that it does not name moves all. ``clip`` is the gradient norm per subject (0: off).
    ``edits`` globs the uses whose edits act (what trains needs to act). ``snapshot`` keeps the parameters
    under a name when the phase begins; ``restore`` brings those of that name back when it ends. Role
    "rendered" in ``batch`` renders the fusion's ``source``. ``pretrain`` marks a phase that ``pcs pretrain``
    runs, once for all subjects, on the data set ``source``; a fit passes it over.
    """

    name: str
    steps: int
    batch: Mapping[str, int] = field(default_factory=lambda: {"subject": 1})
    lr: Mapping[str, float] = field(default_factory=lambda: {"*": 1e-4})
    train: tuple[str, ...] = ("*",)
    losses: tuple[str, ...] = ("*",)
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    decay: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    edits: tuple[str, ...] = ("*",)
    snapshot: str = ""
    restore: str = ""
    pretrain: bool = False
    source: str = ""
    schedule: str = "constant"
    floor: float = 0.0
    ema: float = 0.0
    size: int = 0
    reach: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """``[sample]``: number of steps, guidance scale, scheduler id, default negative prompt."""

    steps: int = 50
    scale: float = 7.5
    scheduler: str = "ddim"
    negative: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A resolved recipe.

    ``id``, ``name``, ``paper``, ``scope``, ``framework`` ("TTF", "PTA", "hybrid"), ``backbones`` (families it
    is meant for), ``notes`` (what is known about the paper's numbers). ``uses``, ``phases``, ``sample``
    are what the engine runs. ``source`` is the TOML as given, ``document`` the resolved tables
    (JSON-able), from which the recipe can be built again; ``hash`` sha256 over the document.
    Of a fit's rows the share ``caption_dropout`` is shown with an empty caption, drawn for each.
    ``origins`` says where each number was written, ``"<use>.<setting>"``, ``"<phase>.<field>"`` or
    ``"sample.<field>"`` -> ``"file:line"``, a profile or ``--set``; what is not there is a default.
    ``check`` is the ``[check]`` table as written, ``not_on`` a family of backbones -> why it cannot run there
    (empty where the recipe was read from a document: what was trained runs where it was trained).
    ``models`` are what a fit asks beside the network that it trains; a drawing needs none of them.
    """

    id: str
    name: str = ""
    paper: str = ""
    scope: tuple[str, ...] = ()
    framework: str = "TTF"
    backbones: tuple[str, ...] = ()
    notes: str = ""
    uses: tuple[Use, ...] = ()
    phases: tuple[Phase, ...] = ()
    models: tuple[FurtherModel, ...] = ()
    cycles: int = 1
    caption_dropout: float = 0.0
    sample: SampleSettings = field(default_factory=SampleSettings)
    source: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    hash: str = ""
    path: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    not_on: Mapping[str, str] = field(default_factory=dict)
