"""One deployment serves every LoRA: same pictures as the network, whatever the subject and the rank."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcs_cli.main import main
from pcs_core import fit, load_preset, load_recipe, open_backbone, sample, save
from pcs_core.backbone import Attachment, Backbone, TokenisedPrompts, overlong, tokenise
from pcs_core.data import Fusion, Level, Personalization, Recipe
from pcs_core.errors import ArtifactError, CapabilityError, InputError, UnknownNameError
from pcs_onnx.runtime import load as load_deployment

pytestmark = pytest.mark.rotated(3, "file")

PROMPT = "a photo of <one> on the beach"
TOLERANCE = 1e-5


def recipe(rank: int, alpha: float) -> Recipe:
    settings = [f"weights.lora.rank={rank}", f"weights.lora.alpha={alpha}"]
    settings += ["tune.steps=2", "tune.lr=1e-2", "sample.steps=3"]
    return load_recipe("lora-dreambooth", backbone="tiny", overrides=settings)


@pytest.fixture(scope="module")
def artifacts(backbone: Backbone, subject) -> list[Personalization]:
    """Two subjects, of two ranks and two scales."""
    one = fit(recipe(4, 4.0), subject(1), backbone, seed=1)
    return [*one, *fit(recipe(2, 8.0), subject(2), backbone, seed=2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of the system, without any subject."""
    out = tmp_path_factory.mktemp("onnx") / "deployment"
    words = ["export", "lora-dreambooth", "--to", "onnx", "--backbone", "tiny", "--out", str(out)]
    assert main([*words, "--set", "weights.lora.rank=4"]) == 0
    return out


@pytest.fixture(scope="module")
def deployed(folder: Path) -> Backbone:
    return open_backbone(folder)


def test_the_manifest_says_what_is_in_the_folder(folder: Path, backbone: Backbone) -> None:
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = {p.name for p in folder.iterdir()} - {"manifest.json", ".pcs-files.json"}
    assert set(facts["files"]) == files
    assert {"denoiser.onnx", "text.onnx", "decoder.onnx", "tokenizer.json"} <= files
    assert facts["backbone"]["hash"] == backbone.card.hash
    assert facts["opset"] == 23
    assert facts["scheduler"]["beta_schedule"] == "scaled_linear"
    denoiser = facts["graphs"]["denoiser"]
    kinds = [entry["kind"] for entry in denoiser["inputs"]]
    assert kinds[:2] == ["latents", "time"]
    key_kinds = [entry["kind"] for entry in facts["graphs"]["keys"]["inputs"]]
    assert key_kinds[0] == "text"  # keys and values of the text do not change from step to step
    assert (
        [*kinds, *key_kinds].count("tensor")
        == 3 * len(denoiser["edits"])
        > key_kinds.count("tensor")
        > 0
    )
    errors = [graph["max_error"] for graph in facts["graphs"].values()]
    assert max(errors) <= facts["tolerance"]["relative"] == TOLERANCE


def test_each_lora_draws_as_on_the_network(
    artifacts: list[Personalization], backbone: Backbone, deployed: Backbone, trajectory, apart
) -> None:
    drawn = [trajectory(artifact, deployed) for artifact in artifacts]
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone)) <= TOLERANCE
    assert apart(drawn[0], drawn[1]) > 100 * TOLERANCE  # the conditioning is alive


def test_what_no_step_changes_runs_once(artifacts, folder: Path) -> None:
    deployed = open_backbone(folder)
    for _ in range(2):
        sample(artifacts[0], deployed, PROMPT, steps=3)
    graphs = deployed.graphs  # type: ignore[attr-defined]
    assert graphs["keys"].asked == graphs["denoiser"].session.calls == 6
    assert graphs["keys"].session.calls == 1
    assert graphs["text"].session.calls == 2  # the prompt's and the empty one
    sample(artifacts[1], deployed, PROMPT, steps=3)
    assert graphs["keys"].session.calls == 2


