"""Identity of a process, from which other processes on the same machine can see whether it is still alive."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any


def unique_name() -> str:
    """A unique name for this process and moment, for example ``host-pid-3f91c2``.

    Unlike host and process id it is unique after a restart and in several containers of one host.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def this_process() -> dict[str, Any]:
    """Host, process id, and on Linux two fields that distinguish it from other processes with the same id.

    ``machine`` is the boot and the namespace of process ids (two containers of one host both have an id 1), ``born``
    the start of the process in clock ticks since the boot. Both are "" without /proc.
    """
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "born": _born(os.getpid())}


def is_gone(process: dict[str, Any]) -> bool:
    """Whether the process of a `this_process` has certainly ended. False if it runs elsewhere or this is unknown."""
    machine, born = process.get("machine"), process.get("born")
    if not (machine and born) or machine != _machine():
        return False
    try:
        return _born(process["pid"]) != born
    except OSError:  # too many open files, for example
        return False


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Start time of a process, or "" if it has ended (a zombie has)."""
    try:
        # The name in parentheses may contain blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
