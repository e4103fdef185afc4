"""An update of its own for each reference, elements that are left out, and steps without any update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pcs_core import Technique, fit, hookimpl, sample
from pcs_core.backbone import Backbone
from pcs_core.data import REFERENCE, SEED, Phase, Subject, WeightEdit
from pcs_core.errors import CapabilityError
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_weights.lora import LoRA, ReferenceLowRank
from pcs_weights.random_parts import dropped, off_rows

SITES = "mid_block*.attn1.to_q"
SEEN: list[tuple[Any, Any]] = []


class Spy(Technique):
    """Keeps each step's rows, and what it made of the network's output."""

    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        SEEN.append((step, step.output.detach().clone()))


def fitted(backbone: Backbone, subject: Subject, steps: int = 6, **settings: Any) -> Any:
    SEEN.clear()
    lora = LoRA(rank=2, sites=SITES, mode="fit", **settings)
    # something else trains, too: a step in which all that trains is off would be refused
    phase = Phase("p", steps, lr={"*": 1e-1})
    return fit(make_recipe([lora, Probe(sites="cross"), Spy()], phase), subject, backbone, seed=2)[
        0
    ]


def test_each_reference_trains_its_own_update(backbone: Backbone) -> None:
    artifact = fitted(backbone, make_subject(images=3), per_reference=True)
    shown = {step.batch.index[0] for step, _ in SEEN}
    assert len(shown) > 1
    learned = [t for n, t in artifact.tensors.items() if n.endswith("/B")]
    assert learned
    for b in learned:
        assert b.shape[0] == 3
        moved = {i for i in range(3) if bool(b[i].abs().max() > 0)}
        assert moved == shown


def test_rows_have_the_update_of_their_reference_and_drawings_the_sum(backbone: Backbone) -> None:
    technique = LoRA(rank=2, sites=SITES, per_reference=True)
    fusion = build_fusion(make_recipe([technique]), [make_subject(images=3)], backbone)
    edit: Any = fusion.of(WeightEdit)[0]
    assert isinstance(edit, ReferenceLowRank)
    torch.nn.init.normal_(edit.B)
    x = torch.randn(4, 5, edit.A.shape[-1])
    y = torch.zeros(4, 5, edit.B.shape[2])

    class Cond:
        subject = torch.zeros(4, dtype=torch.long)
        extra = {REFERENCE: torch.tensor([2, -1, 0, 2])}

    expected = [x[i] @ (edit.B[0, n] @ edit.A[0, n]).T for i, n in ((0, 2), (2, 0), (3, 2))]
    given = edit.residual(x, y, Cond())
    torch.testing.assert_close(given[[0, 2, 3]], torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert not given[1].any()
    Cond.extra = {}
    whole = sum((edit.B[0, n] @ edit.A[0, n]) for n in range(3))
    torch.testing.assert_close(edit.residual(x, y, Cond()), x @ whole.T, rtol=1e-5, atol=1e-5)


def test_an_artifact_of_own_updates_is_read_again(backbone: Backbone, tmp_path: Any) -> None:
    from pcs_core import load, load_recipe, save

    few = ["weights.lora.per_reference=true", f'weights.lora.sites="{SITES}"', "tune.lr=1e-1"]
    recipe = load_recipe("lora-dreambooth", overrides=[*few, "tune.steps=3", "sample.steps=2"])
    artifact = fit(recipe, make_subject(images=2), backbone, seed=2)[0]
    save(artifact, tmp_path / "a")
    again = load(tmp_path / "a")
    prompt = f"a photo of {artifact.concepts[0].token}"
    first, second = (sample(p, backbone, prompt, seed=1, steps=2) for p in (artifact, again))
    assert torch.equal(first, second)
    assert all(torch.equal(again.tensors[n], t) for n, t in artifact.tensors.items())


def test_dropout_leaves_out_a_share_and_keeps_the_mean() -> None:
    x = torch.ones(4, 50, 50)
    y = dropped(x, [1, 2], "a", 0.1)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / 0.9]))
    assert abs(float((y == 0).float().mean()) - 0.1) < 0.01
    assert torch.equal(y, dropped(x, [1, 2], "a", 0.1))
    assert not torch.equal(y[:2], y[2:])
    assert not torch.equal(y, dropped(x, [1, 2], "b", 0.1))
    assert torch.equal(y[2:], dropped(x[:2], [2], "a", 0.1)), "a row draws by its own seed alone"


def test_dropout_acts_in_fits_alone_and_a_fit_repeats_it(backbone: Backbone) -> None:
    subject = make_subject(images=1)
    plain, thinned, again = (fitted(backbone, subject, dropout=d) for d in (0.0, 0.5, 0.5))
    assert all(torch.equal(t, again.tensors[n]) for n, t in thinned.tensors.items())
    assert any(not torch.equal(t, plain.tensors[n]) for n, t in thinned.tensors.items())
    prompt = f"a photo of {subject.concept.token}"
    both = LoRA(rank=2, sites=SITES, dropout=0.9)
    artifact = fit(make_recipe([both], Phase("p", 3, lr={"*": 1e-1})), subject, backbone)[0]
    drawn = [sample(artifact, backbone, prompt, seed=1, steps=2) for _ in range(2)]
    assert torch.equal(*drawn)


def test_an_update_is_off_in_its_share_of_steps(backbone: Backbone) -> None:
    assert abs(sum(off_rows(list(range(4000)), "spatial", 0.2)) / 4000 - 0.2) < 0.02
    artifact = fitted(backbone, make_subject(images=1), steps=12, off=0.5)
    seeds = [int(step.cond.extra[SEED][0]) for step, _ in SEEN]
    assert len(set(seeds)) == 12
    off = [off_rows([seed], "weights.lora", 0.5)[0] for seed in seeds]
    assert 0 < sum(off) < 12
    assert any(t.abs().max() > 0 for n, t in artifact.tensors.items() if n.endswith("/B"))


def test_rows_of_no_step_are_refused(backbone: Backbone) -> None:
    technique = LoRA(rank=2, sites=SITES, dropout=0.5)
    edit: Any = build_fusion(make_recipe([technique]), [make_subject()], backbone).of(WeightEdit)[0]
    edit.train()
    x = torch.randn(1, 5, edit.A.shape[-1])
    with pytest.raises(CapabilityError, match="these rows are of none"):
        edit.residual(x, F.linear(x, torch.zeros(edit.B.shape[1], x.shape[-1])), None)


def test_old_documents_say_nothing_of_them() -> None:
    assert not set(LoRA().document()) & {"per_reference", "dropout", "off"}
    assert LoRA(dropout=0.1).document()["dropout"] == 0.1
    assert LoRA.from_settings({**LoRA().document()}).dropout == 0.0
