"""Which process wrote something, told so exactly that others on the same machine know whether it still lives."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any


def unique_name() -> str:
    """A name for this process and moment, as in ``host-pid-3f91c2``.

    Unlike host and process id it is never given twice: not after a restart, and not in two containers of one host.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def this_process() -> dict[str, Any]:
    """Host, process id, and on Linux what tells it from every other process that ever has the same id.

    ``machine`` is the boot and the namespace of process ids (two containers of one host have the same id 1),
    ``born`` the start of the process in clock ticks since the boot. Both are "" where there is no /proc.
    """
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "born": _born(os.getpid())}


def is_gone(process: dict[str, Any]) -> bool:
    """Whether a process that said `this_process` has certainly ended. False if it runs elsewhere or nobody knows."""
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
        # The name in brackets may hold blanks and brackets of its own.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
