"""Opening what the user named: backbones, artifacts, prompts, tokens. Refuses early and clearly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import names_token, word_in
from pcs_core.data import RENDERED, Layout
from pcs_core.data.later import entries_of
from pcs_core.data.marks import checked_box, checked_points
from pcs_core.errors import (
    ArtifactError,
    CapabilityError,
    InputError,
    UnknownNameError,
    check_utf8,
    nearest,
)
from pcs_engine.given import given_picture
from pcs_engine.known_backbones import location_of, remember

if TYPE_CHECKING:
    import torch

    from pcs_core.backbone import Backbone
    from pcs_core.catalogue import Catalogue
    from pcs_core.data import Personalization, Recipe, Subject, Use

_log = logging.getLogger("pcs.backbones")


@checks_arguments
def open_backbone(
    name: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, **options: Any
) -> Backbone:
    """Open an installed backbone by id, a folder, or a hub id.

    ``options`` are the layout's own: ``quantize`` and ``offload`` of folders in diffusers' layout. Empty ones
    are left out.

    Raises
    ------
    UnknownNameError
        Neither an id, nor a folder, nor the form of a hub id; names the nearest id.
    InputError
        The folder is damaged, or not named in UTF-8, or the hub cannot be reached; no such device.
    CapabilityError
        The layout has no such option, or its option needs what is not here.
    """
    from pcs_core.catalogue import catalogue

    options = {key: value for key, value in options.items() if value}
    check_utf8(name, what="the backbone")
    check_device(device)
    known = catalogue()
    ids = known.ids("backbones")
    location: Any = name
    check_backbone_name(name, known)
    if str(name) in ids:
        location = known.get("backbones", str(name))()
        if not isinstance(location, str | Path):
            if options:
                raise CapabilityError(
                    f"backbone {str(name)!r} is built as it is: leave out {' and '.join(options)}"
                )
            return location  # type: ignore[no-any-return]
    for loader in known.ids("loaders"):
        load = known.get("loaders", loader)
        if options and not options.keys() <= signature(load).parameters.keys():
            continue
        opened = load(location, id=str(name), device=device, dtype=dtype, **options)
        if opened is not None:
            if str(name) not in ids:
                remember(opened.card, name)
            return opened  # type: ignore[no-any-return]
    if options:
        raise CapabilityError(
            f"backbone {str(name)!r}: no installed plugin opens this layout with {' and '.join(options)}"
        )
    raise InputError(
        f"backbone {str(name)!r}: no installed plugin knows this layout "
        f"(layouts known: {', '.join(known.ids('loaders')) or 'none; install pcs-diffusers'})"
    )


def check_backbone_name(name: str | Path, known: Catalogue) -> None:
    """Refuse what is neither the id of an installed backbone, nor a folder, nor of the form of a hub id.

    Raises
    ------
    UnknownNameError
        Names the nearest id, or what to install.
    """
    from pcs_core.catalogue.known import absent

    ids, text = known.ids("backbones"), str(name)
    hub = text.count("/") == 1 and not text.startswith((".", "/")) and not text.endswith("/")
    if text in ids or Path(name).exists() or hub:
        return
    if (missing := absent(known, "backbone", text)) is not None:
        raise missing
    what = "folder" if "/" in text else "backbone"
    raise UnknownNameError(
        f"no {what} {text!r}{nearest(text, ids)} "
        f"(installed: {', '.join(ids) or 'none'}; or a folder, or a hub id)"
    )


def check_device(device: str) -> None:
    """Refuse a name that is no device's.

    Raises
    ------
    InputError
        Names it.
    """
    from torch import device as as_device

    try:
        as_device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r}: give cpu, cuda, cuda:0, mps or the like") from error


@checks_arguments
def open_engine(backbone: Backbone, engine: str, **options: Any) -> Backbone:
    """Return ``backbone`` with its networks run by an installed engine, as ``compile``.

    ``options`` are the engine's. Keep what is returned: what an engine has made ready stays with it.

    Raises
    ------
    UnknownNameError
        No installed plugin holds this engine.
    CapabilityError
        The engine cannot run this backbone.
    """
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if engine not in known.ids("engines"):
        if engine in _formats():
            raise InputError(
                f"engine {engine!r} runs a deployment: name its folder, "
                f"which `pcs export SYSTEM --to {engine} --out DIR` makes"
            )
        raise _no_engine(engine)
    opened: Backbone = known.get("engines", engine)(backbone, **options)
    return opened


def runs_deployments(engine: str) -> bool:
    """Return whether ``engine`` runs only what ``pcs export --to ENGINE`` wrote.

    Raises
    ------
    UnknownNameError
        No installed plugin holds this engine.
    """
    from pcs_core.catalogue import catalogue

    if engine in _formats():
        return True
    if engine not in catalogue().ids("engines"):
        raise _no_engine(engine)
    return False


def _formats() -> list[str]:
    from pcs_core.catalogue import catalogue

    known = catalogue()
    return [id for id in known.ids("exporters") if id in known.ids("loaders")]


def _no_engine(engine: str) -> UnknownNameError:
    from pcs_core.catalogue import catalogue

    known = sorted({*_formats(), *catalogue().ids("engines")})
    return UnknownNameError(
        f"no engine {engine!r}{nearest(engine, known)} "
        f"(installed: {', '.join(known) or 'none; install pcs-onnx'})"
    )


def open_deployment(
    folder: str | Path | None, engine: str | None, *, device: str = "cpu", **options: Any
) -> Backbone:
    """Open what ``pcs export --to ENGINE`` wrote, as a backbone. Without ``engine``: whichever reads it.

    ``options`` are of the named engine: further keywords of its loader, or, if it has no format of its own and
    runs what another's exporter wrote, its own.

    Raises
    ------
    UnknownNameError
        No installed plugin reads deployments of this engine.
    InputError
        No folder is given, or it is no deployment of this engine.
    """
    from pcs_core.catalogue import catalogue

    known, formats = catalogue(), _formats()
    if engine is not None and not runs_deployments(engine):
        return open_engine(open_deployment(folder, None, device=device), engine, **options)
    if options and engine is None:
        raise InputError(f"option {min(options)!r}: name its engine")
    if folder is None:
        raise InputError(
            f"engine {engine!r} runs a deployment: name its folder, "
            f"which `pcs export SYSTEM --to {engine} --out DIR` makes"
        )
    for name in formats if engine is None else [engine]:
        opened = known.get("loaders", name)(
            folder, id=str(folder), device=device, dtype=None, **options
        )
        if opened is not None:
            return opened  # type: ignore[no-any-return]
    raise InputError(
        f"{str(folder)!r} is no deployment{f' of engine {engine!r}' if engine else ''}: "
        f"`pcs export SYSTEM --to {engine or 'onnx'} --out DIR` makes one"
    )


def resolve_artifact(
    artifact: Personalization | Path | str | Sequence[Personalization | Path | str] | None,
) -> Personalization | None:
    """Load a personalization from its folder if that is what was given; of several make one to draw with."""
    if isinstance(artifact, Sequence) and not isinstance(artifact, str):
        from pcs_core.catalogue import catalogue

        stack = catalogue().get("services", "stack_personalizations")
        return stack(artifact)  # type: ignore[no-any-return]
    if isinstance(artifact, str | Path):
        from pcs_core.storage import load

        return load(Path(artifact))
    return artifact


def resolve_backbone(
    backbone: Backbone | str | Path | None, artifact: Personalization | None
) -> Backbone:
    """Open the backbone asked for, or the one ``artifact`` was made on, and compare hashes.

    Raises
    ------
    ArtifactError
        The hash is not that of the backbone the personalization was made on; or nothing is said, and that
        one was never opened here.
    """
    if backbone is None:
        if artifact is None:
            raise InputError("say which backbone to draw with")
        backbone = location_of(artifact.backbone)
    opened: Any = open_backbone(backbone) if isinstance(backbone, str | Path) else backbone
    if artifact is not None and not is_of(artifact, opened):
        raise ArtifactError(
            f"this personalization was made on backbone {artifact.backbone.id!r} "
            f"(sha256 {artifact.backbone.hash[:12]}), {opened.card.id!r} has other weights "
            f"({opened.card.hash[:12]}): use the original, or fit again"
        )
    tell_storage(artifact, opened)
    return opened  # type: ignore[no-any-return]


def tell_storage(artifact: Personalization | None, backbone: Backbone) -> None:
    """Say that a drawing's weights are stored otherwise than those of the fit: pictures differ slightly."""
    fitted = "" if artifact is None else artifact.extra.get("weights", "")
    drawn = getattr(backbone, "stored_as", "")
    if artifact is not None and fitted != drawn:
        _log.warning(
            "%s was fitted on weights stored %s, and is drawn with weights stored %s: pictures differ slightly",
            artifact.subject or artifact.recipe.id,
            f"as {fitted}" if fitted else "in full",
            f"as {drawn}" if drawn else "in full",
        )


