"""Listings, explain, check and doctor; and what plugins add to them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KEYS = {
    "id",
    "name",
    "ref",
    "framework",
    "scope",
    "techniques",
    "uses",
    "backbones",
    "status",
}


def test_systems(pcs: Callable) -> None:
    done = pcs("systems", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    assert len({row["id"] for row in rows}) >= 180
    assert all(row.keys() >= KEYS for row in rows)
    assert {row["status"] for row in rows} <= {"ready", "runs", "checked", "loads", "planned"}
    done = pcs("systems", "--status", "planned")
    assert done.code == 0
    assert len(done.out.splitlines()) == 1 + sum(row["status"] == "planned" for row in rows)
    refused = pcs("systems", "--status", "redy")
    assert refused.code == 2
    assert "ready" in refused.err


def test_techniques(pcs: Callable) -> None:
    rows = json.loads(pcs("techniques", "--json").out)
    by_id = {row["id"]: row for row in rows}
    assert by_id["tokens.learnable"]["installed"]
    assert by_id["tokens.learnable"]["distribution"] == "pcs-tokens"
    one = json.loads(pcs("techniques", "tokens.learnable", "--json").out)
    assert one["settings"][0]["name"] == "vectors"
    assert all(setting["help"] for setting in one["settings"])
    assert "vectors" in pcs("techniques", "tokens.learnable").out
    refused = pcs("techniques", "tokens.lernable")
    assert refused.code == 2
    assert "tokens.learnable" in refused.err


def test_plugins(pcs: Callable, plugged: Callable) -> None:
    plugged({}, broken="ImportError: no such thing")
    rows = json.loads(pcs("plugins", "--json").out)
    assert "pcs-tokens" in {row["distribution"] for row in rows}
    assert rows[-1]["error"] == "ImportError: no such thing"
    assert "broken: ImportError" in pcs("plugins").out


def test_explain(pcs: Callable, recipe: Path) -> None:
    done = pcs("explain", recipe, "--backbone", "tiny", "--set", "words.steps=9")
    assert done.code == 0, done.err
    lines = [line.strip() for line in done.out.splitlines()]
    assert "1. core.denoise (last)  pcs_engine.builtin:CoreDenoise.regularize" in lines
    assert "Edits on tiny, for one subject" in lines
    assert any(line.split()[:2] == ["words", "9"] for line in lines)
    assert any(line.split()[:3] == ["tokens.learnable", "token", "vocabulary"] for line in lines)
    printed = json.loads(pcs("explain", recipe, "--backbone", "tiny", "--json").out)
    assert printed["uses"] == ["tokens.learnable"]
    assert printed["edits"][0]["numbers"] > 0
    numbers = {number["name"]: number for number in printed["numbers"]}
    assert numbers["words.optimizer"]["source"] == "default"
    assert numbers["words.steps"]["place"].startswith(f"{recipe}:")
    refused = pcs("explain", recipe, "--backbone", "tyni")
    assert refused.code == 2
    assert "tiny" in refused.err
    refused = pcs("explain", "dreambooht", "--backbone", "tiny")
    assert refused.code == 2
    assert "dreambooth" in refused.err


def test_a_backbone_that_nobody_named_is_not_opened(recipe: Path) -> None:
    """Opening one imports diffusers, which takes longer than everything else."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pcs_cli.main", "explain", str(recipe)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "(no backbone was named: --backbone ID opens one and shows them)" in done.stdout
    assert "words" in done.stdout
    assert re.search(r"\|\s+torch$", done.stderr, re.MULTILINE)  # techniques are classes of torch
    assert not re.search(r"\|\s+diffusers$", done.stderr, re.MULTILINE)


def test_wrappers_are_drawn_around_what_they_wrap() -> None:
    from pcs_cli.explain import onion
    from pcs_cli.hook_order import HookCall

    outer, inner = (HookCall(name, name, True, "", "m:w") for name in ("outer", "inner"))
    plain = [HookCall(name, name, False, "", "m:p") for name in ("first", "second")]
    assert list(onion((outer, inner, *plain))) == [
        "╭ outer wraps  m:w",
        "│ ╭ inner wraps  m:w",
        "│ │ 1. first  m:p",
        "│ │ 2. second  m:p",
        "│ ╰ inner",
        "╰ outer",
    ]


CHECKS = """
from pcs_core.data import CheckReport, CheckRow

def check(neutral):
    gain = 0.0 if neutral else 2.0
    row = CheckRow.compare("gain", gain, ">", 1.0)
    return CheckReport.of("extra", [row], seconds=0.1, backbone="tiny", note="a note")
"""


def test_check(pcs: Callable, plugged: Callable, tmp_path: Path) -> None:
    (tmp_path / "extra_checks.py").write_text(CHECKS)
    plugged({"checks": {"extra": "extra_checks:check"}})
    done = pcs("check", "extra")
    assert done.code == 0
    assert "gain  2 > 1" in done.out
    neutral = pcs("check", "extra", "--neutral")
    assert neutral.code == 1
    assert "FAILS" in neutral.out
    printed = json.loads(pcs("check", "extra", "--neutral", "--json").out)
    assert not printed["holds"]
    assert printed["rows"][0]["bound"] == 1.0
    refused = pcs("check", "extar")
    assert refused.code == 2
    assert "extra" in refused.err


