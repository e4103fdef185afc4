"""Reading a suite: a shipped one by id, or one's own by path."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_bench.suites import pictures, prompts, tables
from pcs_bench.suites.suite import BenchPrompt, BenchSubject, Suite
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import beneath, is_plain_name, read_json, read_toml

if TYPE_CHECKING:
    from pcs_core.data import Subject

DATA = Path(__file__).parent / "data"
LIVE = ("cat", "dog")
"""Classes of the survey that count as live pets."""
KINDS = ("object", "pet", "face", "style", "pair")


def ids() -> list[str]:
    """Return the ids of the shipped suites."""
    return sorted(path.stem for path in DATA.glob("*.toml") if path.stem != "prompts")


def load(id: str | Path) -> Suite:
    """Return a shipped suite by id, or the one that a TOML file describes.

    Pictures are read, checked or drawn when a subject's ``folder`` is called, so that one missing
    subject stops no other.

    Raises
    ------
    InputError
        No such suite, a file that is none, or a suite whose subjects are listed in a file that is
        missing; says where to get it.
    """
    path = DATA / f"{id}.toml" if str(id) in ids() else Path(id)
    if path.is_dir():
        path = path / "suite.toml"
    if not path.is_file():
        raise InputError(
            f"no suite {str(id)!r}{nearest(str(id), ids())}: give one of {', '.join(ids())}, or the "
            "suite.toml of your own (`pcs bench new` writes one)"
        )
    try:
        return _suite(read_toml(path), path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no suite: {type(error).__name__}: {error}") from error


def declared(id: str) -> dict[str, Any]:
    """Return what a shipped suite's file says of itself, its pictures aside: kind and counts."""
    document = tomllib.loads((DATA / f"{id}.toml").read_text(encoding="utf-8"))
    survey, about = document.get("survey", {}), document["suite"]
    lists = document.get("prompts", {}).values()
    most = max(
        (len(prompts.prompts(those)) for those in lists if not isinstance(those, str)), default=0
    )
    return {
        "kind": about["kind"],
        "subjects": survey.get("count") or len(document.get("subject", [])) or "your",
        "prompts": survey.get("prompts") or most or "own",
        "stands_for": about.get("stands_for", ""),
    }


def _suite(document: Mapping[str, Any], path: Path) -> Suite:
    tables.check(document, path)
    about, images = document["suite"], document.get("images", {})
    if about["kind"] not in KINDS:
        raise InputError(f"{path}: kind {about['kind']!r}: one of {', '.join(KINDS)}")
    base = pictures.root() / images["folder"] if "folder" in images else path.parent
    given = dict(document.get("prompts", {}))
    file = given.pop("file", "")
    inline = {c: tuple(map(_inline, those)) for c, those in document.get("prompt", {}).items()}
    by_class = {c: prompts.prompts(lists) for c, lists in given.items()} | inline
    survey = document.get("survey")
    rows = document.get("subject", [])
    if survey:
        rows, by_class = _survey(about["id"], images, base, survey, by_class)
    elif "found" in document:
        rows = _folder_subjects(about["id"], images, base, document["found"])
    kind, id = about["kind"], about["id"]
    subjects = tuple(_subject(id, kind, row, images, base) for row in rows)
    by_subject = {
        row["name"]: partial(_file, id, images, base, row.get("prompts") or file, row)
        for row in rows
        if row.get("prompts") or file
    }
    return Suite(
        id=id,
        title=about.get("title", id),
        kind=kind,
        subjects=subjects,
        by_class=by_class,
        paper=about.get("paper", ""),
        stands_for=about.get("stands_for", ""),
        images=images,
        own_prompts=by_subject,
    )


def _inline(prompt: str | Mapping[str, str]) -> BenchPrompt:
    return BenchPrompt(prompt) if isinstance(prompt, str) else BenchPrompt(**prompt)


