"""Everything about a fit that can be refused, refused before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_cli.fit_keeping import count_kept
from pcs_cli.fit_settings import class_pictures_settings, masked_line, with_masked_loss
from pcs_cli.fit_work import choose_destination
from pcs_cli.opening import backbone_name, device_name
from pcs_cli.options import PRECISIONS, check_precision
from pcs_cli.output_folder import Destination
from pcs_cli.sizes import read_size
from pcs_core.errors import InputError, NotInstalledError

if TYPE_CHECKING:
    from pcs_cli.fit_start import FitStart
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Recipe, Subject
    from pcs_folders.uses import FileUse


@dataclass(frozen=True, slots=True)
class FitPlan:
    """A fit that nothing speaks against."""

    recipe: Recipe
    subjects: tuple[Subject, ...]
    backbone: Backbone
    seed: int
    device: str
    destination: Destination
    adapter: Path | None = None
    precision: str = "fp32"
    checkpointing: bool = False
    uses: tuple[tuple[FileUse, ...], ...] = ()
    """Of each folder, its files and what they are read as."""
    crop: str = "auto"
    start: Personalization | None = None
    """The artifact that the fit goes on with."""
    keep_every: int | None = None
    """Steps between two artifacts along the way."""
    size: tuple[int, int] | None = None
    """Height and width of the pictures, where they are not the backbone's own."""
    buckets: bool = False
    said: tuple[str, ...] = ()
    """What options of the command make of the recipe, a sentence each."""


def shown_as(plan: FitPlan) -> dict[str, Any]:
    """Return how pictures are shown, where it is not the usual way."""
    usual = {"crop": "auto", "size": None, "buckets": False, "weights": ""}
    said = {
        "crop": plan.crop,
        "size": plan.size and list(plan.size),
        "buckets": plan.buckets,
        "weights": getattr(plan.backbone, "stored_as", ""),
    }
    return {key: value for key, value in said.items() if value != usual[key]}


# long: an option of the command each, checked in the order of the command line
def plan_fit(
    start: FitStart,
    *,
    out: Path,
    noun: str | None,
    token: str | None,
    overrides: Sequence[str],
    seed: int,
    device: str,
    resume: bool,
    overwrite: bool,
    adapter: Path | None = None,
    precision: str = "fp32",
    checkpointing: bool = False,
    quantize: str = "",
    offload: str = "",
    have: str | None = None,
    crop: str = "auto",
    size: str | None = None,
    buckets: bool = False,
    keep_every: int | None = None,
    class_pictures: Path | None = None,
    masked_loss: bool = False,
    opened: Backbone | None = None,
) -> FitPlan:
    """Check every argument of a fit and return what it works with. Makes nothing.

    ``opened`` is the backbone of ``start`` where it is open already, on ``device``.

    Raises
    ------
    PcsError
        The first thing that is wrong, and what to do.
    """
    from pcs_engine.cropping import check_crop

    check_precision(precision)
    if have is not None:
        check_have(precision, checkpointing, quantize, offload)
    check_crop(crop)
    chosen_size, _ = read_size(size, None)
    folders = [folder.expanduser() for folder in start.folders]
    check_names(folders)
    inputs = [*folders, *([] if class_pictures is None else [class_pictures])]
    target = choose_destination(out, overwrite=overwrite, resume=resume, inputs=inputs)

    from pcs_core.assembly import load_recipe
    from pcs_engine import open_backbone
    from pcs_engine.adapters import needs_adapter
    from pcs_engine.continuing import continued_subject
    from pcs_engine.drawn_size import sized
    from pcs_engine.further import check_models
    from pcs_engine.processes import check_shared, place
    from pcs_folders.listing import list_folder
    from pcs_folders.subjects import read_listing

    name = backbone_name(start.backbone)
    recipe = load_recipe(start.source, backbone=name, overrides=() if masked_loss else overrides)
    if masked_loss:  # before the settings, which may be of the use that it adds
        recipe = load_recipe(with_masked_loss(recipe), overrides=overrides)
    if class_pictures is not None:
        recipe = load_recipe(
            recipe, overrides=class_pictures_settings(recipe, class_pictures, folders)
        )
    if keep_every is not None:
        count_kept(recipe, keep_every)
    check_shared(recipe.phases, recipe.uses, place()[1])
    check_models(recipe, name)
    # names first: they cost nothing, and a backbone takes seconds to open
    words = [start.words_of(folder) for folder in folders or (None,)]
    listed = [
        list_folder(folder, noun=noun or said, token=token or called)
        for folder, (said, called) in zip(folders, words, strict=False)
    ]
    said, called = words[0]
    bare = (
        () if folders else without_folders(recipe, target, noun=noun or said, token=token or called)
    )
    chosen = device_name(device)
    more: list[str] = []
    if have is not None:
        pictures = max((len(listing.images) for listing in listed), default=1)
        setting = chooser()(
            recipe,
            name,
            have,
            device=chosen,
            size=chosen_size,
            pictures=max(1, pictures),
            subjects=max(1, len(folders)),
            tell=more.append,
        )
        precision, checkpointing = setting.precision, setting.checkpointing
        quantize, offload = setting.quantize, setting.offload
    opened = opened or open_backbone(name, device=chosen, quantize=quantize, offload=offload)
    with sized(opened, chosen_size):
        height, width = opened.card.size
        readings = [read_listing(listing, (height, width)) for listing in listed]
        subjects = bare or tuple(reading.subject for reading in readings)
        more += [masked_line(subjects)] if masked_loss else []
        if quantize and precision == "fp32":
            precision = "fp16" if quantize == "fp16" else "bf16"
            more.append(f"weights are stored as {quantize}: products are {precision}")
        if quantize not in ("", *PRECISIONS) and not checkpointing:
            more.append(
                f"without --gradient-checkpointing a step keeps a copy in {precision} of every matrix stored "
                f"as {quantize}, which spares nothing in the fit"
            )
        if buckets:
            more += bucket_lines(recipe, subjects, opened)
    if start.artifact is not None:
        continued_subject(start.artifact, recipe, opened, subjects)
    if adapter is not None and not needs_adapter(recipe):
        raise InputError(f"{recipe.id!r} is not pre-trained: leave out --adapter")
    return FitPlan(
        recipe,
        subjects,
        opened,
        seed,
        chosen,
        target,
        adapter,
        precision,
        checkpointing,
        tuple(reading.uses for reading in readings),
        crop,
        start.artifact,
        keep_every,
        chosen_size,
        buckets,
        tuple(more),
    )


