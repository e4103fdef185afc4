"""The hooks: five verbs of a run, and the nouns of the catalogue.

Level 1, the *catalogue* (once per process): plugin modules named by the entry-point group
``pcs.plugins`` say what they hold, as ids mapped to ``"module:attribute"`` strings, so that
listing ids imports no torch; showing a technique's settings or a system's status does.

Level 2, the *run* (once per fit or sample): the technique instances of a recipe implement the
five verbs. How results merge is the business of :mod:`pcs_core.merge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pluggy

from pcs_core.errors import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP

if TYPE_CHECKING:
    from pcs_core.data import (
        Features,
        FitStep,
        Fusion,
        Loss,
        MaskQuery,
        Masks,
        Prediction,
        Run,
        SampleStep,
        Subject,
    )

CATALOGUE_PROJECT = "pcs.catalogue"
RUN_PROJECT = "pcs.run"

catalogue_hookspec = pluggy.HookspecMarker(CATALOGUE_PROJECT)
catalogue_hookimpl = pluggy.HookimplMarker(CATALOGUE_PROJECT)
"""Marks a module-level function of a plugin module as an answer to the catalogue."""

hookspec = pluggy.HookspecMarker(RUN_PROJECT)
hookimpl = pluggy.HookimplMarker(RUN_PROJECT)
"""Marks a method of a technique as an implementation of one of the five verbs."""


class CatalogueSpecs:
    """Level 1: what a plugin holds. Every hook returns ids mapped to ``"module:attribute"``."""

    @catalogue_hookspec
    def techniques(self) -> str | Mapping[str, str]:
        """The name of a package: each class in it with ``id = "group.name"`` is a technique.

        Its modules are read as text, not imported. Or technique ids -> their
        :class:`~pcs_core.technique.Technique` classes, as everywhere else.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def backbones(self) -> Mapping[str, str]:
        """Backbone id -> a function of no argument returning a folder or a ``Backbone``."""
        raise NotImplementedError

    @catalogue_hookspec
    def loaders(self) -> Mapping[str, str]:
        """Layout name -> a function that reads a backbone, or says that it is no such layout.

        ``(folder or hub id, *, id, device, dtype) -> Backbone | None``; ``None`` means
        "not my layout"; the first loader that answers wins.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def profiles(self) -> Mapping[str, str]:
        """Backbone id or family -> its :class:`~pcs_core.data.Profile`: numbers and words it wants."""
        raise NotImplementedError

    @catalogue_hookspec
    def families(self) -> Mapping[str, str]:
        """Layout name -> a function that says which family a location is of, without its weights.

        ``(folder, file or hub id) -> family | None``; ``None`` means "not my layout". Nothing is
        downloaded.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def feature_models(self) -> Mapping[str, str]:
        """Id -> a function of no argument that loads a frozen, shared model."""
        raise NotImplementedError

    @catalogue_hookspec
    def adapters(self) -> Mapping[str, str]:
        """``"<system>@<backbone id>"`` -> a function of no argument: the folder of its weights.

        What ``pcs pretrain`` wrote: a pre-trained system needs it on that backbone.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def optimizers(self) -> Mapping[str, str]:
        """Id -> a ``torch.optim.Optimizer`` class or factory."""
        raise NotImplementedError

    @catalogue_hookspec
    def exporters(self) -> Mapping[str, str]:
        """Id -> a function that writes an attached system in another tool's format.

        ``(attachment, folder, recipe, features, baked, *, options) -> manifest``; ``features`` are
        stacked [1 ...], ``baked`` the names of the tensors that no subject changes.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def engines(self) -> Mapping[str, str]:
        """Id -> a function that runs a backbone's networks in another way.

        ``(backbone, *, options) -> Backbone``; it refuses by name a backbone that it cannot run.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def importers(self) -> Mapping[str, str]:
        """Id -> a function that reads another tool's file as an artifact."""
        raise NotImplementedError

    @catalogue_hookspec
    def metrics(self) -> Mapping[str, str]:
        """Id -> a function that scores pictures."""
        raise NotImplementedError

    @catalogue_hookspec
    def datasets(self) -> Mapping[str, str]:
        """Id -> a function of no argument returning a data set, pool or prompt suite."""
        raise NotImplementedError

    @catalogue_hookspec
    def commands(self) -> Mapping[str, str]:
        """Command name -> a typer sub-application."""
        raise NotImplementedError

    @catalogue_hookspec
    def presets(self) -> Mapping[str, str]:
        """Preset id -> the path of its TOML file: techniques and numbers for ``pcs sample --preset``."""
        raise NotImplementedError

    @catalogue_hookspec
    def mergers(self) -> Mapping[str, str]:
        """Method id -> a function ``(personalizations, backbone, **settings) -> Personalization``."""
        raise NotImplementedError

    @catalogue_hookspec
    def watchers(self) -> Mapping[str, str]:
        """Id -> a function ``(subjects, backbone) -> keep``, which chooses among a fit's checkpoints."""
        raise NotImplementedError

    @catalogue_hookspec
    def services(self) -> Mapping[str, str]:
        """Name -> what the core or the command asks for by this name, as ``merge_personalizations``.

        ``pcs_core`` gives the names that it knows of as its own: ``__init__.pyi`` lists them.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def checks(self) -> Mapping[str, str]:
        """System id -> the function that runs its defining check."""
        raise NotImplementedError

    @catalogue_hookspec
    def checkers(self) -> Mapping[str, str]:
        """Id -> a function of a system's id, which returns what runs the ``[check]`` of its recipe.

        It has ``run(neutral=...)`` and ``against(neighbour)``, each a report, and its ``table``.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def claims(self) -> Mapping[str, str]:
        """Claim id -> a function of an observed fit and settings, which yields rows with bounds.

        A recipe's ``[check]`` names claims.
        """
        raise NotImplementedError

    @catalogue_hookspec
    def diagnoses(self) -> Mapping[str, str]:
        """Subject -> a function of no argument: lines for ``pcs doctor``.

        Each is a state, "ok", "note", "not installed" or "broken", and a text, which says what to do where
        it is not "ok".
        """
        raise NotImplementedError

    @catalogue_hookspec
    def recipes(self) -> Sequence[str]:
        """Names of packages that hold ``*.toml`` recipes."""
        raise NotImplementedError