def _subject(
    suite: str, kind: str, row: Mapping[str, Any], images: Mapping[str, Any], base: Path
) -> BenchSubject:
    name = row["name"]
    nouns = row.get("nouns") or [row["noun"]]
    members = row.get("members") or ([row["member"]] if "member" in row else [])
    tokens = row.get("tokens") or ([row["token"]] if "token" in row else None)
    if tokens is None:
        words = [name] if len(nouns) == 1 else nouns
        tokens = [f"<{word.replace('_', '-').replace(' ', '-')}>" for word in words]
    if "world" in images:
        folder: Any = partial(
            pictures.drawn,
            images["world"],
            name,
            members,
            nouns,
            tokens,
            kind,
            images.get("references", 5),
        )
        paths: tuple[Path, ...] = ()
    else:
        paths = tuple(
            beneath(base, each, f"suite {suite!r}")
            for each in row.get("folders") or [row.get("folder", name)]
        )
        folder = partial(_photographs, suite, images, base, paths, nouns, tokens, name)
    return BenchSubject(name, folder, nouns[0], tokens[0], row.get("class", kind), paths)


def _photographs(
    suite: str,
    images: Mapping[str, Any],
    base: Path,
    paths: tuple[Path, ...],
    nouns: list[str],
    tokens: list[str],
    name: str,
) -> Subject:
    from dataclasses import replace

    for path in paths:
        if not path.exists():
            if "source" in images:
                raise pictures.missing(suite, images, path)
            raise InputError(f"suite {suite!r}: {path} is not there: put the pictures back")
        if "checksums" in images:
            sums = pictures.manifest(_manifest(images, base))
            pictures.verify(suite, path, base, sums)
    return replace(pictures.photographs(paths, nouns, tokens), name=name)


def _manifest(images: Mapping[str, Any], base: Path) -> Path:
    shipped = DATA / images["checksums"]
    return shipped if shipped.exists() else beneath(base, images["checksums"], "the suite")


def _file(
    suite: str, images: Mapping[str, Any], base: Path, path: str, row: Mapping[str, Any]
) -> tuple[BenchPrompt, ...]:
    file = beneath(base, path.replace("{name}", row["name"]), f"suite {suite!r}")
    if not file.exists():
        raise pictures.missing(suite, images, file)
    return prompts.custom_diffusion(file, row.get("nouns") or [row["noun"]])


def _survey(
    suite: str,
    images: Mapping[str, Any],
    base: Path,
    about: Mapping[str, Any],
    by_class: Mapping[str, tuple[BenchPrompt, ...]],
) -> tuple[list[dict[str, Any]], dict[str, tuple[BenchPrompt, ...]]]:
    """Return subjects and prompts of the survey's own package, which lists both in info.json."""
    file = base / "info.json"
    if not file.exists():
        raise pictures.missing(suite, images, file)
    try:
        info = read_json(file)[about["part"]]
        if about["part"] == "face":
            kinds = ("accessory", "style", "action", "context")
            said = {"face": tuple(p for k in kinds for p in prompts.survey(info[f"prompt_{k}"], k))}
            rows = [
                {"name": id, "folder": f"face/{id}", "noun": noun, "class": "face"}
                for id, noun in sorted(info["id_with_gender"].items())
            ]
        else:
            said = dict(by_class)
            rows = [
                {
                    "name": name,
                    "folder": f"subjects/{name}",
                    "noun": noun,
                    "class": "live" if noun in LIVE else "object",
                }
                for name, noun in sorted(info["subject_with_cls"].items())
            ]
        if not all(is_plain_name(r["name"]) and isinstance(r["noun"], str) for r in rows):
            raise ValueError("a subject whose name is a path, or without a noun")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not as the survey's code reads it: {error!r}") from error
    if len(rows) != about["count"]:
        raise InputError(f"{file} lists {len(rows)} subjects, the survey has {about['count']}")
    for name, those in said.items():
        if len(those) != about["prompts"]:
            raise InputError(
                f"{file} gives {len(those)} prompts for {name}, the survey has {about['prompts']}"
            )
    return rows, said


def _folder_subjects(
    suite: str, images: Mapping[str, Any], base: Path, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    folders = sorted(p for p in base.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise pictures.missing(suite, images, base)
    return [{"name": p.name, "noun": about["noun"], "class": about["class"]} for p in folders]