def test_a_wrong_name_is_compared_with_every_system(pcs: Callable) -> None:
    """Also with those whose claims stand in the recipe alone, without a program."""
    refused = pcs("check", "detx")
    assert refused.code == 2
    assert "did you mean 'detex'?" in refused.err


def test_a_file_that_is_not_there_is_said_so(pcs: Callable, tmp_path: Path) -> None:
    refused = pcs("show", str(tmp_path / "shet.png"))
    assert refused.code == 2
    assert "shet.png: there is no such file" in refused.err


def test_a_planned_system_has_no_check_yet(pcs: Callable) -> None:
    planned = next(
        row for row in json.loads(pcs("systems", "--json").out) if row["status"] == "planned"
    )
    done = pcs("check", planned["id"])
    assert done.code == 2
    assert "planned" in done.err


def test_doctor(pcs: Callable, plugged: Callable) -> None:
    plugged({}, broken="ImportError: no such thing")
    done = pcs("doctor")
    assert done.code == 1
    assert "ImportError: no such thing" in done.out
    printed = json.loads(pcs("doctor", "--json").out)
    assert not printed["healthy"]
    assert {"python", "torch", "threads", "disk"} <= {f["subject"] for f in printed["findings"]}


def findings(pcs: Callable) -> dict[str, tuple[str, str]]:
    printed = json.loads(pcs("doctor", "--json").out)
    return {f["subject"]: (f["state"], f["text"]) for f in printed["findings"]}


def test_doctor_imports_what_plugins_name(pcs: Callable, plugged: Callable, tmp_path: Path) -> None:
    (tmp_path / "extra_targets.py").write_text("text = 'no function'\n")
    (tmp_path / "extra_needing.py").write_text("import no_such_library\n")
    plugged(
        {
            "metrics": {
                "gone": "extra_targets:gone",
                "text": "extra_targets:text",
                "optional": "extra_needing:score",
                "moved": "pcs_core.nothing_here:score",
            }
        }
    )
    by_subject = findings(pcs)
    assert by_subject["metrics gone"][0] == "broken"
    assert "no attribute 'gone'" in by_subject["metrics gone"][1]
    assert by_subject["metrics text"][0] == "broken"
    assert by_subject["metrics moved"][0] == "broken"
    # a library that a plugin can do without until it is asked
    assert by_subject["metrics optional"][0] == "not installed"
    assert "needs no_such_library" in by_subject["metrics optional"][1]


PARTS = """
import json
from pcs_cli.main import main

assert main(["systems"]) == 0
assert main(["doctor"]) == 0
"""


def test_what_is_not_installed_is_no_fault_and_stays_visible(tmp_path: Path) -> None:
    """With three plugins alone, systems that need others are listed with the name of what they need."""
    done = subprocess.run(
        [sys.executable, "-c", PARTS],
        env={**os.environ, "PCS_PLUGINS": "pcs-recipes,pcs-tokens,pcs-data"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "absent" in lines["svdiff"]
    assert "not installed: pcs-" in lines["svdiff"]
    assert "absent" not in lines["textual-inversion"]
    assert "not installed  recipe svdiff" in done.stdout
    assert "nothing is broken" in done.stdout


COMMANDS = """
import typer

app = typer.Typer(help="Extra things.")

@app.command()
def greet(name: str) -> None:
    print(f"hello {name}")

@app.command()
def part() -> None:
    raise typer.Exit(3)
"""


def test_commands_of_plugins_are_imported_when_used(
    pcs: Callable, plugged: Callable, tmp_path: Path
) -> None:
    (tmp_path / "extra_commands.py").write_text(COMMANDS)
    plugged({"commands": {"extra": "extra_commands:app"}})
    done = pcs("--help")
    assert "Commands of pcs-extra." in done.out
    assert "extra_commands" not in sys.modules
    assert "'extra'" in pcs("exrta").err
    assert "greet" in pcs("extra", "--help").out
    assert pcs("extra", "greet", "you").out == "hello you\n"
    assert pcs("extra", "greet").code == 2
    assert pcs("extra", "part").code == 3


def test_a_broken_command_of_a_plugin_is_told(pcs: Callable, plugged: Callable) -> None:
    plugged({"commands": {"extra": "no_such_module:app", "odd": "json:dumps"}})
    assert pcs("--help").code == 0
    done = pcs("extra")
    assert done.code == 2
    assert "pcs-extra" in done.err
    assert "no typer application" in pcs("odd").err


ALONE = """
import json, sys
from pcs_cli.main import main
codes = [
    main(["systems", "--json"]),
    main(["techniques", "--json"]),
    main(["plugins", "--json"]),
    main(["doctor"]),
    main(["fit", "words", ".", "--out", "never-made"]),
]
assert codes == [0, 0, 0, 0, 2], codes
"""


def test_the_core_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        env={**os.environ, "PCS_PLUGINS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[]\n[]\n[]\n")
    assert not list(tmp_path.iterdir())


def test_a_default_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pcs_core import open_backbone; open_backbone('mini')"],
        env={**os.environ, "PCS_PLUGINS": "pcs-diffusers"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "backbone 'mini' is not installed" in done.stderr
    assert "pip install ./plugins/pcs-mini" in done.stderr