def test_a_graph_reads_one_window_and_says_what_it_cuts(
    artifacts: list[Personalization], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """The network reads longer texts in windows; an exported graph has one length."""
    save(artifacts[0], tmp_path / "one")
    drawn = []
    for end in ("red on the beach", "blue in snow"):
        overlong._tell.cache_clear()
        words = [f"a photo of <one>, {'very big ' * 12}{end}", "--deployment", str(folder)]
        out = tmp_path / end[:3]
        options = ["--steps", "1", "-n", "1", "--device", "cpu", "--out", str(out)]
        assert main(["sample", str(tmp_path / "one"), *words, *options]) == 0
        said = capfd.readouterr().err
        assert "these words are cut off" in said
        assert end in said
        drawn.append((out / "000.png").read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("syntax", "prompt"), [("a1111", "a (<one>:1.5) on the beach"), ("compel", "a (<one>)1.5 on")]
)
def test_words_weigh_as_on_the_network(
    artifacts, backbone: Backbone, deployed: Backbone, trajectory, apart, syntax: str, prompt: str
) -> None:
    technique = "tokens.prompt_weights"
    preset = load_preset(techniques=[technique], overrides=[f"{technique}.syntax={syntax}"])
    here, there = (
        trajectory(artifacts[0], on, prompt, preset=preset) for on in (backbone, deployed)
    )
    assert apart(there, here) <= TOLERANCE
    assert apart(there, trajectory(artifacts[0], deployed, prompt)) > 10 * TOLERANCE


def test_results_lie_where_torch_put_them(folder: Path) -> None:
    graph = open_backbone(folder).graphs["decoder"]  # type: ignore[attr-defined]
    shape = graph.inputs[0]["shape"]
    latents = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0))
    first, second, again = (graph.run([x], [])[0] for x in (*latents, latents[0]))
    assert torch.equal(first, again)  # the first call of a shape, and one with bound outputs
    assert not torch.equal(first, second)
    places = {t.data_ptr() for t in (first, second, again)}
    assert len(places) == 3


def test_optimizers_can_be_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []
    usual = onnxruntime.InferenceSession

    def start(*args, **options):
        seen.append(options.get("disabled_optimizers"))
        return usual(*args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    opened = load_deployment(folder, disabled_optimizers=["SkipLayerNormFusion"])
    assert opened is not None
    opened.decode(torch.zeros(1, *opened.latent_shape))
    assert seen == [["SkipLayerNormFusion"]]


def test_one_size_only(deployed: Backbone) -> None:
    with pytest.raises(CapabilityError, match="pictures of \\(32, 32\\) only: export with"):
        deployed.at(48, 48)  # type: ignore[attr-defined]


def test_the_untuned_network_comes_out_too(
    artifacts, backbone: Backbone, deployed: Backbone, trajectory, apart
) -> None:
    prompt = "a photo of a dog"
    actual = trajectory(None, deployed, prompt)
    assert apart(actual, trajectory(None, backbone, prompt)) <= TOLERANCE


def test_a_learned_word_needs_no_deployment_of_its_own(
    backbone: Backbone, deployed: Backbone, subject, trajectory, apart
) -> None:
    settings = ["token.steps=2", "token.lr=1e-1"]
    words = load_recipe("textual-inversion", backbone="tiny", overrides=settings)
    (artifact,) = fit(words, subject(1), backbone)
    actual = trajectory(artifact, deployed)
    assert apart(actual, trajectory(artifact, backbone)) <= TOLERANCE
    assert apart(actual, trajectory(None, backbone, "a photo of dog on the beach")) > TOLERANCE


@pytest.mark.parametrize("scheduler", ["euler-trailing", "dpm++", "unipc", "lcm", "ddpm"])
def test_every_scheduler(
    scheduler: str, artifacts, backbone: Backbone, deployed: Backbone, trajectory, apart
) -> None:
    actual = trajectory(artifacts[0], deployed, scheduler=scheduler)
    # one level of noise more in the difference: the last steps divide by small sigmas
    assert apart(actual, trajectory(artifacts[0], backbone, scheduler=scheduler)) <= 2 * TOLERANCE


def test_more_rows_than_a_graph_takes(deployed: Backbone, backbone: Backbone) -> None:
    rows = 70
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, *backbone.latent_shape, generator=rng)
    ids = torch.randint(0, 100, (rows, backbone.tokenizer.length), generator=rng)
    level = Level(*(torch.full((rows,), v) for v in (0.6, 0.8)), torch.full((rows,), 500))
    outputs = []
    for on in (deployed, backbone):
        with Attachment(on, Fusion()) as net, torch.no_grad():
            cond = net.encode_text(TokenisedPrompts(ids, {}))
            outputs.append(net.evaluate(latents, level, cond).output)
    assert float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max()) <= TOLERANCE


