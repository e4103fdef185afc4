"""A folder of captioned pictures as a pre-training set."""

from __future__ import annotations

from pathlib import Path

import torch

from pcs_core.backbone import word_in
from pcs_core.data.subject import Record
from pcs_core.errors import InputError
from pcs_folders.subjects import load_subject


class FolderRecords:
    """One record per picture of a folder, read when asked for.

    ``<stem>.txt`` is its caption, ``<stem>.mask.png`` where its subject is, ``<stem>.json`` points.
    Each picture is its own reference. The first noun of ``subject.toml``, or ``noun``, is the phrase
    that stands for the subject, where the caption holds it.
    """

    def __init__(self, folder: Path, *, noun: str | None = None) -> None:
        subject = load_subject(folder, noun=noun or "thing", token="<thing>")
        missing = [f for f, c in zip(subject.files, subject.captions, strict=True) if not c]
        if missing:
            raise InputError(
                f"{folder / missing[0]} has no caption: write one to "
                f"{Path(missing[0]).with_suffix('.txt').name} (pre-training needs one per picture)"
            )
        self.subject = subject

    def __len__(self) -> int:
        return len(self.subject.images)

    def __getitem__(self, index: int) -> Record:
        subject = self.subject
        image, caption = subject.images[index], subject.captions[index] or ""
        noun = subject.concept.noun
        masks = [m[index] for m in subject.masks.values()]
        named = word_in(caption, noun) is not None
        given = subject.extra[index].get("points") if index < len(subject.extra) else None
        return Record(
            image=image,
            caption=caption,
            phrases=(noun,) if named else (),
            references=((image,),),
            masks=tuple(masks),
            extra={} if given is None else {"points": torch.tensor(given, dtype=torch.float32)},
        )
