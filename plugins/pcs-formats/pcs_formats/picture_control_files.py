"""ControlNets and T2I-Adapters in files: networks that read a control picture (arXiv:2302.05543, 2302.08453).

A control network has the names of diffusers' ``ControlNetModel`` or those of the original release
(``control_model....``), a T2I-Adapter those of diffusers' ``T2IAdapter`` or of its authors' files. In a folder
``config.json`` lies beside, as ``save_pretrained`` writes it. The artifact draws by itself, and beside others:
``pcs sample DIR PROMPT --layout PICTURE``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pcs_core.backbone import export_tensors
from pcs_core.errors import CapabilityError
from pcs_core.merge import merge_fusions
from pcs_core.small_files import parse_json, read_text
from pcs_engine.run import EngineRun
from pcs_formats.layer_forms import size
from pcs_formats.original_names import original_path
from pcs_formats.reading import Reading, Use, recipe_of

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents
    from pcs_formats.reading import Given

TECHNIQUE = "fusion.control_picture"
STEMS = {"control": f"{TECHNIQUE}/picture/network/network/", "maps": f"{TECHNIQUE}/picture/maps/"}
"""Where the artifact keeps a control network, and an adapter's."""
ORIGINAL = "control_model."
CONTROL = ("controlnet_cond_embedding.", f"{ORIGINAL}input_hint_block.", "input_hint_block.")
OTHERS = (
    "controlnet_blocks.",
    "controlnet_x_embedder.",
    "task_embedding",
    "control_add_embedding.",
)
"""How keys begin of control networks for SD 3 and FLUX, and of those for several kinds of pictures at once."""
ADAPTER = "adapter.body."
CONFIGURATION = "config.json"
CELL_SHAPES = {8**2: (1, 8), 3 * 8**2: (3, 8), 16**2: (1, 16), 3 * 16**2: (3, 16)}
"""Channels that an adapter's first convolution reads -> those of its picture, and the pixels of a cell."""
MAPS = 4
"""Maps of the published adapters."""
CLASSES = ("ControlNetModel", "T2IAdapter")
UNREAD = {"global_pool_conditions": False, "controlnet_conditioning_channel_order": "rgb"}
"""Settings of a control network that are read at these values alone."""


def read_control_files(
    contents: Contents, backbone: Backbone | None, given: Given
) -> Reading | None:
    """Return what a ControlNet or a T2I-Adapter becomes, or None where the file is neither.

    Raises
    ------
    InputError
        The configuration beside it is damaged.
    """
    keys = contents.tensors
    if any(key.startswith(OTHERS) for key in keys):
        reading = Reading("a control network of a kind that is not read")
        key = next(key for key in sorted(keys) if key.startswith(OTHERS))
        reading.problems.append(
            f"{key!r} is of a control network for SD 3 or FLUX, or for several kinds of pictures: those of SD "
            "1.x, 2.x and XL for one kind are read"
        )
        return reading
    if any(key.startswith(CONTROL) for key in keys):
        return read_control(contents, backbone)
    first = [key for key in keys if re.match(r"(adapter\.)?body\.0\.", key)]
    return read_maps(contents, backbone) if first else None


def read_control(contents: Contents, backbone: Backbone | None) -> Reading:
    """Return what a control network becomes."""
    reading = Reading("ControlNet", base_of(contents.tensors), system="controlnet-imported")
    check_configuration(contents, reading)
    reading.uses = [Use(TECHNIQUE, TECHNIQUE, {"form": "control"})]
    if backbone is None:
        reading.used = set(contents.tensors)
        return reading
    original = any(key.startswith(CONTROL[1:]) for key in contents.tensors)
    reading.facts["names"] = "the original release's" if original else "diffusers'"
    prefix = ORIGINAL if any(key.startswith(ORIGINAL) for key in contents.tensors) else ""

    def called(name: str) -> str:
        return prefix + original_control(name, backbone) if original else name

    place(contents, backbone, STEMS["control"], called, reading)
    return reading


def read_maps(contents: Contents, backbone: Backbone | None) -> Reading:
    """Return what a T2I-Adapter becomes."""
    reading = Reading("T2I-Adapter", system="t2i-adapter-imported")
    check_configuration(contents, reading)
    prefixed = any(key.startswith(ADAPTER) for key in contents.tensors)
    prefix = "adapter." if prefixed else ""
    light = f"{prefix}conv_in.weight" not in contents.tensors
    first = contents.tensors.get(f"{prefix}{'body.0.in_conv' if light else 'conv_in'}.weight")
    if first is None or first.dim() != 4 or first.shape[1] not in CELL_SHAPES:
        reading.problems.append(
            "its first convolution is missing, or reads no picture that is known here (of 1 or 3 channels)"
        )
        return reading
    channels, cell = CELL_SHAPES[first.shape[1]]
    form = "light" if light else "xl" if cell == 16 else "full"
    depth = depth_of(contents.tensors, prefixed=prefixed, light=light)
    reading.facts |= {"form": form, "channels": channels, "depth": depth}
    settings = {"form": form, "grey": channels == 1, "depth": depth}
    reading.uses = [Use(TECHNIQUE, TECHNIQUE, settings)]
    if backbone is None:
        reading.used = set(contents.tensors)
        return reading
    reading.facts["names"] = "diffusers'" if prefixed else "the authors'"

    def called(name: str) -> str:
        return f"adapter.{name}" if prefixed else authors_name(name, depth, light=light)

    place(contents, backbone, STEMS["maps"], called, reading)
    return reading


