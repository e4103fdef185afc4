"""The entry point: runs a command and turns what went wrong into a message and an exit code.

0 done; 1 a check that does not hold, or an internal error; 2 bad input; 3 finished with failed
rows; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence

from pcs_cli.locks import note_command
from pcs_cli.output import complain, silence_pipe, warnings_said
from pcs_core.errors import PcsError, PluginError, check_utf8

DONE, FAILED, BAD_INPUT, FAILED_ROWS, INTERRUPTED = 0, 1, 2, 3, 130

DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(errno.EACCES, errno.EPERM),
)
"""What a system says of a disk that takes no more, of too many open files, and of what is another user's."""
LOOP = "Symlink loop from "
"""How Python's error about a link that leads to itself begins; the link follows, in quotation marks."""
NO_MEMORY = (
    "not enough memory: close other programs, or ask for less at once (a smaller --size, batch or rank; "
    "--dry-run says what a fit takes)"
)
_stopped: list[int] = []
"""Signals that ended this command, as they came."""
TRACEBACK = "PCS_TRACEBACK"
"""Environment variable: set to 1, errors come with their traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``pcs`` with ``arguments`` (default: those of the process) and return its exit code."""
    prepare_streams()
    _stopped.clear()
    try:
        with stopped_as_by_ctrl_c(), warnings_said():
            code = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader has seen enough, as in `pcs systems | head`
        silence_pipe()
        return DONE
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # once more is not worse
            complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        return failed(error)
    return code


def failed(error: Exception) -> int:
    """Say what ended a command, and return its exit code."""
    if _stopped:  # a library has made an error of its own out of the interruption
        complain("interrupted")
        return INTERRUPTED
    if isinstance(error, PcsError):
        report(error, str(error))
        if isinstance(error, PluginError) and not wants_traceback():
            complain(f"with {TRACEBACK}=1 in front, the command shows where in the plugin", "")
        return error.exit_code
    if isinstance(error, RuntimeError) and str(error).startswith(LOOP):  # of Path.resolve
        report(error, f"{str(error)[len(LOOP) :]} is a link that leads to itself: remove it")
        return BAD_INPUT
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        report(error, f"{where}{error.strerror or error}")
        return BAD_INPUT if error.errno in DISK else FAILED
    if lacks_memory(error):
        report(error, NO_MEMORY)
        return BAD_INPUT
    text = " ".join(str(error).split())
    report(error, f"internal error: {type(error).__name__}: {text}")
    if not wants_traceback():
        complain(f"this is a bug; with {TRACEBACK}=1 in front, the command shows where", "")
    return FAILED


def lacks_memory(error: Exception) -> bool:
    """Return whether an error says that the machine or a device has no memory left."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, of a device
        or "can't allocate memory" in str(error)  # torch's, of the machine
        or str(error)
        == "could not create a primitive"  # oneDNN's, which finds no room for its code
    )


def run(arguments: Sequence[str] | None) -> int:
    """Run the application; usage errors are shown by it. Raises what a command raises."""
    # in one place, for every path of every command: it would be written into manifests, and printed
    words = sys.argv[1:] if arguments is None else arguments
    check_utf8(*words, what="the argument")
    note_command(words)
    from pcs_cli.app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="pcs")
    except SystemExit as leaving:
        early = getattr(leaving.__context__, "__cause__", None)
        if isinstance(early, KeyboardInterrupt):  # none that a command has spoken of
            complain("interrupted")
        if leaving.code is None:
            return DONE
        if isinstance(leaving.code, int):
            return leaving.code
        complain(str(leaving.code))
        return FAILED
    finally:
        if "pcs_cli.claims" in sys.modules:  # a command that writes
            from pcs_cli.claims import release_all

            release_all()
    return DONE


@contextlib.contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: it keeps its work and says how to go on.

    What came is noted: a library may catch the interruption, and raise an error of its own.

    Where somebody else decides of them, as nohup does of SIGHUP, that stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread decide of signals
        return

    def stop(number: int, _: object) -> None:
        _stopped.append(number)
        raise KeyboardInterrupt

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    ends = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {end: signal.getsignal(end) for end in ends}
    plain = (signal.SIG_DFL, signal.default_int_handler)
    ours = [end for end in ends if before[end] in plain]
    for end in ours:
        signal.signal(end, stop)
    try:
        yield
    finally:
        for end in ours:
            signal.signal(end, before[end])


def report(error: BaseException, message: str) -> None:
    """Print ``message``, and with ``PCS_TRACEBACK=1`` the traceback before it."""
    if wants_traceback():
        traceback.print_exception(error)
    complain(message)


def wants_traceback() -> bool:
    """Return whether the user asked for tracebacks."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def prepare_streams() -> None:
    """Print any text on any terminal, and keep what other libraries say to developers from users."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if not sys.warnoptions and not wants_traceback():
        warnings.simplefilter("ignore")
        # what the model libraries log on a failure stands in our own message
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")


if __name__ == "__main__":
    sys.exit(main())
