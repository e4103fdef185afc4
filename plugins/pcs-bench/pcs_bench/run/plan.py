"""What a run does: the protocol as plain data, its jobs (system x subject) and their cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pcs_core.errors import InputError

UNTUNED, COPY = "untuned", "copy"
BASELINES = {
    UNTUNED: "the backbone as it is, told the class noun in place of the subject",
    COPY: "repeats the references: the upper end of similarity, deaf to prompts",
}
"""Rows that personalise nothing, to read the others by."""
CHUNK = 8
"""Pictures drawn in one call: always the same ones, so that a resumed run draws the same bits."""
NOISES = 1000
"""Noise of a cell is seeded ``NOISES * seed + prompt``: equal for all systems and subjects."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything a run depends on but the suite's own content and the versions.

    ``seeds`` counts the pictures of each prompt, ``prompts`` those of each subject (0: all).
    ``settings`` are ``"[SYSTEM:]KEY=VALUE"``. ``subjects`` are names of the suite's.
    """

    suite: str
    systems: tuple[str, ...]
    subjects: tuple[str, ...]
    seeds: int = 4
    prompts: int = 0
    fit_seed: int = 0
    backbone: str = "mini"
    device: str = "cpu"
    settings: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Protocol:
        """Return the protocol of such data; keys that it does not know are passed over."""
        names = cls.__dataclass_fields__
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k in names
        }
        return cls(**values)

    def overrides(self, system: str) -> tuple[str, ...]:
        """Return the settings that ``system`` is loaded with."""
        return tuple(
            value for name, value in map(split_setting, self.settings) if name in ("", system)
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One system on one subject: a fit, its pictures and their scores."""

    system: str
    subject: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture. ``text`` holds ``{token}`` and ``{noun}``; ``index`` is the prompt's number."""

    system: str
    subject: str
    index: int
    seed: int
    text: str
    kind: str = ""

    @property
    def key(self) -> str:
        """What its line in ``cells.jsonl`` is found by."""
        return f"{self.system}/{self.subject}/{self.index}/{self.seed}"

    @property
    def noise(self) -> int:
        """The seed of its first latents."""
        return NOISES * self.seed + self.index


def split_setting(text: str) -> tuple[str, str]:
    """Return the system ("" for all) and the ``KEY=VALUE`` of ``"[SYSTEM:]KEY=VALUE"``.

    Raises
    ------
    InputError
        It is none.
    """
    key, equals, value = text.partition("=")
    system, colon, name = key.rpartition(":")
    if not (equals and name.strip()) or (colon and not system.strip()):
        raise InputError(f"--set {text!r}: write KEY=VALUE or SYSTEM:KEY=VALUE")
    return system.strip(), f"{name.strip()}={value}"


def jobs(protocol: Protocol) -> list[Job]:
    """Return the jobs subject by subject, baselines first: metrics may ask for untuned pictures."""
    first = [s for s in BASELINES if s in protocol.systems]
    order = [*first, *(s for s in protocol.systems if s not in BASELINES)]
    return [Job(system, subject) for subject in protocol.subjects for system in order]


def cells(protocol: Protocol, suite: Any, job: Job) -> list[Cell]:
    """Return the cells of a job, seed by seed. ``suite`` is a :class:`pcs_bench.suites.Suite`."""
    prompts = prompts_of(suite, job.subject)
    chosen = prompts[: protocol.prompts] if protocol.prompts else prompts
    return [
        Cell(job.system, job.subject, index, seed, prompt.text, getattr(prompt, "kind", ""))
        for seed in range(protocol.seeds)
        for index, prompt in enumerate(chosen)
    ]


def prompts_of(suite: Any, subject: str) -> Sequence[Any]:
    """Return the prompts of a subject: its class's where the suite tells classes apart."""
    prompts_for = getattr(suite, "prompts_for", None)
    prompts = suite.prompts if prompts_for is None else prompts_for(find_subject(suite, subject))
    if not 0 < len(prompts) <= NOISES:
        raise InputError(
            f"suite {suite.id!r}: {len(prompts)} prompts for {subject!r}, give 1 to {NOISES}"
        )
    return tuple(prompts)


def find_subject(suite: Any, name: str) -> Any:
    """Return the suite's subject of this name.

    Raises
    ------
    InputError
        It has none.
    """
    from pcs_core.errors import nearest

    for subject in suite.subjects:
        if subject.name == name:
            return subject
    names = [s.name for s in suite.subjects]
    raise InputError(f"suite {suite.id!r} has no subject {name!r}{nearest(name, names)}")


def chunks(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Return the cells as they are drawn together: neighbours of one seed."""
    for seed in sorted({c.seed for c in cells}):
        row = [c for c in cells if c.seed == seed]
        for start in range(0, len(row), CHUNK):
            yield row[start : start + CHUNK]
