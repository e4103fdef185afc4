"""Lines of code of a folder, by tokens: lines that hold code, without blanks, comments and docstrings.

    python scripts/count_lines.py [FOLDER ...]     (pcs_core where none is named)

A line counts where a token of it does: a string that stands alone as a statement (docstrings) does not,
whatever else stands in several lines (calls, tables, literal strings) counts with each of its lines.
"""

import io
import sys
import tokenize
from pathlib import Path

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> int:
    """How many lines of `text`, Python source, hold code."""
    lines: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            statement.append(token)
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if any(part.type != tokenize.STRING for part in statement):
                for part in statement:
                    lines.update(range(part.start[0], part.end[0] + 1))
            statement = []
    return len(lines)


def count(folder: Path) -> dict[Path, int]:
    """The lines of code of each Python file below `folder`."""
    return {path: code_lines(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def main(folders: list[str]) -> int:
    """Print the lines of each part of each folder, and the sum."""
    for name in folders or ["pcs_core"]:
        folder = Path(name)
        parts: dict[str, int] = {}
        for path, lines in count(folder).items():
            part = path.relative_to(folder).parts[0]
            parts[part] = parts.get(part, 0) + lines
        for part, lines in sorted(parts.items(), key=lambda item: -item[1]):
            print(f"{lines:7,}  {folder / part}")
        print(f"{sum(parts.values()):7,}  {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
