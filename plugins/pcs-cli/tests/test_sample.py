"""``pcs sample``, ``show`` and ``merge``: exact files, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pcs_core.storage.manifest import read_manifest, render
from pcs_testing import pixels


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_exactly_the_files(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    done = pcs("sample", fitted, "a photo of <rex>", "-n", 3, "--seed", 5, "--out", out)
    assert done.code == 0, done.err
    assert done.out == f"{out}\n"
    assert names(out) == {"000.png", "001.png", "002.png", "sheet.png", "sample.json"}
    assert names(tmp_path) == {"pictures"}
    document = json.loads((out / "sample.json").read_text())
    assert document["prompt"] == "a photo of <rex>"
    assert document["seed"] == 5
    assert document["settings"] == {"steps": 3, "scale": 2.0, "scheduler": "ddim", "negative": ""}
    assert "torch" in document["versions"]
    with Image.open(out / "001.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 32))


def test_same_seed_same_pictures(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["sample", fitted, "<rex>", "-n", 2, "--steps", 2, "--seed", seed]
        assert pcs(*arguments, "--out", tmp_path / name).code == 0
    a, b, c = (tmp_path / name for name in "abc")
    assert (a / "001.png").read_bytes() == (b / "001.png").read_bytes()
    # picture i starts from seed + i
    assert (a / "001.png").read_bytes() == (c / "000.png").read_bytes()


def test_untuned(pcs: Callable, tmp_path: Path) -> None:
    out = tmp_path / "base"
    arguments = ["sample", "--base", "tiny", "a dog", "-n", 1, "--steps", 2, "--scale", 1]
    done = pcs(*arguments, "--negative", "a cat", "--scheduler", "euler", "--json", "--out", out)
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert printed["artifact"] is None
    assert printed["backbone"]["id"] == "tiny"
    assert printed["settings"]["scheduler"] == "euler"
    assert names(out) == {"000.png", "sheet.png", "sample.json"}


def test_overwrite(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    arguments = ["sample", fitted, "<rex>", "--steps", 1, "--out", tmp_path / "pictures"]
    assert pcs(*arguments, "-n", 3).code == 0
    assert pcs(*arguments, "-n", 1).code == 2
    assert pcs(*arguments, "-n", 1, "--overwrite").code == 0
    assert names(tmp_path / "pictures") == {"000.png", "sheet.png", "sample.json"}
    assert names(tmp_path) == {"pictures"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{artifact}"], "PROMPT is missing"),
        (["a photo of <rex>"], "DIR is missing"),
        (["{artifact}", "a", "<rex>"], "quotes"),
        (["{artifact}", "<rex>", "--base", "tiny"], "leave out"),
        (["<rex>", "--base", "tiny", "--backbone", "tiny"], "--backbone"),
        (["{artifact}", "a photo of a dog"], "<rex>"),
        (["{artifact}", ""], "prompt"),
        (["{artifact}", "<rex>", "--scheduler", "eulr"], "did you mean 'euler'"),
        (["a dog", "--base", "tiny-sd3", "--scheduler", "euler a"], "predicts flow"),
        (["{artifact}", "<rex>", "--backbone", "tyni"], "tiny"),
        (["a dog", "--base", "tyni"], "tiny"),
        (["{artifact}", "<rex>", "--device", "quantum"], "quantum"),
        (["/nowhere/at/all", "<rex>"], "/nowhere/at/all"),
    ],
)
def test_refused(pcs: Callable, fitted: Path, tmp_path: Path, words: list[str], says: str) -> None:
    out = tmp_path / "pictures"
    done = pcs("sample", *(w.format(artifact=fitted) for w in words), "--out", out)
    assert done.code == 2
    assert says in done.err
    assert not names(tmp_path)
    assert not done.out


@pytest.mark.parametrize(
    ("words", "id"),
    [("DPM++ 2M Karras", "dpm++2m-karras"), ("euler_ancestral", "euler-a"), ("Heun", "heun")],
)
def test_schedulers_as_other_programs_call_them(
    pcs: Callable, fitted: Path, tmp_path: Path, words: str, id: str
) -> None:
    for name, count in ((words, 2), (id, 1)):
        arguments = ["sample", fitted, "<rex>", "-n", count, "--steps", 4, "--scheduler", name]
        done = pcs(*arguments, "--out", tmp_path / str(count))
        assert done.code == 0, done.err
    one, two = tmp_path / "1", tmp_path / "2"
    assert json.loads((two / "sample.json").read_text())["settings"]["scheduler"] == id
    # noise that a step adds is each picture's own
    assert (one / "000.png").read_bytes() == (two / "000.png").read_bytes()


def test_a_scheduler_is_refused_before_anything_is_opened(
    *,
    pcs: Callable,
    fitted: Path,
    recipe: Path,
    subject: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pcs_engine as engine

    monkeypatch.setattr(engine, "open_backbone", lambda *_, **__: pytest.fail("opened"))
    for words in ([fitted, "<rex>"], ["--base", "mini", "a dog"]):
        done = pcs("sample", *words, "--scheduler", "dpm++2m-karas", "--out", tmp_path / "no")
        assert done.code == 2
        assert "did you mean 'dpm++2m-karras'?" in done.err
    change = ("--set", "sample.scheduler=dpm++2m-karas", "--out", tmp_path / "no")
    said = (
        "words: sample.scheduler: unknown scheduler 'dpm++2m-karas', did you mean 'dpm++2m-karras'?"
    )
    done = pcs("fit", recipe, subject(), "--noun", "dog", "--token", "<rex>", *change)
    assert (done.code, said in done.err) == (2, True)
    suite = ("bench", "run", "mini-object", "--systems", "textual-inversion")
    done = pcs(*suite, "--set", "sample.scheduler=dpm++2m-karas", "--out", tmp_path / "no")
    assert done.code == 2
    assert "did you mean 'dpm++2m-karras'?" in done.err
    assert not (tmp_path / "no").exists()


OTHER = """
from pcs_diffusers.tiny import build
from pcs_core.storage.manifest import read_manifest, render

