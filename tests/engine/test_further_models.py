"""Further models of a recipe: asked beside the network that is fitted, frozen, and refused early."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl, load, load_recipe, sample, save
from pcs_core.backbone import Attachment, Backbone, tokenise, trainable
from pcs_core.data import FurtherModel, Personalization, TokenEdit, Words
from pcs_core.errors import (
    ArtifactError,
    CapabilityError,
    InputError,
    PcsError,
    RecipeError,
    UnknownNameError,
)
from pcs_engine import checkpoints, open_backbone, restore
from pcs_engine import further as module
from pcs_testing import make_recipe, make_subject

SEEN: list[dict[str, Any]] = []
STUDENT = """[recipe]
id = "student"

[[use]]
technique = "tokens.learnable"

[[use]]
technique = "weights.lora"
"""
PRESERVED = '\n[[use]]\ntechnique = "regularizers.prediction_preservation"\nmodel = "teacher"\n'
PHASE = '\n[[phase]]\nname = "p"\nsteps = 3\nlr = 0.05\n'
TEACHER = STUDENT.replace("student", "tutor") + PHASE.replace("steps = 3", "steps = 1")


class Asking(Technique):
    """Asks a model in every step, and keeps what it said."""

    id = "test.asking"
    model: str = "teacher"
    """Whom it asks."""
    learns: bool = False
    """Whether latents have a gradient."""

    def words(self) -> Words:
        return Words(reads=() if self.model == "base" else (f"model:{self.model}",))

    @hookimpl
    def regularize(self, step: Any) -> None:
        before = step.evaluate(step.noisy, step.level, step.cond).output.detach()
        cond = step.encode(list(step.batch.captions), model=self.model)
        latents = step.noisy.clone().requires_grad_(self.learns)
        said = step.evaluate(latents, step.level, cond, model=self.model)
        after = step.evaluate(step.noisy, step.level, step.cond).output.detach()
        SEEN.append(
            {"step": step, "said": said, "cond": cond, "before": before, "after": after}
            | ({"grad": torch.autograd.grad(said.x0.sum(), latents)[0]} if self.learns else {})
        )


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every step is told of, and may be the last before a fit goes on."""
    SEEN.clear()
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(sys.modules["pcs_engine.progress"], "REPORT_EVERY", 1)


@pytest.fixture(scope="module")
def teacher(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose word and weights are far from the base."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tutor.toml").write_text(TEACHER)
    subject = make_subject("tom", token="<tom>", noun="cat", seed=5)
    (made,) = fit(load_recipe(folder / "tutor.toml"), subject, backbone)
    moved = {
        k: v + 0.3 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
        for k, v in made.tensors.items()
    }
    save(replace(made, tensors=moved), folder / "artifact")
    return folder / "artifact"


def asking(
    backbone: Backbone, model: FurtherModel, steps: int = 1, **settings: Any
) -> Personalization:
    """Fit the student of `STUDENT` with a watcher that asks ``model``."""
    from pcs_core.data import Phase
    from pcs_tokens.learnable import LearnableToken
    from pcs_weights.lora import LoRA

    recipe = make_recipe(
        [LearnableToken(), LoRA(), Asking(**settings)], Phase("p", steps, lr={"*": 0.05})
    )
    return fit(replace(recipe, models=(model,)), make_subject(), backbone)[0]


def alone(
    artifact: Personalization | None, backbone: Backbone, step: Any, texts: list[str]
) -> torch.Tensor:
    """Return the x0 of a network that nothing else is attached to, told ``texts``."""
    _, fusion = restore(artifact, backbone, 0)
    words = artifact.concepts if artifact else ()
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        tokens = tokenise(
            texts,
            backbone.tokenizer,
            words=fusion.words,
            tokens=fusion.of(TokenEdit),
            concepts=[[c.token for c in words]],
        )
        index = torch.zeros(len(texts), dtype=torch.long)
        cond = net.encode_text(tokens, index, time=step.cond.time)
        return net.evaluate(step.noisy, step.level, cond).x0


def test_without_more_it_is_the_base_which_reads_the_noun(backbone: Backbone) -> None:
    asking(backbone, FurtherModel("teacher"), steps=2)
    for seen in SEEN:
        texts = [c.replace("<fido>", "dog") for c in seen["step"].batch.captions]
        assert texts != list(seen["step"].batch.captions)
        assert torch.equal(seen["said"].x0, alone(None, backbone, seen["step"], texts))
    assert not torch.equal(SEEN[1]["said"].output, SEEN[1]["before"])