def is_of(artifact: Personalization, backbone: Backbone) -> bool:
    """Return whether ``artifact`` was made on ``backbone``: on the same weights.

    A backbone may have had another hash once (``former_hash``, asked only where today's is not the one).
    """
    if artifact.backbone.hash == backbone.card.hash:
        return True
    former = getattr(backbone, "former_hash", None)
    return former is not None and bool(former() == artifact.backbone.hash)


def check_prompts(prompts: Sequence[str], artifact: Personalization | None) -> None:
    """Refuse an empty list, an empty prompt, and a prompt without any of the tokens it should name."""
    if other := [p for p in prompts if not isinstance(p, str)]:
        raise InputError(f"the prompt {other[0]!r} is no text: give text, or a list of texts")
    if not prompts or any(not p.strip() for p in prompts):
        raise InputError("give a prompt that is not empty")
    if artifact is None or not artifact.concepts:
        return
    tokens = [c.token for c in artifact.concepts]
    for prompt in prompts:
        if not any(names_token(prompt, token) for token in tokens):
            raise InputError(
                f"the prompt {prompt!r} does not name the subject: write "
                f"{' or '.join(tokens)} where it should stand, e.g. 'a photo of {tokens[0]} on the beach'"
            )


def check_layout(
    layout: Layout | None,
    prompts: Sequence[str],
    artifact: Personalization | None,
    added: Sequence[Use] = (),
) -> None:
    """Refuse a layout that nothing reads, and a box whose phrase stands in none of the prompts.

    It is read by a use of the artifact's recipe, or by one that is ``added`` for the drawing. A control
    picture that is missing is said: what reads one adds nothing without.
    """
    uses = (*(artifact.recipe.uses if artifact is not None else ()), *added)
    if layout is not None and not isinstance(layout, Layout):
        raise InputError(f"layout={layout!r}: give a Layout, of boxes and points, or a picture")
    who = "the untuned backbone" if artifact is None else f"{artifact.recipe.id!r}"
    check_control_picture(layout, uses, who)
    placed = layout is not None and (layout.picture is None or layout.boxes or layout.points)
    if placed and not any(use.technique.reads_layout for use in uses):
        raise InputError(
            f"{who} reads no layout: leave it out, add a technique that does (as guidance.layout), or fit a "
            "system with one (as layout-control)"
        )
    if layout is not None:
        checked_points(layout.points, "the layout's points")
    for box in layout.boxes if layout else ():
        checked_box(box.box, f"the layout's box of {box.phrase!r}")
        if not any(word_in(prompt, box.phrase) for prompt in prompts):
            words = {w.strip(".,;:!?") for prompt in prompts for w in prompt.split()}
            raise InputError(
                f"the layout's phrase {box.phrase!r} is not in the prompt "
                f"{prompts[0]!r}{nearest(box.phrase, words)}: write it as it is written there"
            )