def depth_of(tensors: Mapping[str, Tensor], *, prefixed: bool, light: bool) -> int:
    """Return how many residual blocks an adapter has for each map."""
    if not prefixed and not light:  # the authors count the blocks of all maps
        pattern, share = r"body\.(\d+)\.", MAPS
    else:
        inner = "resnets" if prefixed else "body"
        pattern, share = rf"(?:adapter\.)?body\.0\.{inner}\.(\d+)\.", 1
    numbers = [int(match[1]) for key in tensors if (match := re.match(pattern, key))]
    return max(1, (max(numbers, default=0) + 1) // share)


def authors_name(name: str, depth: int, *, light: bool) -> str:
    """Return what the authors' files call an adapter's tensor that diffusers calls ``name``."""
    match = re.fullmatch(r"body\.(\d+)\.(?:resnets\.(\d+)\.)?(.+)", name)
    if match is None:
        return name
    level, block, rest = match.groups()
    if light:
        return f"body.{level}.{f'body.{block}.' if block else ''}{rest}"
    return f"body.{int(level) * depth + int(block or 0)}.{rest}"


def original_control(name: str, backbone: Any) -> str:
    """Return what the original release calls a control network's tensor that diffusers calls ``name``."""
    path, _, parameter = name.rpartition(".")
    hint = "controlnet_cond_embedding."
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", path):
        path = f"zero_convs.{match[1]}.0"
    elif path == "controlnet_mid_block":
        path = "middle_block_out.0"
    elif match := re.fullmatch(rf"{re.escape(hint)}blocks\.(\d+)", path):
        path = f"input_hint_block.{2 * (int(match[1]) + 1)}"
    elif path == f"{hint}conv_in":
        path = "input_hint_block.0"
    elif path == f"{hint}conv_out":
        between = len(backbone.vae.config.block_out_channels) - 1
        path = f"input_hint_block.{2 * (2 * between + 1)}"
    else:
        path = original_path(path, backbone.denoiser)
    return f"{path}.{parameter}"


def place(
    contents: Contents,
    backbone: Backbone,
    stem: str,
    called: Callable[[str], str],
    reading: Reading,
) -> None:
    """Put each tensor in its place; what is surplus, of another shape or missing is said as in the file."""
    try:
        shapes = expected_shapes(contents, backbone, reading)
    except CapabilityError as error:
        reading.problems.append(str(error))
        return
    places = {called(name.removeprefix(stem).replace("/", ".")): name for name in shapes}
    for key, tensor in contents.tensors.items():
        if key not in places:
            among = [name for name in places if name not in contents.tensors] or list(places)
            near = get_close_matches(key, among, n=1, cutoff=0.0)[0]
            reading.problems.append(
                f"{key!r} is no part of a {reading.kind} for this network: {near!r} is the nearest"
            )
            continue
        reading.used.add(key)
        if tuple(tensor.shape) == shapes[places[key]]:
            reading.tensors[places[key]] = tensor
        else:
            reading.problems.append(
                f"{key!r} is {size(tensor.shape)}, and a {reading.kind} for this network has "
                f"{size(shapes[places[key]])} there: it is made for another base"
            )
    reading.missing += [key for key in places if key not in contents.tensors]


def expected_shapes(
    contents: Contents, backbone: Backbone, reading: Reading
) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what the artifact of a reading stores on ``backbone``."""
    recipe = recipe_of(reading, contents, backbone)
    run = EngineRun(recipe, backbone, names=("imported",), concepts=((),))
    fusion = merge_fusions(run.call("fuse", features=run.features))
    return {name: tuple(tensor.shape) for name, tensor in export_tensors(fusion).items()}


def check_configuration(contents: Contents, reading: Reading) -> None:
    """Say what the configuration beside a file asks for that is not read here.

    Raises
    ------
    InputError
        It is damaged.
    """
    file = contents.path.with_name(CONFIGURATION)
    if not file.is_file():
        return
    values = parse_json(read_text(file), str(file))
    values = values if isinstance(values, dict) else {}
    kind = values.get("_class_name", reading.kind)
    if kind in CLASSES or kind == reading.kind:
        for name, usual in UNREAD.items():
            if (said := values.get(name, usual)) != usual:
                reading.problems.append(
                    f"{file.name} says {name} = {said!r}: {usual!r} alone is read"
                )
        return
    reading.problems.append(f"{file.name} is of a {kind}: {' and '.join(CLASSES)} are read")


def base_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the family whose text a control network reads."""
    key = next((k for k in tensors if k.endswith("attn2.to_k.weight")), "")
    width = tensors[key].shape[1] if key else 0
    return {768: "sd (1.x)", 1024: "sd (2.x)", 2048: "sdxl"}.get(width, "")
