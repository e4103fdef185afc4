"""Processes that share one fit: what each computes, and that it is together what one process computes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.assembly import load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import ALL, Phase, Recipe, Use
from pcs_core.errors import CapabilityError, InputError, RecipeError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import fit
from pcs_engine.processes import (
    Processes,
    buckets,
    check_shared,
    given,
    join,
    place,
    shared,
)
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe


class Apart(Processes):
    """One of several that hears nothing of the others: its gradients are those of its share alone."""

    def share_gradients(self, *_: Any) -> None: ...

    def agree(self, *_: Any) -> None: ...

    def equalise(self, *_: Any) -> None: ...


class Coupled(Technique):
    """Its loss of a row depends on the other rows."""

    id = "test.coupled"

    @hookimpl
    def regularize(self, step: Any) -> Any:
        from pcs_core.data import Loss

        each = step.error.mean(dim=(1, 2, 3))
        return Loss("coupled", each * each.mean())


class Stopping(Technique):
    """Asks to stop."""

    id = "test.stopping"

    @hookimpl
    def regularize(self, step: Any) -> None:
        step.stop()


def phase(**changes: Any) -> Phase:
    return Phase("p", 1, **{"lr": {"*": 1.0}, "optimizer": "sgd", **changes})


def moved(recipe: Recipe, processes: Processes, backbone: Backbone) -> dict[str, Any]:
    """Return the tensors after one step of SGD at rate 1."""
    with given(processes):
        return dict(fit(recipe, make_subject(images=3), backbone, seed=3)[0].tensors)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


def test_parts_first_then_rows() -> None:
    assert shared(phase(accumulate=4), 2) == "parts"
    assert shared(phase(accumulate=4, batch={"subject": 4}), 2) == "parts"
    assert shared(phase(batch={"subject": 4, "prior": 2}), 2) == "rows"
    assert shared(phase(batch={"subject": 4, "prior": 0}), 4) == "rows"
    assert shared(phase(), 1) == "parts"


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"batch": {"subject": 2, "prior": 1}}, "p.accumulate=2"),
        ({"accumulate": 3}, "p.accumulate=4"),
        ({"batch": {"rendered": 4}}, "p.accumulate=2"),
        ({"batch": {"subject": ALL}}, "p.accumulate=2"),
    ],
)
def test_what_does_not_go_evenly_is_refused(changes: dict[str, Any], mend: str) -> None:
    with pytest.raises(RecipeError) as refused:
        shared(phase(**changes), 2)
    message = str(refused.value)
    rows = ", ".join(
        f"{'all' if n == ALL else n} of {r!r}"
        for r, n in changes.get("batch", {"subject": 1}).items()
    )
    for said in ("phase 'p'", "2 processes", rows, f"--set {mend}", "run one process"):
        assert said in message


def test_rows_that_depend_on_each_other_stay_together() -> None:
    uses = [Use("probe", Probe()), Use("odd", Coupled())]
    check_shared([phase(accumulate=2, batch={"subject": 2})], uses, 2)
    check_shared([phase(batch={"subject": 2})], uses[:1], 2)
    check_shared([Phase("q", 0), Phase("r", 1, pretrain=True)], uses, 2)
    with pytest.raises(RecipeError, match=r"rows of the use 'odd' may depend on each other"):
        check_shared([phase(batch={"subject": 2})], uses, 2)


def test_rows_are_an_equal_share_of_each_role_of_each_subject() -> None:
    rows = phase(batch={"subject": 2, "gone": 0, "prior": 4})
    assert Processes(0, 2).rows(rows, 2) == [0, 2, 3, 6, 8, 9]
    assert Processes(1, 2).rows(rows, 2) == [1, 4, 5, 7, 10, 11]
    assert Processes().rows(rows, 2) is None
    assert Processes(1, 2).rows(phase(accumulate=2, batch={"subject": 2}), 1) is None


def test_each_part_is_one_process_s() -> None:
    parts = phase(accumulate=4)
    assert [[Processes(i, 2).takes(parts, p) for p in range(4)] for i in (0, 1)] == [
        [True, False] * 2,
        [False, True] * 2,
    ]
    assert all(Processes(1, 2).takes(phase(batch={"subject": 2}), p) for p in range(1))


PRIOR = {"regularizers.prior_preservation.count": 2, "regularizers.prior_preservation.steps": 2}


@pytest.mark.parametrize(
    ("batch", "accumulate"),
    [({"subject": 1}, 4), ({"subject": 4}, 1), ({"subject": 2}, 3), ({"subject": 1}, 2)],
)
def test_shares_make_the_gradient_of_one_process(
    backbone: Backbone, batch: dict[str, int], accumulate: int
) -> None:
    recipe = make_recipe([Probe()], phase(batch=batch, accumulate=accumulate))
    whole = moved(recipe, Processes(), backbone)
    one, other = (moved(recipe, Apart(i, 2), backbone) for i in (0, 1))
    parts = accumulate % 2 == 0
    for name, value in whole.items():
        assert not torch.equal(one[name], other[name])
        close(one[name] + other[name] if parts else (one[name] + other[name]) / 2, value)


def test_two_roles_of_two_subjects(backbone: Backbone) -> None:
    settings = {"tune.steps": 1, "tune.batch": "{subject=2,prior=2}", "tune.clip": 0, **PRIOR}
    overrides = [f"{k}={v}" for k, v in settings.items()]
    recipe = load_recipe(
        "custom-diffusion", overrides=[o for o in overrides if "variants" not in o]
    )
    recipe = make_recipe(
        {u.name: u.technique for u in recipe.uses}, phase(batch={"subject": 2, "prior": 2})
    )
    subjects = [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate(("ann", "bob"))]
    tensors = []
    for processes in (Processes(), Apart(0, 2), Apart(1, 2)):
        with given(processes):
            tensors.append([a.tensors for a in fit(recipe, subjects, backbone)])
    for whole, one, other in zip(*tensors, strict=True):
        for name, value in whole.items():
            close((one[name] + other[name]) / 2, value)


def test_parts_may_couple_their_rows(backbone: Backbone) -> None:
    recipe = make_recipe([Probe(), Coupled()], phase(batch={"subject": 3}, accumulate=2))
    whole = moved(recipe, Processes(), backbone)
    one, other = (moved(recipe, Apart(i, 2), backbone) for i in (0, 1))
    for name, value in whole.items():
        close(one[name] + other[name], value)


def test_a_stop_is_refused_by_name(backbone: Backbone) -> None:
    recipe = make_recipe([Probe(), Stopping()], phase(accumulate=2))
    with given(Apart(0, 2)), pytest.raises(CapabilityError, match="step.stop"):
        fit(recipe, make_subject(), backbone)


def test_another_number_of_processes_does_not_go_on(backbone: Backbone, tmp_path: Path) -> None:
    recipe = make_recipe([Probe()], phase(accumulate=2))
    with given(Apart(0, 2)):
        fit(recipe, make_subject(), backbone, work=tmp_path)
        fit(recipe, make_subject(), backbone, work=tmp_path, resume=True)
    with pytest.raises(InputError, match=r"another number of processes \(2, now 1\)"):
        fit(recipe, make_subject(), backbone, work=tmp_path, resume=True)


def test_only_the_first_writes_checkpoints(backbone: Backbone, tmp_path: Path) -> None:
    recipe = make_recipe([Probe()], phase(accumulate=2))
    with given(Apart(1, 2)):
        fit(recipe, make_subject(), backbone, work=tmp_path)
    assert not list(tmp_path.iterdir())


def test_place_reads_the_launcher_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place() == (0, 1)
    assert join(torch.device("cpu")) == Processes()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert place() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert place() == (2, 4)
    monkeypatch.delenv("RANK")
    with pytest.raises(InputError, match="torchrun"):
        place()


def test_buckets_hold_one_type_and_no_more_than_they_may() -> None:
    sizes = [3, 3, 9, 2, 2]
    tensors = [torch.zeros(n, dtype=torch.float64 if i == 4 else None) for i, n in enumerate(sizes)]
    assert [[len(t) for t in b] for b in buckets(tensors, 6)] == [[3, 3], [9], [2], [2]]
    assert list(buckets([])) == []


def test_one_process_imports_no_accelerate() -> None:
    text = "import sys; import pcs_engine.fit; assert 'accelerate' not in sys.modules"
    subprocess.run([sys.executable, "-c", text], check=True)


TRAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from safetensors.torch import save_file
    from pcs_core import fit, load_recipe, open_backbone
    from pcs_engine.processes import place
    from pcs_testing import make_subject

    folder, *settings = sys.argv[1:]
    index, _ = place()
    recipe = load_recipe("dreambooth", overrides=settings)
    answers = []

    def keep(artifacts):
        assert index == 0
        answers.append(len(answers) == 0)
        return [answers[-1]]

    made = fit(recipe, make_subject(), open_backbone("tiny"), seed=5, work=Path(folder, "work"))[0]
    best = fit(recipe, make_subject(), open_backbone("tiny"), seed=5, keep=keep, checkpoints=2)[0]
    save_file(dict(made.tensors), f"{folder}/{index}.safetensors")
    save_file(dict(best.tensors), f"{folder}/best-{index}.safetensors")
    """
)