def check_control_picture(layout: Layout | None, uses: Sequence[Use], who: str) -> None:
    """Refuse a control picture that nothing of ``uses`` reads, and say it where one is missing.

    Raises
    ------
    InputError
        Nothing reads it, or it is no picture.
    """
    readers = [use.technique.id for use in uses if use.technique.reads_picture]
    if layout is None or layout.picture is None:
        if readers:
            _log.warning(
                "%s adds nothing: no control picture is given (--layout PICTURE)", readers[0]
            )
        return
    if not readers:
        raise InputError(
            f"{who} reads no control picture: leave it out, or draw with a control network or a T2I-Adapter "
            "that was imported (pcs import FILE, then --add DIR)"
        )
    if given_picture(layout.picture, "the layout's picture").dim() != 3:
        raise InputError("the layout's picture is a clip: give one picture [3 h w]")


def check_sampler(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse a scheduler that ``backbone`` cannot draw with: a fit would tell so after its last step.

    Raises
    ------
    UnknownNameError
        No such scheduler id; names the nearest, and where the recipe says it.
    CapabilityError
        It does not fit the backbone, or the backbone's own has a setting that cannot be used.
    """
    try:
        backbone.sampler(recipe.sample.scheduler, recipe.sample.steps)
    except (UnknownNameError, CapabilityError) as error:
        raise type(error)(f"{recipe.id}: sample.scheduler: {error}") from error


def needs_pictures(recipe: Recipe) -> bool:
    """Return whether a fit of ``recipe`` needs pictures: it trains, and renders nothing itself."""
    trained = [phase for phase in recipe.phases if phase.steps]
    return bool(trained) and not any(RENDERED in phase.batch for phase in trained)


def check_subjects(subjects: Sequence[Subject], backbone: Backbone, *, trains: bool = True) -> None:
    """Refuse tokens that already mean something, and what cannot be told apart.

    A recipe that ``trains`` nothing needs no picture.

    Raises
    ------
    InputError
        No subject, no image, two subjects of one name, a token equal to a noun or part of it, or a
        token that the tokenizer encodes as one existing entry.
    """
    if not subjects:
        raise InputError("give at least one subject folder")
    names = [s.name for s in subjects]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two subjects are called {name!r}: rename one folder")
    for subject in subjects:
        if trains and not subject.images and not subject.sources:
            raise InputError(f"subject {subject.name!r} has no image")
        if (
            any(image.dim() == 4 for image in entries_of(subject.images))
            and len(backbone.latent_shape) == 3
        ):
            raise InputError(
                f"subject {subject.name!r} holds clips, and backbone {backbone.card.id!r} draws "
                "pictures: choose a video backbone, or give single frames"
            )
        tokens = [c.token for c in subject.concepts]
        for concept in subject.concepts:
            if tokens.count(concept.token) > 1:
                raise InputError(
                    f"subject {subject.name!r}: two concepts share the token {concept.token!r}"
                )
            if concept.token.strip().lower() == concept.noun.strip().lower():
                raise InputError(
                    f"the token {concept.token!r} equals the noun: choose another, e.g. '<{concept.noun}>'"
                )
            if concept.token.strip().lower() in concept.noun.lower():
                raise InputError(
                    f"the token {concept.token!r} is part of the noun {concept.noun!r}: choose "
                    f"another, e.g. '<{concept.token.strip('<>')}>'"
                )
            if backbone.tokenizer.is_entry(concept.token):
                raise InputError(
                    f"the token {concept.token!r} is a word backbone {backbone.card.id!r} already "
                    f"knows: choose another, e.g. '<{concept.token.strip('<>')}>'"
                )