def other():
    return build(seed=1, id="other")
"""


def test_a_backbone_of_other_weights(
    pcs: Callable, plugged: Callable, fitted: Path, tmp_path: Path
) -> None:
    (tmp_path / "other_backbone.py").write_text(OTHER)
    plugged({"backbones": {"other": "other_backbone:other"}})
    done = pcs("sample", fitted, "<rex>", "--backbone", "other", "--out", tmp_path / "out")
    assert done.code == 2
    assert "other" in done.err
    assert not (tmp_path / "out").exists()


def test_a_backbone_folder_is_found_again(
    pcs: Callable,
    recipe: Path,
    subject: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pcs_core import open_backbone

    tiny, model = open_backbone("tiny"), tmp_path / "model"
    for folder, part in (("unet", "denoiser"), ("vae", "vae"), ("text_encoder", "text")):
        tiny.parts[part].save_pretrained(model / folder)
    tiny.tokenizer.inner.save_pretrained(model / "tokenizer")
    (model / "scheduler").mkdir()
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(tiny.scheduler_config))

    monkeypatch.chdir(tmp_path)
    words = ["--noun", "dog", "--token", "<rex>", "--backbone", "model", "--no-preview"]
    done = pcs("fit", recipe, subject(), *words, "--out", "fitted")
    assert done.code == 0, done.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    draw = ["sample", tmp_path / "fitted", "<rex>", "-n", 1, "--steps", 1]
    assert pcs(*draw, "--out", "a").code == 0
    model.rename(tmp_path / "moved")
    done = pcs(*draw, "--out", "b")
    assert done.code == 2
    assert "--backbone" in done.err
    assert pcs(*draw, "--backbone", "../moved", "--out", "b").code == 0
    assert names(tmp_path / "elsewhere") == {"a", "b"}
    (tmp_path / "moved" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    done = pcs(*draw, "--backbone", "../moved", "--out", "c")
    assert done.code == 2
    assert not (tmp_path / "elsewhere" / "c").exists()


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json", "recipe.toml"])
def test_a_flipped_byte(pcs: Callable, artifact: Path, tmp_path: Path, file: str) -> None:
    content = bytearray((artifact / file).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / file).write_bytes(content)
    for command in (["sample", artifact, "<rex>", "--out", tmp_path / "out"], ["show", artifact]):
        done = pcs(*command)
        assert done.code == 2
        assert file in done.err
    assert not (tmp_path / "out").exists()


def test_a_newer_schema(pcs: Callable, artifact: Path, tmp_path: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["schema"] = 999
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    done = pcs("sample", artifact, "<rex>", "--out", tmp_path / "out")
    assert done.code == 2
    assert "newer" in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_several_artifacts_names_them(
    pcs: Callable, artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "several").mkdir()
    artifact.rename(tmp_path / "several" / "rex")
    done = pcs("sample", tmp_path / "several", "<rex>", "--out", tmp_path / "out")
    assert done.code == 2
    assert "rex" in done.err


def test_show(pcs: Callable, fitted: Path) -> None:
    assert "<rex> (dog)" in pcs("show", fitted).out
    printed = json.loads(pcs("show", fitted, "--json").out)
    assert printed["recipe"] == "words"
    assert printed["backbone"]["id"] == "tiny"
    assert printed["concepts"][0]["token"] == "<rex>"
    assert set(printed["files"]) == names(fitted)


def test_an_artifact_of_a_plugin_that_is_not_there_is_shown(
    pcs: Callable, fitted: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(fitted)
    uses = [{**use, "technique": "scale.channels"} for use in manifest.recipe["use"]]
    changed = manifest.model_copy(
        update={
            "recipe": {**manifest.recipe, "use": uses},
            "versions": {**manifest.versions, "pcs-other": "1.0.0", "pcs-scale": "0.1.0"},
        }
    )
    foreign = tmp_path / "foreign"
    shutil.copytree(fitted, foreign)
    (foreign / "manifest.json").write_bytes(render(changed))
    done = pcs("show", foreign)
    assert done.code == 0, done.err
    assert "<rex> (dog)" in done.out
    assert "technique 'scale.channels' of pcs-scale: install it to draw" in done.out
    printed = json.loads(pcs("show", foreign, "--json").out)
    assert printed["missing"] == {"scale.channels": ["pcs-scale"]}
    assert printed["numbers"] > 0
    drawn = pcs("sample", foreign, "<rex>", "--out", tmp_path / "out")
    assert drawn.code == 2
    assert "uses technique 'scale.channels' of pcs-scale, which is not installed" in drawn.err


def test_merge(pcs: Callable, subject: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "kv.toml"
    recipe.write_text(
        '[recipe]\nid = "kv"\n[[use]]\ntechnique = "tokens.learnable"\n'
        '[[use]]\ntechnique = "weights.kv"\n[[phase]]\nname = "fit"\nsteps = 2\nlr = 1e-3\n'
        "[sample]\nsteps = 2\n"
    )
    for name, token in (("rex", "<rex>"), ("tom", "<tom>")):
        words = ["--noun", "dog", "--token", token, "--backbone", "tiny", "--no-preview"]
        folder = subject(name)
        assert pcs("fit", recipe, folder, *words, "--out", tmp_path / name).code == 0
    pair = [tmp_path / "rex", tmp_path / "tom"]
    done = pcs("merge", *pair, "--set", "ridge=1e-5", "--out", tmp_path / "both")
    assert done.code == 0, done.err
    assert {"manifest.json", "weights.safetensors", "preview.png"} <= names(tmp_path / "both")
    printed = json.loads(pcs("show", tmp_path / "both", "--json").out)
    assert [c["token"] for c in printed["concepts"]] == ["<rex>", "<tom>"]
    for arguments, says in (
        (pair[:1], "at least two"),
        ([*pair, "--method", "closed-from"], "closed-form"),
        ([*pair, "--set", "rigde=1"], "ridge"),
        ([*pair, "--set", "ridge=much"], "ridge"),
        ([*pair, "--set", "ridge"], "KEY=VALUE"),
        ([pair[0], pair[0]], "<rex>"),
        ([pair[0], tmp_path / "nowhere"], "nowhere"),
    ):
        done = pcs("merge", *arguments, "--out", tmp_path / "refused")
        assert done.code == 2
        assert says in done.err
        assert not (tmp_path / "refused").exists()


def test_a_layout_is_read_and_told(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    file, placing = tmp_path / "layout.json", tmp_path / "placing"
    options = ["--backbone", "tiny", "--set", "sample.steps=2", "--no-preview"]
    assert pcs("fit", "layout-control", *options, "--out", placing).code == 0
    box = {"phrase": "dog", "box": [0.0, 0.0, 0.5, 1.0]}
    file.write_text(json.dumps({"boxes": [box]}), "utf-8")
    arguments = ["sample", placing, "a photo of a dog", "-n", 1, "--layout", file]
    done = pcs(*arguments, "--out", tmp_path / "pictures")
    assert done.code == 0, done.err
    document = json.loads((tmp_path / "pictures" / "sample.json").read_text())
    assert document["layout"] == {"boxes": [{**box, "prompt": ""}], "points": []}
    file.write_text(json.dumps({"boxes": [{**box, "phrase": "phota"}]}), "utf-8")
    refused = pcs(*arguments, "--out", tmp_path / "no")
    assert refused.code == 2
    assert "'phota' is not in the prompt" in refused.err
    assert "did you mean 'photo'?" in refused.err
    refused = pcs("sample", fitted, "a <rex>", "--layout", file, "--out", tmp_path / "no")
    assert refused.code == 2
    assert "'words' reads no layout" in refused.err


def test_a_layout_is_read_by_a_technique_that_is_added(pcs: Callable, tmp_path: Path) -> None:
    """On the untuned backbone, and said to do nothing where there is no layout."""
    file, out = tmp_path / "layout.json", tmp_path / "pictures"
    file.write_text('{"boxes": [{"phrase": "a dog", "box": [0, 0, 0.5, 1]}]}', "utf-8")
    words = ["sample", "--base", "tiny", "a photo of a dog", "-n", 1, "--steps", 2]
    refused = pcs(*words, "--layout", file, "--out", out)
    assert refused.code == 2
    assert "the untuned backbone reads no layout" in refused.err
    added = [*words, "--with", "guidance.layout"]
    plain = pcs(*added, "--out", out)
    assert plain.code == 0, plain.err
    assert "guidance.layout does nothing without --layout" in plain.err
    done = pcs(*added, "--layout", file, "--out", tmp_path / "placed")
    assert done.code == 0, done.err
    assert "does nothing" not in done.err
    assert pixels(tmp_path / "placed" / "000.png") != pixels(out / "000.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["style"], "write NAME=VALUE"),
        (["style=much"], "write NAME=VALUE"),
        (["style=1", "style=2"], "given twice"),
        (["style=1"], "unknown strength 'style' (of this personalization: learnable)"),
        (["lernable=1"], "did you mean 'learnable'?"),
        (["learnable=1", "tokens.learnable=2"], "'tokens.learnable' is given another already"),
    ],
)
def test_strengths_are_checked(
    pcs: Callable, fitted: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    options = [part for word in words for part in ("--strength", word)]
    refused = pcs("sample", fitted, "a photo of <rex>", *options, "--out", tmp_path / "no")
    assert refused.code == 2
    assert said in refused.err


def test_a_strength_weighs_what_was_learned(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    pictures = {}
    for name, words in (
        ("plain", [fitted, "a photo of <rex>"]),
        ("one", [fitted, "a photo of <rex>", "--strength", "learnable=1"]),
        ("half", [fitted, "a photo of <rex>", "--strength", "learnable=0.5"]),
        ("none", [fitted, "a photo of <rex>", "--strength", "learnable=0"]),
        ("base", ["--base", "tiny", "a photo of dog", "--scale", 2]),
    ):
        done = pcs("sample", *words, "-n", 1, "--steps", 3, "--out", tmp_path / name)
        assert done.code == 0, done.err
        pictures[name] = pixels(tmp_path / name / "000.png")
    assert pictures["plain"] == pictures["one"] != pictures["half"]
    assert pictures["none"] == pictures["base"] != pictures["half"]
    assert json.loads((tmp_path / "half" / "sample.json").read_text())["strengths"] == {
        "learnable": 0.5
    }
    assert "learnable  (pcs sample --strength NAME=0.5)" in pcs("show", fitted).out
    assert json.loads(pcs("show", fitted, "--json").out)["strengths"] == ["learnable"]