def launch(folder: Path, script: str, processes: int, settings: Sequence[str]) -> Any:
    path = folder / "train.py"
    path.write_text(script)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [sys.executable, *(several if processes > 1 else []), str(path), str(folder), *settings],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "shares",
    [("tune.accumulate=2",), ("tune.batch={subject=2,prior=2}", "tune.clip=0.01", "tune.ema=0.9")],
    ids=["parts", "rows"],
)
def test_two_processes_end_with_the_same_bytes(tmp_path: Path, shares: Sequence[str]) -> None:
    from safetensors.torch import load_file

    settings = [
        *shares,
        "tune.lr=1.0",
        "tune.optimizer=sgd",
        *(f"{k}={v}" for k, v in PRIOR.items()),
    ]
    for run, count, steps in (("start", 1, 0), ("1", 1, 3), ("2", 2, 3)):
        folder = tmp_path / run
        folder.mkdir()
        done = launch(folder, TRAIN, count, [*settings, f"tune.steps={steps}"])
        assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("", "best-"):
        files = [tmp_path / "2" / f"{kind}{rank}.safetensors" for rank in (0, 1)]
        assert files[0].read_bytes() == files[1].read_bytes()
        start, alone, together = (
            load_file(tmp_path / run / f"{kind}0.safetensors") for run in ("start", "1", "2")
        )
        for name, value in alone.items():
            way = float((value - start[name]).abs().max())
            assert float((value - together[name]).abs().max()) <= 1e-3 * way, name
        assert any(not torch.equal(value, start[name]) for name, value in alone.items())
    assert files[0].read_bytes() != (tmp_path / "2" / "0.safetensors").read_bytes()


@pytest.mark.slow
def test_processes_that_differ_are_refused(tmp_path: Path) -> None:
    script = TRAIN.replace("seed=5", "seed=index")
    done = launch(
        tmp_path,
        script,
        2,
        ["tune.accumulate=2", "tune.steps=2", *(f"{k}={v}" for k, v in PRIOR.items())],
    )
    assert done.returncode != 0
    assert "do not train the same: they differ in seed" in done.stderr
