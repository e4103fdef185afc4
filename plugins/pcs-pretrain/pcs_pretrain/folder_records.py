"""A folder of captioned pictures as a pre-training set."""

from __future__ import annotations

from pathlib import Path

import torch

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import word_in
from pcs_core.data.subject import Record
from pcs_core.errors import InputError
from pcs_folders.subjects import load_subject


class FolderRecords:
    """One record per picture of a folder and caption of it, read when asked for.

    ``<stem>.txt`` is its caption, or several, a line each, ``<stem>.mask.png`` where its subject is,
    ``<stem>.json`` points. Pictures in a folder ``3_name`` are there three times.
    Each picture is its own reference. The first noun of ``subject.toml``, or ``noun``, is the phrase
    that stands for the subject, where the caption holds it.
    """

    @checks_arguments
    def __init__(self, folder: Path, *, noun: str | None = None) -> None:
        subject = load_subject(folder, noun=noun or "thing", token="<thing>")
        missing = [f for f, c in zip(subject.files, subject.captions, strict=True) if not c]
        if missing:
            raise InputError(
                f"{folder / missing[0]} has no caption: write one to "
                f"{Path(missing[0]).with_suffix('.txt').name} (pre-training needs one per picture)"
            )
        self.subject = subject
        repeats = subject.repeats or (1,) * len(subject.images)
        self.rows = [
            (i, t) for i, n in enumerate(repeats) for _ in range(n) for t in subject.texts(i)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        subject = self.subject
        index, caption = self.rows[index]
        image = subject.images[index]
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
