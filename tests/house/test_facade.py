"""Public names: each stands once, in a stub, and leads to what it says."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import pcs_cli
import pcs_core
import pcs_evidence
from pcs_core.catalogue import Catalogue, catalogue
from pcs_core.errors import UnknownNameError
from pcs_core.facade import public_names, services


@pytest.mark.parametrize("package", [pcs_core, pcs_cli, pcs_evidence], ids=lambda p: p.__name__)
def test_every_public_name_is_there(package: ModuleType) -> None:
    names = public_names(str(package.__file__))
    assert names
    for name, module in names.items():
        assert getattr(package, name) is not None, (name, module)
    assert set(dir(package)) - {"__version__"} == set(names)
    assert set(package.__all__) - {"__version__"} <= set(names)
    assert package.__all__ == sorted(package.__all__)


@pytest.mark.parametrize("package", [pcs_core, pcs_cli, pcs_evidence], ids=lambda p: p.__name__)
def test_a_name_stands_once(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    counts = Counter(alias.name for node in imports for alias in node.names)
    assert max(counts.values()) == 1
    # without "as", a type checker takes a name of a stub for a private one
    assert all(alias.asname == alias.name for node in imports for alias in node.names)


def test_what_stands_beside_the_core_is_held_by_the_distribution_that_the_stub_names() -> None:
    """What the message about a missing name says is where it is."""
    assert {"load_subject", "merge_personalizations"} <= set(services())
    for name, distribution in services().items():
        folder = Path(__file__).resolve().parents[2] / "plugins" / distribution
        if not (folder / distribution.replace("-", "_") / "plugin.py").exists():
            assert public_names(pcs_core.__file__)[name].startswith("pcs_folders.")
            continue
        assert catalogue().distribution("services", name) == distribution
        module, _, attribute = catalogue().where("services", name).partition(":")
        assert (module, attribute) == (public_names(pcs_core.__file__)[name], name)


def test_a_service_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[Catalogue.__module__], "catalogue", lambda: Catalogue([]))
    with pytest.raises(UnknownNameError, match=r"not installed: it belongs to pcs-merging .*pip"):
        pcs_core.merge_personalizations  # noqa: B018
    assert "merge_personalizations" not in pcs_core.__all__
    with pytest.raises(AttributeError, match="nothing"):
        pcs_core.nothing  # noqa: B018
