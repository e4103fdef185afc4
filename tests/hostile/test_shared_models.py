"""Updates and words of strangers, as sites hand them on: products, keys that lie, odd pickles."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

NAN, INF = float("nan"), float("inf")
IMPORT = ("--backbone", "tiny", "--noun", "thing", "-o", "out")
TOKEN = ("--token", "<x>")
Tensors = dict[str, Tensor]


@pytest.fixture
def layer(whole_model: Path) -> tuple[str, int, int]:
    """Return a layer of the network as kohya names it, its rows and columns."""
    with safe_open(
        whole_model / "unet" / "diffusion_pytorch_model.safetensors", framework="pt"
    ) as file:
        key = next(key for key in sorted(file.keys()) if key.endswith("attn2.to_k.weight"))
        rows, columns = file.get_slice(key).get_shape()
    return "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), rows, columns


def lora(rows: int, columns: int, **more: Any) -> Tensors:
    """Return the tensors of a layer by their endings; those of ``more`` are put in or, if None, left out."""
    parts = {"down": torch.ones(2, columns), "up": torch.ones(rows, 2), "alpha": torch.tensor(2.0)}
    parts |= more
    names = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight"}
    return {names.get(name, name): value for name, value in parts.items() if value is not None}


def only(**parts: Tensor) -> Tensors:
    return dict(parts)


LONG = 400_000
LAYERS: dict[str, Callable[[int, int], Tensors]] = {
    "alpha-nan": lambda r, c: lora(r, c, alpha=torch.tensor(NAN)),
    "alpha-infinite": lambda r, c: lora(r, c, alpha=torch.tensor(INF)),
    "alpha-huge": lambda r, c: lora(r, c, alpha=torch.tensor(3e38)),
    "alpha-negative": lambda r, c: lora(r, c, alpha=torch.tensor(-1.0)),
    "alpha-zero": lambda r, c: lora(r, c, alpha=torch.tensor(0.0)),
    "alpha-of-many": lambda r, c: lora(r, c, alpha=torch.ones(1000)),
    "alpha-of-none": lambda r, c: lora(r, c, alpha=torch.ones(0)),
    "alpha-whole": lambda r, c: lora(r, c, alpha=torch.tensor(2)),
    "alpha-a-truth": lambda r, c: lora(r, c, alpha=torch.tensor(True)),
    "rank-zero": lambda r, c: lora(r, c, down=torch.ones(0, c), up=torch.ones(r, 0)),
    "rank-enormous": lambda r, c: lora(r, c, down=torch.ones(LONG, c), up=torch.ones(r, LONG)),
    "ranks-differ": lambda r, c: lora(r, c, up=torch.ones(r, 3)),
    "down-alone": lambda r, c: lora(r, c, up=None),
    "up-alone": lambda r, c: lora(r, c, down=None),
    "alpha-alone": lambda r, c: lora(r, c, up=None, down=None),
    "nan": lambda r, c: lora(r, c, up=torch.full((r, 2), NAN)),
    "infinite": lambda r, c: lora(r, c, up=torch.full((r, 2), INF)),
    "of-no-dimension": lambda r, c: lora(r, c, down=torch.tensor(1.0)),
    "of-five-dimensions": lambda r, c: lora(r, c, down=torch.ones(2, c, 1, 1, 1)),
    "of-another-layer": lambda r, c: lora(r, c, up=torch.ones(LONG, 2)),
    "eight-bits": lambda r, c: lora(r, c, up=torch.ones(r, 2).to(torch.float8_e4m3fn)),
    "double": lambda r, c: lora(r, c, up=torch.full((r, 2), 1e300, dtype=torch.float64)),
    "mid": lambda r, c: lora(r, c, mid=torch.ones(2, 2, 64, 64)),
    "product": lambda r, c: lora(r, c, down=torch.ones(1, LONG), up=torch.ones(LONG, 1)),
    "kronecker": lambda r, c: only(lokr_w1=torch.ones(2000, 2000), lokr_w2=torch.ones(2000, 2000)),
    "kronecker-of-factors": lambda r, c: only(
        lokr_w1=torch.ones(1, 1), lokr_w2_a=torch.ones(LONG, 1), lokr_w2_b=torch.ones(1, LONG)
    ),
    "kronecker-half": lambda r, c: only(lokr_w1_a=torch.ones(r, 1), lokr_w2=torch.ones(1, c)),
    "kronecker-of-none": lambda r, c: only(lokr_w1=torch.ones(0, 0), lokr_w2=torch.ones(r, c)),
    "hadamard": lambda r, c: only(
        **{f"hada_w{n}_{s}": torch.ones(*((LONG, 1), (1, LONG))[s == "b"]) for n in "12" for s in "ab"}
    ),
    "hadamard-half": lambda r, c: only(hada_w1_a=torch.ones(r, 1), hada_w1_b=torch.ones(1, c)),
    "blocks": lambda r, c: only(oft_blocks=torch.ones(7, 3, 3)),
    "blocks-of-none": lambda r, c: only(oft_blocks=torch.ones(0, 0, 0)),
    "blocks-flat": lambda r, c: only(oft_blocks=torch.ones(3)),
    "blocks-enormous": lambda r, c: only(oft_blocks=torch.ones(1, 3000, 3000)),
    "magnitude": lambda r, c: lora(r, c, dora_scale=torch.ones(LONG)),
    "magnitude-nan": lambda r, c: lora(r, c, dora_scale=torch.full((r, 1), NAN)),
    "magnitude-zero": lambda r, c: lora(r, c, dora_scale=torch.zeros(r, 1)),
    "difference": lambda r, c: only(diff=torch.ones(LONG)),
    "of-two-kinds": lambda r, c: {**lora(r, c), "lokr_w1": torch.ones(1), "diff": torch.ones(r, c)},
}  # fmt: skip


def harmless(attack: Callable[..., Any], file: str, *more: object, **bounds: float) -> None:
    """Look at the file, make an artifact of it, and draw with that."""
    for words in (("inspect", file), ("inspect", file, "--backbone", "tiny")):
        assert attack(*words, **bounds).harmless().code in (0, 2)
    made = attack("import", file, *IMPORT, *TOKEN, *more, **bounds).harmless()
    assert made.code in (0, 2), made
    if made.code == 0:
        drawn = attack("sample", "out", "a <x>", "-o", "p", "-n", 1, "--steps", 1).harmless()
        assert drawn.code in (0, 2), drawn


@pytest.mark.parametrize("case", sorted(LAYERS))
def test_a_layer_s_update(
    case: str, attack: Callable[..., Any], tmp_path: Path, layer: tuple[str, int, int]
) -> None:
    name, rows, columns = layer
    parts = LAYERS[case](rows, columns)
    save_file(
        {f"{name}.{ending}": tensor for ending, tensor in parts.items()},
        tmp_path / "l.safetensors",
        {"ss_network_module": "networks.lora"},
    )
    harmless(attack, "l.safetensors")


DEEP = "[" * 60_000
METADATA: dict[str, dict[str, str]] = {
    "tags-deep": {"ss_tag_frequency": DEEP},
    "arguments-deep": {"ss_network_args": '{"a":' * 60_000},
    "arguments-digits": {"ss_network_args": '{"conv_dim": ' + "9" * 5000 + "}"},
    "module": {"ss_network_module": "os.system"},
    "rank": {"ss_network_dim": "1e999", "ss_network_alpha": "nan"},
    "trigger": {"modelspec.trigger_phrase": "x\x1b[2J\x1b]0;owned\x07\ny\u202ez"},
    "title": {"modelspec.title": "\x1b]8;;http://evil.example\x1b\\y", "modelspec.thumbnail": "a" * 999},
    "names": {"x\x1b[2J": "1", "\u202ey": "2", "": "3"},
    "megabytes": {"ss_tag_frequency": "x" * 8_000_000},
    "thousands": {f"key{n}": "value" for n in range(50_000)},
    "format": {"format": "pickle", "lora_adapter_metadata": '{"unet.r": 1e9, "unet.lora_alpha": {}}'},
    "peft": {"lora_adapter_metadata": '{"unet.r": null, "unet.target_modules": ["(a+)+$"], "x": []}'},
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(METADATA))
def test_an_update_s_metadata(
    case: str, attack: Callable[..., Any], tmp_path: Path, layer: tuple[str, int, int]
) -> None:
    name, rows, columns = layer
    tensors = {f"{name}.{ending}": tensor for ending, tensor in lora(rows, columns).items()}
    save_file(tensors, tmp_path / "l.safetensors", METADATA[case])
    harmless(attack, "l.safetensors")


KEYS: dict[str, Callable[[str], list[str]]] = {
    "twice": lambda name: [name, "unet." + name.removeprefix("lora_unet_")],
    "long": lambda name: [name + "x" * 60_000],
    "thousands": lambda name: [f"{name}{n}" for n in range(10_000)],
    "escapes": lambda name: [f"{name}\x1b[2J", f"{name}\u202e", f"{name}\n"],
    "dots": lambda name: ["." * 5000, "..", "lora_unet_.."],
    "underscores": lambda name: ["lora_unet" + "_" * 5000],
    "paths": lambda name: ["../../etc/hostname", "/etc/hostname"],
    "expressions": lambda name: ["lora_unet_(a+)+$", "lora_unet_.*", "lora_unet_["],
}


@pytest.mark.parametrize("case", sorted(KEYS))
def test_an_update_s_keys(
    case: str, attack: Callable[..., Any], tmp_path: Path, layer: tuple[str, int, int]
) -> None:
    name, rows, columns = layer
    save_file(
        {
            f"{key}.{ending}": tensor.clone()
            for key in KEYS[case](name)
            for ending, tensor in lora(rows, columns).items()
        },
        tmp_path / "l.safetensors",
    )
    harmless(attack, "l.safetensors")


WORDS: dict[str, Callable[[int], Tensors]] = {
    "a-million-rows": lambda width: {"emb_params": torch.ones(1_000_000, width)},
    "no-row": lambda width: {"emb_params": torch.ones(0, width)},
    "another-width": lambda width: {"emb_params": torch.ones(1, width + 1)},
    "no-width": lambda width: {"emb_params": torch.ones(1, 0)},
    "flat": lambda width: {"emb_params": torch.ones(width)},
    "nan": lambda width: {"emb_params": torch.full((1, width), NAN)},
    "huge": lambda width: {"emb_params": torch.full((1, width), 3e38)},
    "two-encoders": lambda width: {"clip_l": torch.ones(1, width), "clip_g": torch.ones(2, width)},
    "named-a-mark": lambda width: {"<|endoftext|>": torch.ones(1, width)},
    "named-a-word": lambda width: {"dog": torch.ones(1, width)},
    "named-a-sentence": lambda width: {"a dog with a hat": torch.ones(1, width)},
    "named-nothing": lambda width: {"": torch.ones(1, width)},
    "named-a-blank": lambda width: {" ": torch.ones(1, width)},
    "named-escapes": lambda width: {"<x\x1b[2J>": torch.ones(1, width)},
    "named-lines": lambda width: {"<x\ny>": torch.ones(1, width)},
    "named-a-path": lambda width: {"../../x": torch.ones(1, width)},
    "named-long": lambda width: {"<" + "x" * 10_000 + ">": torch.ones(1, width)},
    "named-a-template": lambda width: {"{token}": torch.ones(1, width)},
    "bundled": lambda width: {"bundle_emb.<y\x1b[2J>.clip_l": torch.ones(1, width)},
}


@pytest.mark.parametrize("given", [True, False], ids=["token", "no-token"])
@pytest.mark.parametrize("case", sorted(WORDS))
def test_a_learned_word(
    case: str, given: bool, attack: Callable[..., Any], tmp_path: Path, model: Path
) -> None:
    width = json.loads((model / "text_encoder" / "config.json").read_text())["hidden_size"]
    save_file(WORDS[case](width), tmp_path / "w.safetensors")
    if given:
        harmless(attack, "w.safetensors")
        return
    made = attack("import", "w.safetensors", *IMPORT).harmless()
    assert made.code in (0, 2), made
    if made.code == 0:
        assert attack("show", "out").harmless().code == 0
        drawn = attack("sample", "out", "a dog", "-o", "p", "-n", 1, "--steps", 1).harmless()
        assert drawn.code in (0, 2), drawn


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def packed(entries: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def shared_tables() -> dict[str, Any]:
    """Return tables that share their inner ones: 50**7 values of a kilobyte."""
    table: dict[str, Any] = {"x": 1}
    for _ in range(7):
        table = {str(n): table for n in range(50)}
    return table


class Foreign:
    """What an unpickler would have to call."""

    def __reduce__(self) -> Any:
        return (open, ("x", "w"))


PICKLES: dict[str, Callable[[], bytes]] = {
    "expanded": lambda: saved({"string_to_param": {"*": torch.zeros(1).expand(100_000, 100_000)}}),
    "meta": lambda: saved({"a": torch.empty(10**6, 10**6, device="meta")}),
    "sparse": lambda: saved(
        {"a": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**9,))}
    ),
    "shared-tables": lambda: saved(shared_tables()),
    "deep": lambda: b"\x80\x02" + b"]" * 1 + b"(" * 50_000 + b"l" * 50_000 + b".",
    "long-number": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 1000,
    "long-text": lambda: b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00abc",
    "call": lambda: packed({"a/data.pkl": pickle.dumps(Foreign()), "a/version": b"3\n"}),
    "zip-bomb": lambda: packed(
        {"a/data.pkl": b"\0" * 400_000_000, "a/version": b"3\n"}, compression=zipfile.ZIP_DEFLATED
    ),
    "zip-names": lambda: packed({"../../x": b"1", "/etc/x": b"2", "a/data.pkl": b"\x80\x02}."}),
    "zip-of-nothing": lambda: packed({}),
    "zip-twice": lambda: saved({}) + saved({"b": torch.ones(1)}),
    "half": lambda: saved({"a": torch.ones(1000)})[:-300],
    "keys": lambda: saved({("a", 1): torch.ones(1), None: 2, 3.5: 3, "x\x1b[2J": torch.ones(1)}),
    "odd-kinds": lambda: saved({"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}),
    "complex": lambda: saved({"a": torch.ones(2, dtype=torch.complex64)}),
    "a-list": lambda: saved([torch.ones(1)] * 3),
    "a-number": lambda: saved(3),
    "tar": lambda: b"storages".ljust(512, b"\0") * 4,
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(PICKLES))
def test_a_pickled_update(case: str, attack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "l.pt").write_bytes(PICKLES[case]())
    outcome = attack("import", "l.pt", *IMPORT, *TOKEN, seconds=120)
    assert [e for e in outcome.events if "Popen" not in e] == [], outcome
    outcome.events.clear()
    assert outcome.harmless().code in (0, 2), outcome
    assert not (tmp_path / "x").exists()
