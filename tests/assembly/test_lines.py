"""Lines of tables and keys in a TOML text."""

from __future__ import annotations

from pcs_core.assembly.lines import line_numbers

TEXT = '''\
# [not] a header
top = 1

[[use]]
name = """
[[use]]
name = 3
"""
list = [
  1, # ]
  2,
]
[use.deep."a.b"]
c = { d = 1 }
[[use]]
name = 4
x.y = 5
'''


def test_lines_of_tables_arrays_and_keys() -> None:
    lines = line_numbers(TEXT)
    assert lines["top",] == 2
    assert lines["use", 0] == 4
    assert lines["use", 0, "name"] == 5
    assert lines["use", 0, "list"] == 9
    assert lines["use", 0, "deep", "a.b"] == 13
    assert lines["use", 0, "deep", "a.b", "c"] == 14
    assert lines["use", 1] == 15
    assert lines["use", 1, "name"] == 16
    assert lines["use", 1, "x"] == lines["use", 1, "x", "y"] == 17
    assert len([path for path in lines if path[-1] == "name"]) == 2


def test_windows_line_ends_count_once() -> None:
    assert line_numbers("a = 1\r\n\r\nb = 2\r\n") == {("a",): 1, ("b",): 3}
