"""A pre-training makes each record once, in an order that an interruption does not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcs_core import load_recipe, open_backbone, pretrain
from pcs_core.data import Personalization, Recipe, Record
from pcs_core.errors import ArtifactError, InputError
from pcs_engine import Progress
from pcs_engine import checkpoints as checkpoints_module
from pcs_pretrain.reading import TOGETHER, EncodedRecord, Reading
from pcs_testing import make_picture

COUNT = TOGETHER + 5


class Made:
    """Counts how often each record is made."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()

    def __call__(self, indices: Sequence[int]) -> list[EncodedRecord]:
        self.times.update(indices)
        return [
            EncodedRecord(
                torch.full((4, 2, 2), float(i)).half(),
                {"image": torch.ones(1, 3).half() * i},
                f"a photo of {i}",
                (str(i), "ä b"),
                {"points": torch.tensor([[i / 7, 0.5]])} if i % 2 else {},
            )
            for i in indices
        ]


def indices(rows: Sequence[tuple[int, EncodedRecord]]) -> list[int]:
    return [i for i, _ in rows]


def test_every_record_comes_once_and_then_all_in_another_order() -> None:
    made = Made()
    reading = Reading(COUNT, made)
    first, second = indices(reading.rows(0, COUNT)), indices(reading.rows(COUNT, COUNT))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert set(made.times.values()) == {1}
    assert indices(Reading(COUNT, Made()).rows(COUNT - 3, 6)) == (first + second)[COUNT - 3 :][:6]
    assert indices(Reading(COUNT, Made(), seed=1).rows(0, COUNT)) != first


def test_no_more_is_made_than_is_due() -> None:
    made = Made()
    Reading(10 * COUNT, made).rows(0, 2)
    assert made.times.total() == TOGETHER


def test_processes_share_the_records_out() -> None:
    shares = [Reading(COUNT, Made(), rank=r, processes=2).order for r in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(COUNT))
    assert Reading(1, Made(), rank=1, processes=2).order == [0]


def test_files_hold_everything_and_are_not_mistaken(tmp_path: Path) -> None:
    before = Reading(COUNT, Made(), work=tmp_path, identity={"recipe": "a"}).rows(0, COUNT)
    made = Made()
    after = Reading(COUNT, made, work=tmp_path, identity={"recipe": "a"}).rows(0, COUNT)
    assert not made.times
    for (i, one), (j, other) in zip(before, after, strict=True):
        assert (i, one.caption, one.phrases) == (j, other.caption, other.phrases)
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.features["image"], other.features["image"])
        assert one.extra.keys() == other.extra.keys()
    Reading(COUNT, made, work=tmp_path, identity={"recipe": "b"}).rows(0, COUNT)
    assert made.times.total() == COUNT
    damaged = sorted(tmp_path.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    Reading(COUNT, made, work=tmp_path, identity={"recipe": "b"}).rows(0, COUNT)
    assert made.times.total() == COUNT + TOGETHER


class Pictures:
    """Records that count how often they are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        self.read.append(index)
        picture = make_picture(index)
        return Record(picture, "a photo of a dog", ("dog",), ((picture,),))


class Stop:
    """Raises KeyboardInterrupt at the first report after ``done`` steps."""

    def __init__(self, done: int) -> None:
        self.done = done

    def __call__(self, progress: Progress) -> None:
        if progress.done >= self.done:
            raise KeyboardInterrupt


def recipe() -> Recipe:
    changes = ("steps=6", "batch=2", "warmup=2", "decay=0.5", "accumulate=2")
    return load_recipe(
        "ip-adapter",
        overrides=["encoders.image.model=tiny.image", *(f"adapter.{c}" for c in changes)],
    )


def test_an_interrupted_pretraining_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(sys.modules["pcs_engine.progress"], "REPORT_EVERY", 1)
    backbone = open_backbone("tiny")

    def run(work: Path, *, resume: bool = False, stop: int = 99) -> Personalization:
        return pretrain(
            recipe(), Pictures(), backbone, work=work, resume=resume, watch=[Stop(stop)]
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=3)
    again = run(tmp_path / "parts", resume=True)
    assert whole.tensors.keys() == again.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name


def test_mixed_precision_trains_in_full_precision_what_it_keeps() -> None:
    plain = pretrain(recipe(), Pictures(), open_backbone("tiny"))
    mixed = pretrain(recipe(), Pictures(), open_backbone("tiny"), precision="bf16")
    assert {t.dtype for t in mixed.tensors.values()} == {torch.float32}
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(mixed.tensors[name], tensor, atol=1e-2, rtol=1e-1)
    assert any(not torch.equal(mixed.tensors[n], t) for n, t in plain.tensors.items())


def test_a_training_may_start_from_an_earlier_one(tmp_path: Path) -> None:
    backbone = open_backbone("tiny")
    first = pretrain(recipe(), Pictures(), backbone)
    half = replace(first, tensors={k: v.half() for k, v in first.tensors.items()})
    still = load_recipe(
        "ip-adapter",
        overrides=["encoders.image.model=tiny.image", "adapter.steps=1", "adapter.lr=1e-12"],
    )
    second = pretrain(still, Pictures(), backbone, init=half, work=tmp_path)
    assert {t.dtype for t in second.tensors.values()} == {torch.float32}
    for name, tensor in half.tensors.items():
        torch.testing.assert_close(second.tensors[name], tensor.float(), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="begun with another init"):
        pretrain(still, Pictures(), backbone, work=tmp_path, resume=True)
    other = replace(half, recipe=replace(half.recipe, id="instantid"))
    with pytest.raises(ArtifactError, match="of system 'instantid', not of 'ip-adapter'"):
        pretrain(still, Pictures(), backbone, init=other)