@pytest.mark.parametrize(
    "text",
    ["A photo of <X>  Sks dog's beach!! 123", "naïve café — zz", "", " hi\n there ", "<one>"],
)
def test_the_tokenizer_reads_alike(text: str, backbone: Backbone, deployed: Backbone) -> None:
    assert deployed.tokenizer.encode(text) == backbone.tokenizer.encode(text)
    assert deployed.tokenizer.is_entry(text) == backbone.tokenizer.is_entry(text)


def test_the_command_draws_and_reports_providers(
    artifacts: list[Personalization], folder: Path, tmp_path: Path
) -> None:
    save(artifacts[0], tmp_path / "artifact")
    words = ["sample", str(tmp_path / "artifact"), PROMPT, "-n", "1", "--steps", "2"]
    out = tmp_path / "drawn"
    words += ["--engine", "onnx", "--deployment", str(folder), "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 0
    facts = json.loads((out / "sample.json").read_text("utf-8"))
    assert facts["engine"]["providers"]["denoiser"] == ["CPUExecutionProvider"]
    assert (out / "000.png").is_file()


def test_nothing_of_transformers_peft_or_diffusers_models(
    artifacts: list[Personalization], folder: Path, tmp_path: Path
) -> None:
    save(artifacts[1], tmp_path / "artifact")
    code = f"""
import sys
for name in ("transformers", "peft", "onnx", "onnxscript"):
    sys.modules[name] = None  # as if it were not installed
from pcs_core import sample
pictures = sample({str(tmp_path / "artifact")!r}, None, {PROMPT!r}, steps=2,
                  engine="onnx", deployment={str(folder)!r})
assert pictures.shape == (1, 3, 32, 32), pictures.shape
print([m for m in sys.modules if m.startswith(("diffusers.models", "diffusers.pipelines"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_folder_needs_no_more_than_the_core_this_plugin_and_processes(
    folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "another-machine"
    shutil.copytree(folder, moved)
    code = f"""
import sys
for name in ("transformers", "peft", "onnx", "onnxscript", "pcs_diffusers",
             "pcs_weights", "pcs_tokens", "pcs_attention", "pcs_encoders", "pcs_recipes"):
    sys.modules[name] = None  # as if it were not installed
from pcs_core import sample
pictures = sample(None, None, "a photo of a dog", steps=2, engine="onnx", deployment={str(moved)!r})
assert pictures.shape == (1, 3, 32, 32), pictures.shape
print(sorted(m for m in sys.modules if m.startswith("pcs_") and "." not in m and sys.modules[m]))
"""
    environment = {**os.environ, "PCS_PLUGINS": "onnx"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    imported = "['pcs_core', 'pcs_engine', 'pcs_onnx', 'pcs_processes']"  # the first two are one distribution
    assert done.stdout.strip().splitlines()[-1] == imported


def test_switching_the_subject_makes_no_session(
    artifacts: list[Personalization], deployed: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    for artifact in (*artifacts, *artifacts):
        sample(artifact, deployed, PROMPT, steps=1)


def test_a_larger_rank_is_refused(backbone: Backbone, deployed: Backbone, subject) -> None:
    (large,) = fit(recipe(6, 6.0), subject(1), backbone)
    with pytest.raises(CapabilityError, match="has shape .*, the graph takes"):
        sample(large, deployed, PROMPT)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["sites=*.conv1", "kind=conv"], r"knows no 'weights\.lora/"),
        (["sites=*.to_q"], r"the artifact has no 'weights\.lora/"),
    ],
)
def test_edits_elsewhere_are_refused(
    settings: list[str], reason: str, backbone: Backbone, deployed: Backbone, subject
) -> None:
    words = [f"weights.lora.{setting}" for setting in settings]
    other = load_recipe("lora-dreambooth", backbone="tiny", overrides=[*words, "tune.steps=1"])
    (artifact,) = fit(other, subject(1), backbone)
    with pytest.raises(CapabilityError, match=reason):
        sample(artifact, deployed, PROMPT)


def test_another_backbone_is_refused(subject, deployed: Backbone) -> None:
    (artifact,) = fit(recipe(2, 2.0), subject(1), open_backbone("tiny-v"))
    with pytest.raises(ArtifactError, match="other weights"):
        sample(artifact, deployed, PROMPT)


def test_maps_and_gradients_are_refused(deployed: Backbone, backbone: Backbone) -> None:
    latents = torch.zeros(1, *backbone.latent_shape)
    level = Level(*(torch.full((1,), v) for v in (0.6, 0.8)), torch.full((1,), 500))
    with Attachment(deployed, Fusion()) as net:
        cond = net.encode_text(tokenise(["a dog"], deployed.tokenizer))
        with pytest.raises(CapabilityError, match="records attention maps of cross"):
            net.evaluate(latents, level, cond, record=("cross",))
        with pytest.raises(CapabilityError, match="wants gradients"):
            net.evaluate(latents.requires_grad_(), level, cond)


def test_a_deployment_cannot_be_fitted(subject, deployed: Backbone) -> None:
    with pytest.raises(CapabilityError, match="fit on the backbone itself"):
        fit(recipe(2, 2.0), subject(1), deployed)


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not the file that was exported"):
        open_backbone(copy)


def test_a_missing_provider_is_named_before_anything_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    shutil.copy(folder / "manifest.json", tmp_path / "manifest.json")  # and no graph
    with pytest.raises(InputError, match="no execution provider 'cuda' .*onnxruntime-gpu"):
        open_backbone(tmp_path, device="cuda")
    with pytest.raises(InputError, match="no execution provider 'tensorrt' .*package index"):
        load_deployment(tmp_path, device="cuda", providers=["tensorrt"])
    monkeypatch.setenv("PCS_ONNX_PROVIDERS", "cuda")
    with pytest.raises(InputError, match="'cuda' runs on a GPU: use --device cuda"):
        open_backbone(tmp_path)
    with pytest.raises(InputError, match="no execution provider 'cdua', did you mean 'cuda'"):
        load_deployment(tmp_path, device="cuda", providers=["cdua"])


def test_providers_are_an_option_of_the_engine(
    artifacts: list[Personalization],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    save(artifacts[0], tmp_path / "artifact")
    words = ["sample", str(tmp_path / "artifact"), PROMPT, "--out", str(tmp_path / "drawn")]
    words += ["--deployment", str(folder)]
    assert main([*words, "--engine", "onnx", "--option", "providers=tensorrt,cuda"]) == 2
    assert "'tensorrt' runs on a GPU: use --device cuda" in capsys.readouterr().err
    assert main([*words, "--engine", "onnx", "--option", "provider=cpu"]) == 2
    assert "onnx has no setting 'provider', did you mean 'providers'" in capsys.readouterr().err
    assert main([*words, "--engine", "onnx", "--option", "device=cpu"]) == 2
    assert "onnx has no setting 'device'" in capsys.readouterr().err
    assert main([*words, "--option", "providers=cpu"]) == 2
    assert "name its engine with --engine" in capsys.readouterr().err
    with pytest.raises(InputError, match="'cuda' runs on a GPU"):
        sample(
            None, None, "a dog", engine="onnx", deployment=folder, options={"providers": ["cuda"]}
        )


def test_words_that_do_not_go_together(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no engine 'onx', did you mean 'onnx'"):
        sample(None, None, "a dog", engine="onx", deployment=folder)
    with pytest.raises(InputError, match="runs a deployment: name its folder"):
        sample(None, None, "a dog", engine="onnx")
    with pytest.raises(InputError, match="is no deployment of engine 'onnx'"):
        sample(None, None, "a dog", engine="onnx", deployment=tmp_path)
