"""What each file of a subject folder is read as, so that nothing in it is left out in silence."""

from __future__ import annotations

from dataclasses import dataclass

LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class FileUse:
    """``file`` relative to the folder, what it is read as, and what a user should know of that.

    ``quiet`` files (README and the like, hidden ones) are listed, but are no reason for a word.
    """

    file: str
    use: str
    note: str = ""
    quiet: bool = False

    @property
    def is_said(self) -> bool:
        """Whether a fit says it: it is left out, or read in a way that somebody may not expect."""
        return not self.quiet and (self.use == LEFT_OUT or bool(self.note))

    def line(self) -> str:
        """Return it as one line."""
        return f"{self.file}: {self.use}" + (f" ({self.note})" if self.note else "")
