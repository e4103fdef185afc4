"""Pictures of several personalizations in one batch: each row is its own subject's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_cli.many.joint import Apart, Joint, check_packs, kind_of, why_apart
from pcs_cli.sample_facts import numbers_of
from pcs_core.backbone import Attachment, suspended
from pcs_core.data import Features, SampleSettings
from pcs_core.errors import PcsError
from pcs_engine.opening import check_prompts, resolve_backbone
from pcs_engine.restoring import restore
from pcs_engine.sample import SampleProgress, draw_rows
from pcs_engine.sample import sample as draw_alone

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Fusion, Personalization, Recipe


@dataclass(frozen=True, slots=True)
class Subject:
    """A personalization that draws: its prompts, and the numbers of its drawing."""

    artifact: Personalization
    prompts: tuple[str, ...]
    settings: SampleSettings


@dataclass(frozen=True, slots=True)
class Restored:
    """What one personalization plugs in."""

    recipe: Recipe
    fusion: Fusion
    features: Features


@dataclass
class Drawing:
    """Draws ``count`` pictures of each prompt of each subject, as separate drawings from ``seed`` would be.

    ``finished`` is given the subject's number and its next pictures [n 3 h w]; ``say`` why some are drawn
    apart.
    """

    backbone: Backbone
    subjects: Sequence[Subject]
    count: int
    seed: int
    finished: Callable[[int, Tensor], None]
    say: Callable[[str], None]
    watch: Sequence[Callable[[SampleProgress], None]] = ()
    batches: int = 0

    def run(self) -> None:
        """Draw all, those that may share a batch together."""
        for subject in self.subjects:
            check_prompts(subject.prompts, subject.artifact)
            resolve_backbone(self.backbone, subject.artifact)
        for members in self.groups():
            try:
                if len(members) == 1:
                    self._alone(members[0])
                else:
                    self._together(members)
            except Apart as error:
                self.say(f"drawn one after the other: {error}")
                for member in members:
                    self._alone(member)

    def groups(self) -> Iterator[list[int]]:
        """Yield the numbers of subjects that may share a batch."""
        kinds: dict[Any, list[int]] = {}
        for number, subject in enumerate(self.subjects):
            why = why_alone(subject.artifact)
            alike = (
                kind_of(subject.artifact.recipe),
                repr(subject.settings),
                len(subject.artifact.concepts),
            )
            kinds.setdefault(("", number) if why else alike, []).append(number)
        yield from kinds.values()

    def _alone(self, number: int) -> None:
        subject = self.subjects[number]
        settings = subject.settings
        draw_alone(
            subject.artifact,
            self.backbone,
            subject.prompts,
            count=self.count,
            seed=self.seed,
            **numbers_of(settings),
            watch=self.watch,
            finished=[lambda pictures: self.finished(number, pictures)],
        )

    def _together(self, members: Sequence[int]) -> None:
        with suspended(self.backbone):
            made = []
            for number in members:
                made.append(self._restored(self.subjects[number].artifact))
                check_packs(made[0].recipe, made[0].fusion)
            features = side_by_side([one.features for one in made])
            names = [self.subjects[number].artifact.subject for number in members]
            try:
                joint = Joint(made, self.backbone, features, names)
            except Apart:
                raise
            except PcsError as error:
                raise Apart(str(error)) from error
            if any(edit.ACROSS_STEPS for edit in joint.fusion.edits) or joint.fusion.rows:
                raise Apart("they keep something of one picture for another")
            joint.put()
            rows = [
                (slot, prompt, self.seed + i)
                for slot, number in enumerate(members)
                for i, prompt in enumerate(self._texts(number))
            ]
            owners, texts, seeds = (list(column) for column in zip(*rows, strict=True))
            settings = self.subjects[members[0]].settings
            done = 0
            with Attachment(self.backbone, joint.fusion) as net:
                for pictures in draw_rows(
                    joint.run, net, texts, seeds, settings, owners, self.watch
                ):
                    here = owners[done : done + len(pictures)]
                    done += len(pictures)
                    self.batches += 1
                    for slot in dict.fromkeys(here):
                        mine = torch.tensor([owner == slot for owner in here])
                        self.finished(members[slot], pictures[mine.to(pictures.device)])

    def _texts(self, number: int) -> Iterator[str]:
        for prompt in self.subjects[number].prompts:
            yield from [prompt] * self.count

    def _restored(self, artifact: Personalization) -> Restored:
        run, fusion = restore(artifact, self.backbone, self.seed)
        return Restored(artifact.recipe, fusion, run.features)


def why_alone(artifact: Personalization) -> str:
    """Return why a personalization shares no batch with others, or an empty string."""
    if artifact.parts or artifact.extra.get("words"):
        return "it is several"
    for use in artifact.recipe.uses:
        if hasattr(use.technique, "sample"):
            return f"{use.technique.id!r} acts in the steps of a drawing"
        if use.technique.reads_layout or use.technique.reads_picture:
            return f"{use.technique.id!r} reads a layout"
    return why_apart(artifact.recipe)


def side_by_side(features: Sequence[Features]) -> Features:
    """Return the features of all subjects, stacked.

    Raises
    ------
    Apart
        One has a feature that another lacks, or of another shape.
    """
    first = features[0].tensors
    for one in features[1:]:
        if one.tensors.keys() != first.keys() or any(
            one.tensors[key].shape != value.shape for key, value in first.items()
        ):
            raise Apart("their features have different shapes")
    tensors = {key: torch.cat([one.tensors[key] for one in features]) for key in first}
    concepts = tuple(concept for one in features for concept in one.concepts)
    return replace(features[0], tensors=tensors, concepts=concepts)
