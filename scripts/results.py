"""Write the results section, contact sheets and the evidence of systems from folders of `pcs bench run`.

    python scripts/results.py [RUN] [MORE...]     default: build/benchmark/run, made by scripts/benchmark.sh
    python scripts/results.py --later RUN         systems that came after that run

The table between the markers of ``docs/results.md``, the sheets under ``docs/images`` and the README's row of
pictures are of the first folder. ``--later`` writes a table below it, of the systems that the first has not,
and adds their sheets: a run of the same suite with the same noise, as `scripts/evidence.py` makes one.
Evidence, which the status of a system is computed from, is of all of them: a system is put down as run
where every one of its pictures was drawn, by its recipe as it is now, on the weights that are installed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
LATER, LATER_END = "<!-- later:begin -->", "<!-- later:end -->"
SHOWN = ("mini.clip-i", "mini.masked-i", "mini.clip-t", "mini.copy", "mini.prompt-drop")
PROMPTS = 6
"""Pictures of a subject on a contact sheet."""
FRONT = (("lora-dreambooth", "mushroom_outlined"), ("styledrop", "bus_outlined"))
"""Systems and subjects of the README's pictures."""
SIDE, GAP = 128, 4
"""Pixels of a picture, and of what parts references from results."""


def main() -> None:
    """Read the runs and write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[ROOT / "build" / "benchmark" / "run"]
    )
    parser.add_argument("--evidence", action="store_true", help="only write evidence")
    parser.add_argument("--later", type=Path, metavar="RUN", help="a run of further systems")
    arguments = parser.parse_args()
    from evidence import record_run

    from pcs_bench.report.results import gather
    from pcs_core.errors import PcsError

    runs = [arguments.later] if arguments.later else arguments.runs
    try:
        gathered = [gather(run) for run in runs]
    except PcsError as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    if arguments.later:
        write_later(gathered[0])
    elif not arguments.evidence:
        between(BEGIN, END, markdown(gathered[0]))
        for old in IMAGES.glob("results-*.jpg"):
            old.unlink()
        write_sheets(gathered[0], gathered[0].rows)
        write_front(gathered[0].protocol["subjects"])
    for run in runs:
        record_run(run)


def between(begin: str, end: str, text: str) -> None:
    """Put ``text`` between two markers of the page, and print it."""
    head, _, rest = PAGE.read_text("utf-8").partition(begin)
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")
    print(text)


def write_later(results: Any) -> None:
    """Write the table and the sheets of systems that the first table has not.

    What an earlier run wrote there stays, but for the systems that this one has too.
    """
    page = PAGE.read_text("utf-8")
    first = page.partition(BEGIN)[2].partition(END)[0]
    rows = [row for row in results.rows if f"(images/{sheet_name(row.system)})" not in first]
    names = [row.name for row in rows]
    head, rule, *lines = table(results, rows, seconds=False)
    links = [f"[{row.name}](images/{sheet_name(row.system)})" for row in rows]
    earlier = page.partition(LATER)[2].partition(LATER_END)[0]
    stays = [line for line in earlier.splitlines() if line.startswith("| ") and line != head]
    stays = [line for line in stays if line.split(" | ")[0].removeprefix("| ") not in names]
    linked = [match[0] for match in re.finditer(r"\[([^][]+)\]\(images/[^)]+\)", earlier)]
    linked = [link for link in linked if link.partition("]")[0].removeprefix("[") not in names]
    protocol = results.protocol
    text = (
        f"**Later systems**, on the same {len(protocol['subjects'])} subjects, prompts and seeds "
        f"(torch {protocol['versions'].get('torch', '')}). Other work ran on "
        "the machine, so that no seconds are given.\n\n"
    )
    between(
        LATER,
        LATER_END,
        text
        + "\n".join([head, rule, *stays, *lines])
        + f"\n\nContact sheets: {', '.join([*linked, *links])}.",
    )
    write_sheets(results, rows)


def table(results: Any, rows: Sequence[Any], *, seconds: bool = True) -> list[str]:
    """Return the lines of a table: means with their 95 % intervals, a line per system."""
    known = {m.id: m for m in results.metrics}
    ids = [id for id in SHOWN if id in known]
    heads = [f"{known[id].title} {'↑' if known[id].higher else '↓'}" for id in ids]
    heads += ["seconds a fit"] * seconds
    lines = ["| " + " | ".join(["", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [score(row.scores.get(id)) for id in ids]
        took = "" if row.seconds is None else f"{row.seconds:.0f}"
        lines.append("| " + " | ".join([row.name, *cells, *[took] * seconds]) + " |")
    return lines


def markdown(results: Any) -> str:
    """Return the table and what it is of."""
    protocol = results.protocol
    versions, machine = protocol["versions"], protocol["machine"]
    links = ", ".join(f"[{row.name}](images/{sheet_name(row.system)})" for row in results.rows)
    return "\n".join(
        [
            *table(results, results.rows),
            "",
            f"Suite `{protocol['suite']}`: {len(protocol['subjects'])} subjects that no training drew "
            f"({', '.join(protocol['subjects'])}), {protocol['prompts'] or 'all'} prompts each, "
            f"{protocol['seeds']} seeds, the same noise for all; means and 95 % bootstrap intervals, by "
            "metrics of Mini's world, which are networks too. Copying the references gives the highest "
            "similarity, and no prompt is followed. Settings for Mini were not searched, except that NeTI's "
            "rate was raised after a first run in which its word learned nothing. "
            f"{machine['architecture']}, {machine['cores']} cores, two fits side by side, torch "
            f"{versions.get('torch', '')}; made by `scripts/benchmark.sh` and `make results`.",
            "",
            f"A line per subject, two references, then a picture of each of {PROMPTS} prompts: {links}.",
        ]
    )


def score(value: Any) -> str:
    """Return a mean with its interval."""
    if value is None:
        return "–"
    if value.low is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def write_sheets(results: Any, rows: Sequence[Any]) -> None:
    """Write a contact sheet per row: a line per subject, references and pictures of one seed."""
    import torch
    from PIL import Image

    from pcs_core import read_planes

    IMAGES.mkdir(parents=True, exist_ok=True)
    folder = results.folder
    for row in rows:
        lines = []
        for subject in results.protocol["subjects"]:
            given = sorted((folder / "references" / subject).glob("*.png"))[:2]
            shown = [
                line
                for line in results.lines
                if (line["system"], line["subject"], line["seed"]) == (row.system, subject, 0)
                and line["state"] == "done"
            ]
            drawn = [folder / line["picture"] for line in shown[:PROMPTS]]
            planes = [read_planes(path)[0] for path in (*given, *drawn)]
            planes += [torch.ones_like(planes[0])] * (PROMPTS - len(drawn))
            gap = torch.ones(3, planes[0].shape[1], GAP)
            lines.append(torch.cat([*planes[:2], gap, *planes[2:]], dim=2))
        sheet = torch.cat(lines, dim=1).permute(1, 2, 0).mul(255).round().byte().contiguous()
        Image.fromarray(sheet.numpy()).save(IMAGES / sheet_name(row.system), quality=85)


def write_front(subjects: Sequence[str]) -> None:
    """Write the README's picture: a line per pair of ``FRONT``, cut out of the contact sheets."""
    from PIL import Image

    pairs = [(system, subject) for system, subject in FRONT if subject in subjects]
    width = (2 + 4) * SIDE + GAP
    front = Image.new("RGB", (width, len(pairs) * SIDE), "white")
    for line, (system, subject) in enumerate(pairs):
        top = list(subjects).index(subject) * SIDE
        with Image.open(IMAGES / sheet_name(system)) as sheet:
            front.paste(sheet.crop((0, top, width, top + SIDE)), (0, line * SIDE))
    front.save(IMAGES / "front.jpg", quality=88)


def sheet_name(system: str) -> str:
    """Return the file name of a row's contact sheet."""
    return f"results-{system}.jpg"


if __name__ == "__main__":
    main()
