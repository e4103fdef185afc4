"""InstantID's control network, which its release keeps in a folder beside the adapter (arXiv:2401.07519, 3.3).

``ip-adapter.bin`` and ``ControlNetModel/`` lie side by side; the folder is what diffusers' ``save_pretrained``
writes of a ``ControlNetModel``.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pcs_formats.contents import read_contents
from pcs_formats.layer_forms import size
from pcs_formats.reading import Use

if TYPE_CHECKING:
    from pathlib import Path

    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents
    from pcs_formats.reading import Reading

FOLDER = "ControlNetModel"
TECHNIQUE = "fusion.control_branch"
STEM = f"{TECHNIQUE}/control/network/network/"
"""Where the branch keeps diffusers' network."""
SETTINGS = {"stream": "image", "radius": 10 / 1024, "stick": 4 / 1024}
"""Discs of radius 10, limbs 8 wide on 1024 pixels (its ``draw_kps``), and whose tokens stand for the text."""


def add_control(contents: Contents, backbone: Backbone, reading: Reading) -> None:
    """Add the control network that lies beside an adapter, or note that there is none."""
    file = control_file(contents.path)
    if file is None:
        reading.notes.append(
            f"InstantID's control network lies in a folder {FOLDER!r} beside the adapter, and there is none: "
            "the adapter is taken alone, which places no face"
        )
        return
    given = read_contents(file)
    reading.facts["control network"] = f"{FOLDER}/{file.name}, sha256 {given.sha256}"
    host: Any = backbone
    expected = {
        k: tuple(t.shape) for k, t in host.control_network(3, 1.0).network.state_dict().items()
    }
    for key, tensor in given.tensors.items():
        place = f"{FOLDER}/{file.name}: {key!r}"
        if key not in expected:
            among = [name for name in expected if name not in given.tensors] or expected
            near = get_close_matches(key, among, n=1, cutoff=0.0)[0]
            reading.problems.append(
                f"{place} is no part of this network's control network: {near!r} is the nearest"
            )
        elif tuple(tensor.shape) != expected[key]:
            reading.problems.append(
                f"{place} is {size(tensor.shape)}, and this network's control network takes "
                f"{size(expected[key])}: it is made for another base"
            )
        else:
            reading.tensors[STEM + key.replace(".", "/")] = tensor
    reading.missing += [
        f"{FOLDER}/{file.name}: {key}" for key in expected if key not in given.tensors
    ]
    reading.uses.append(Use(TECHNIQUE, TECHNIQUE, SETTINGS))


def write_control(edit: Any, folder: Path, name: str = FOLDER) -> list[str]:
    """Write the control network of an edit as diffusers saves one; return the files, or none of another edit.

    ``name`` is the folder in ``folder`` that they are in, "" for ``folder`` itself.

    A narrower network than the denoiser's first half is in no such file.
    """
    network: Any = getattr(edit, "network", None)
    if getattr(network, "widen", None) is None or len(network.widen):
        return []
    network.network.save_pretrained(folder / name)
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    return [f"{name}/{file}" if name else file for file in files]


def control_file(adapter: Path) -> Path | None:
    """Return the file of the control network beside an adapter, if any: safetensors before a pickled one."""
    folder = adapter.parent / FOLDER
    for ending in ("safetensors", "bin"):
        file = folder / f"diffusion_pytorch_model.{ending}"
        if file.is_file():
            return file
    return None