def test_an_artifact_says_what_it_says_alone_and_leaves_the_fit_as_it_was(
    backbone: Backbone, teacher: Path
) -> None:
    """Its own word stands for that of the fitted subject."""
    asking(backbone, FurtherModel("teacher", artifact=str(teacher)), steps=2)
    for seen in SEEN:
        texts = [c.replace("<fido>", "<tom>") for c in seen["step"].batch.captions]
        right = alone(load(teacher), backbone, seen["step"], texts)
        assert torch.equal(seen["said"].x0, right)
        assert float((right - alone(None, backbone, seen["step"], texts)).abs().max()) > 1e-3
        assert torch.equal(seen["before"], seen["after"])


def test_it_has_no_gradient_and_the_latents_may_have_one(backbone: Backbone, teacher: Path) -> None:
    asking(backbone, FurtherModel("teacher", artifact=str(teacher)), learns=True)
    (seen,) = SEEN
    assert float(seen["grad"].abs().max()) > 0


def test_its_parameters_are_frozen(backbone: Backbone, teacher: Path) -> None:
    opened = module.OpenedModel("t", backbone, backbone, make_subject(), load(teacher), 0)
    assert opened.fusion is not None
    parameters = trainable(opened.fusion)
    assert parameters
    assert not any(p.requires_grad for p in parameters.values())


def test_another_network_answers_in_the_fitted_ones_quantity(backbone: Backbone) -> None:
    """That of tiny-v is velocity, the fitted one's noise: x0 is the same thing of both."""
    other = open_backbone("tiny-v")
    assert (other.card.prediction, backbone.card.prediction) == ("v_prediction", "epsilon")
    asking(backbone, FurtherModel("teacher", backbone="tiny-v"))
    (seen,) = SEEN
    step = seen["step"]
    texts = [c.replace("<fido>", "dog") for c in step.batch.captions]
    x0 = alone(None, other, step, texts)
    torch.testing.assert_close(seen["said"].x0, x0, rtol=0, atol=1e-6)
    alpha, sigma = step.level.like(step.noisy)
    torch.testing.assert_close(
        seen["said"].output, (step.noisy - alpha * x0) / sigma, rtol=1e-4, atol=1e-4
    )


def test_a_text_of_another_encoder_is_refused(backbone: Backbone) -> None:
    other = open_backbone("tiny-v")
    opened = module.OpenedModel("t", backbone, other, make_subject(), None, 0)
    asking(backbone, FurtherModel("teacher"))
    step = SEEN[0]["step"]
    with pytest.raises(
        CapabilityError, match=r"'t' was asked with a text that it did not encode.*model='t'"
    ):
        opened.evaluate(step.noisy, step.level, step.cond)


@pytest.mark.parametrize("technique", ["weights.lora", "weights.full", "weights.peft"])
def test_a_loss_of_no_weight_changes_no_bit_of_a_fit(
    backbone: Backbone, teacher: Path, tmp_path: Path, technique: str
) -> None:
    """However the student is plugged in: layers, other weights, another library's."""
    ends = []
    for preserved in ("", PRESERVED + f'\n[[model]]\nname = "teacher"\nartifact = "{teacher}"\n'):
        light = preserved.replace('model = "teacher"\n', 'model = "teacher"\nweight = 1e-30\n')
        (tmp_path / "student.toml").write_text(
            STUDENT.replace("weights.lora", technique) + light + PHASE
        )
        ends.append(fit(load_recipe(tmp_path / "student.toml"), make_subject(), backbone)[0])
    first, second = ends
    assert second.losses["preservation"] > 0
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[k], second.tensors[k]) for k in first.tensors)


def written(folder: Path, model: str, preserved: str = PRESERVED) -> Path:
    path = folder / "student.toml"
    path.write_text(STUDENT + preserved + f'\n[[model]]\nname = "teacher"\n{model}' + PHASE)
    return path


