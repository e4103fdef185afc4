"""Ask the process that `warm.py` started for a run of a technique's guards; its exit status is theirs.

python scripts/mutation/ask.py SOCKET TECHNIQUE
"""

from __future__ import annotations

import socket
import sys


def main() -> int:
    """Print what the guards print and return their status; 1 where the run ended without one."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(sys.argv[1])
        asking.sendall(sys.argv[2].encode())
        said = b""
        while part := asking.recv(65536):
            said += part
    sys.stdout.buffer.write(said[:-1])
    return said[-1] if said else 1


if __name__ == "__main__":
    raise SystemExit(main())