def check_have(precision: str, checkpointing: bool, quantize: str, offload: str) -> None:
    """Refuse options that ``--have`` chooses.

    Raises
    ------
    InputError
        Names those that are given too.
    """
    given = {
        "--precision": precision != "fp32",
        "--gradient-checkpointing": checkpointing,
        "--quantize": bool(quantize),
        "--offload": bool(offload),
    }
    if twice := [name for name, is_given in given.items() if is_given]:
        raise InputError(f"--have chooses {' and '.join(twice)}: leave out one or the other")


def chooser() -> Callable[..., Any]:
    """Return what chooses the options of ``--have``: a plugin that knows what a fit takes.

    Raises
    ------
    NotInstalledError
        There is none.
    """
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if "memory_setting" not in known.ids("services"):
        raise NotInstalledError(
            "--have needs pcs-memory, which is not installed (pip install ./plugins/pcs-memory)",
            "pcs-memory",
        )
    chosen: Callable[..., Any] = known.get("services", "memory_setting")
    return chosen


def bucket_lines(recipe: Recipe, subjects: Sequence[Subject], backbone: Backbone) -> list[str]:
    """Return how many pictures of each subject are shown at which size.

    Raises
    ------
    PcsError
        The backbone or a phase of the recipe has one size alone.
    """
    from pcs_engine.buckets import bucket_line, check_buckets, picture_sizes

    check_buckets(recipe, recipe.phases)
    return [f"{s.name}: {bucket_line(picture_sizes(s, backbone))}" for s in subjects]


def without_folders(
    recipe: Recipe,
    target: Destination,
    *,
    noun: str | None,
    token: str | None,
) -> tuple[Subject, ...]:
    """Return one subject without pictures, named after the result.

    A system that renders what it learns from is told by ``noun`` alone what that is.

    Raises
    ------
    InputError
        A system that learns from pictures, or only one of noun and token.
    """
    from pcs_core.data import RENDERED, Concept, Subject
    from pcs_core.data.concepts import check_concepts
    from pcs_engine.opening import needs_pictures
    from pcs_folders.concepts import name_of

    if needs_pictures(recipe):
        raise InputError(f"{recipe.id!r} learns from pictures: give a FOLDER of them")
    if any(RENDERED in phase.batch for phase in recipe.phases):
        if noun is None:
            raise InputError(f"{recipe.id!r} needs to know what to make: give --noun, or a FOLDER")
        token = token or f"<{'-'.join(noun.split())}>"
    if noun is None and token is None:
        return (Subject(name=target.folder.name, concepts=()),)
    if noun is None or token is None:
        raise InputError("--noun and --token belong together: give both, or none")
    concepts = (Concept(name=name_of(noun), token=token, noun=noun),)
    check_concepts(concepts, "--noun and --token")
    return (Subject(name=target.folder.name, concepts=concepts),)


def check_names(folders: Sequence[Path]) -> None:
    """Refuse two folders of one name: it names the subject and its artifact.

    Raises
    ------
    InputError
        Names both.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in seen:
            both = f"{seen[name]} and {folder}"
            if seen[name].resolve() == folder.resolve():
                raise InputError(f"{both} are one folder: give it once")
            raise InputError(f"{both} are both called {name!r}: rename one of them")
        seen[name] = folder