def opens_nothing(*_: Any, **__: Any) -> Any:
    raise AssertionError("weights were read")


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (
            'backbone = "tniy"',
            UnknownNameError,
            "student: the model 'teacher': no backbone 'tniy', did you mean 'tiny'",
        ),
        (
            'artifact = "nowhere"',
            ArtifactError,
            "student: the model 'teacher': .*nowhere is not|does not exist",
        ),
        (
            'system = "dreamboth"',
            UnknownNameError,
            "the model 'teacher': .*'dreamboth', did you mean 'dreambooth'",
        ),
        (
            'system = "student.toml"',
            RecipeError,
            "the model 'teacher': 'student' asks further models itself",
        ),
        (
            'system = "kontext"',
            CapabilityError,
            "the model 'teacher': 'kontext' cannot run on backbone 'tiny'",
        ),
    ],
)
def test_what_is_missing_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, kind: type[PcsError], message: str
) -> None:
    recipe = load_recipe(written(tmp_path, f"{line}\n"), backbone="tiny")
    # the package gives the function under the name of its file
    monkeypatch.setattr(sys.modules["pcs_engine.fit"], "open_backbone", opens_nothing)
    with pytest.raises(kind, match=message):
        fit(recipe, make_subject(), "tiny")


@pytest.mark.parametrize(
    ("model", "preserved", "message"),
    [
        ("", "", r"student.toml:11: no technique of the recipe asks the model 'teacher'"),
        (
            "",
            PRESERVED.replace('"teacher"', '"techer"'),
            r"asks a model 'techer', and the recipe has no \[\[model\]\] of that name, did you mean 'teacher'",
        ),
        ('artifact = "a"\nsystem = "b"\n', PRESERVED, "an artifact and a system at once"),
        (
            'weights = "a"\n',
            PRESERVED,
            "student.toml:16: model 'teacher': unknown setting 'weights'",
        ),
        ('\n[[model]]\nname = "teacher"\n', PRESERVED, "two models are called 'teacher'"),
        (
            '\n[[model]]\nname = "self"\n',
            PRESERVED,
            "'self' is what techniques call the fitted network itself",
        ),
        (
            '\n[[model]]\nname = "weights.lora"\n',
            PRESERVED,
            "'weights.lora' cannot be the name of a model: it is taken",
        ),
    ],
)
def test_a_table_that_means_nothing_is_refused_when_the_recipe_loads(
    tmp_path: Path, model: str, preserved: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(written(tmp_path, model, preserved))


def test_a_recipe_keeps_its_models(tmp_path: Path) -> None:
    """In its document, through `extends`, and for `--set`; without one no document has the key."""
    from pcs_core import recipe_from_document

    path = written(tmp_path, 'backbone = "tiny-v"\n')
    recipe = load_recipe(path)
    assert recipe.models == (FurtherModel("teacher", backbone="tiny-v"),)
    assert recipe_from_document(recipe.document).models == recipe.models
    assert recipe.origins["teacher.backbone"].endswith("student.toml:16")
    changed = load_recipe(path, overrides=["teacher.artifact=./made"])
    assert changed.models == (FurtherModel("teacher", "tiny-v", "./made"),)
    assert changed.hash != recipe.hash
    (tmp_path / "child.toml").write_text(
        '[recipe]\nid = "child"\nextends = "student.toml"\n[[model]]\nname = "teacher"\n'
    )
    assert load_recipe(tmp_path / "child.toml").models == (FurtherModel("teacher"),)
    (tmp_path / "plain.toml").write_text(STUDENT + PHASE)
    assert "model" not in load_recipe(tmp_path / "plain.toml").document


def test_an_artifact_in_a_file_is_one_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an option is one beside the user."""
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(written(tmp_path, 'artifact = "made"\n'))
    assert Path(module.beside_recipe(recipe, recipe.models[0], "artifact")) == tmp_path / "made"
    said = load_recipe(tmp_path / "student.toml", overrides=["teacher.artifact=made"])
    assert module.beside_recipe(said, said.models[0], "artifact") == "made"


def test_networks_of_other_latents_and_other_weights_are_refused(
    backbone: Backbone, teacher: Path, tmp_path: Path
) -> None:
    from pcs_diffusers.tiny import tiny, tiny_sd3

    class Other:
        """tiny, with another autoencoder or another schedule."""

        def __init__(self, **changes: Any) -> None:
            self.__dict__ |= {
                k: getattr(backbone, k)
                for k in ("card", "process", "latent_shape", "parts", "device")
            } | changes

    with pytest.raises(
        CapabilityError,
        match=r"the model 't' is on backbone 'tiny-sd3', the fit on 'tiny': their latents",
    ):
        module.check_alike("t", backbone, tiny_sd3())
    parts = {**backbone.parts, "vae": tiny(seed=1).parts["vae"]}
    with pytest.raises(CapabilityError, match="they have different autoencoders"):
        module.check_alike("t", backbone, Other(parts=parts))  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="their noise has different schedules"):
        module.check_alike("t", backbone, Other(process=tiny_sd3().process))  # type: ignore[arg-type]
    recipe = load_recipe(written(tmp_path, f'backbone = "tiny-v"\nartifact = "{teacher}"\n'))
    with pytest.raises(
        ArtifactError,
        match=r"student: the model 'teacher': .*was made on backbone 'tiny'.*has other weights",
    ):
        fit(recipe, make_subject(), backbone)


@pytest.fixture
def tutor(tmp_path: Path) -> Path:
    """A recipe whose teacher is a system that is fitted first."""
    (tmp_path / "tutor.toml").write_text(TEACHER)
    return written(tmp_path, 'system = "tutor.toml"\n')


def stopping(after: int) -> Callable[[Any], None]:
    def watch(progress: Any) -> None:
        if progress.done == after:
            raise KeyboardInterrupt

    return watch


def test_a_system_is_fitted_first_and_not_again_when_the_fit_goes_on(
    backbone: Backbone, tmp_path: Path, tutor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pcs")
    recipe, subject = load_recipe(tutor), make_subject()
    (whole,) = fit(recipe, subject, backbone, work=tmp_path / "one")
    said = [m for m in caplog.messages if "first, which is the model 'teacher'" in m]
    assert said == ["fitting 'tutor' on 'fido' first, which is the model 'teacher'"]
    (made,) = fit(load_recipe(tmp_path / "tutor.toml"), subject, backbone)
    from pcs_engine.adapters import digest

    assert whole.extra["models"]["teacher"]["artifact"] == digest(made.tensors)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, subject, backbone, work=tmp_path / "two", watch=[stopping(2)])
    caplog.clear()
    (resumed,) = fit(recipe, subject, backbone, work=tmp_path / "two", resume=True)
    assert not [m for m in caplog.messages if "first, which is" in m]
    assert all(torch.equal(whole.tensors[k], resumed.tensors[k]) for k in whole.tensors)
    assert resumed.extra == whole.extra


def test_a_fit_goes_on_with_the_same_models_alone(
    backbone: Backbone, tmp_path: Path, teacher: Path
) -> None:
    recipe = load_recipe(written(tmp_path, 'artifact = "made"\n'))
    artifact = load(teacher)
    save(artifact, tmp_path / "made")
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, make_subject(), backbone, work=tmp_path / "work", watch=[stopping(2)])
    other = {k: v + 1 for k, v in artifact.tensors.items()}
    save(replace(artifact, tensors=other), tmp_path / "made", overwrite=True)
    with pytest.raises(InputError, match="was begun with another set of further models"):
        fit(recipe, make_subject(), backbone, work=tmp_path / "work", resume=True)


def test_what_was_learned_is_drawn_without_its_teacher(
    backbone: Backbone, tmp_path: Path, teacher: Path
) -> None:
    save(load(teacher), tmp_path / "made")
    (artifact,) = fit(
        load_recipe(written(tmp_path, 'artifact = "made"\n')), make_subject(), backbone
    )
    save(artifact, tmp_path / "learned")
    (tmp_path / "made" / "manifest.json").unlink()
    again = load(tmp_path / "learned")
    assert again.extra["models"]["teacher"].keys() == {"backbone", "sha256", "system", "artifact"}
    pictures = [sample(a, backbone, "a photo of <fido>", steps=2) for a in (artifact, again)]
    assert torch.equal(*pictures)


def test_subjects_with_a_teacher_train_one_after_the_other(backbone: Backbone, tutor: Path) -> None:
    subjects = [make_subject(), make_subject("tom", token="<tom>", noun="cat", seed=1)]
    both = fit(load_recipe(tutor), subjects, backbone)
    models = [a.extra["models"]["teacher"]["artifact"] for a in both]
    assert models[0] != models[1]
    (single,) = fit(load_recipe(tutor), subjects[1], backbone)
    assert all(torch.equal(single.tensors[k], both[1].tensors[k]) for k in single.tensors)