class RunSpecs:
    """Level 2: the five verbs. A technique implements those it needs, with any subset of arguments."""

    @hookspec
    def mask(self, run: Run, query: MaskQuery) -> Masks | None:
        """Say where each concept lives. Same key: product; new key: union.

        The key ``"loss"`` weighs the reconstruction error per element. Called at the moments
        that the technique lists in ``mask_moments``.
        """

    @hookspec
    def extract(self, run: Run, subject: Subject, masks: Masks, moment: str) -> Features | None:
        """Say what is worth knowing about a subject. Disjoint union of keys."""

    @hookspec
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Say what is plugged into the network.

        A pure constructor: no training, no drawing of random numbers except through
        ``run.init_rng``.
        """

    @hookspec
    def regularize(self, run: Run, step: FitStep) -> Loss | Sequence[Loss] | None:
        """Return named, weighted loss terms. Summed; duplicate names are an error.

        `step.evaluate` asks the network again; with `model=` the base, or a further model that the recipe
        names, about texts that `step.encode(texts, model=...)` read for it.
        """

    @hookspec(firstresult=True)
    def sample(self, run: Run, step: SampleStep) -> Prediction | None:
        """Return the prediction for this sampling step; wrappers transform it."""


RUN_HOOKS: tuple[str, ...] = ("extract", "fuse", "regularize", "mask", "sample")
"""The five verbs. A sixth needs a decision record."""


class _RunManager(pluggy.PluginManager):
    """Looks a technique's class through once per process, not once per run: it has hundreds of names."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        kind: type = type(plugin)
        if name in _no_verbs(kind) and name not in getattr(plugin, "__dict__", {}):
            return None
        return super().parse_hookimpl_opts(plugin, name)


@lru_cache(maxsize=1024)
def _no_verbs(kind: type) -> frozenset[str]:
    """Names of a class that implement no hook of a run."""
    look = pluggy.PluginManager(RUN_PROJECT).parse_hookimpl_opts
    return frozenset(name for name in dir(kind) if look(kind, name) is None)


def run_manager() -> Any:
    """Return a fresh ``PluginManager`` for one run, holding the five specs and no plugin."""
    manager = _RunManager(RUN_PROJECT)
    manager.add_hookspecs(RunSpecs)
    return manager


def catalogue_manager() -> Any:
    """Return a fresh ``PluginManager`` for the catalogue, holding its specs and no plugin."""
    manager = pluggy.PluginManager(CATALOGUE_PROJECT)
    manager.add_hookspecs(CatalogueSpecs)
    return manager
