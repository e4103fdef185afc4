"""The world as a pre-training set."""

from __future__ import annotations

import torch

from pcs_mini.records import WorldRecords


def test_a_record_reads_the_same_every_time_and_shows_its_reference_elsewhere() -> None:
    records = WorldRecords(6)
    for index in range(len(records)):
        first, second = records[index], records[index]
        assert first.caption == second.caption
        assert torch.equal(first.image, second.image)
        assert len(first.phrases) == len(first.references) == len(first.masks)
        for phrase, (reference,), mask in zip(
            first.phrases, first.references, first.masks, strict=True
        ):
            assert phrase in first.caption
            assert not torch.equal(reference, first.image)
            assert mask is not None
            assert 0.0 <= float(mask.min()) <= float(mask.max()) <= 1.0


def test_people_come_with_key_points_inside_the_picture_or_far_outside() -> None:
    for index in range(4):
        record = WorldRecords(4, kind="person", subjects=1)[index]
        points = record.extra["points"]
        assert points.shape == (5, 2)
        known = points[points[:, 0] > -1]
        assert len(known) >= 4
        assert float(known.min()) > -0.2
        assert float(known.max()) < 1.2


def test_held_out_members_never_come_up() -> None:
    records = WorldRecords(1)
    from pcs_mini.world.population import is_held_out

    assert not any(is_held_out(records.assets, m) for m in records.population.members)
