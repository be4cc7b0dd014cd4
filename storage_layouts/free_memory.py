"""Memory that processes of this machine may still take, within the limit of its control group (containers, SLURM)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Limit, use, and the field of memory.stat with cached files that are dropped when memory is needed; of version 2 and
of the controller `memory` of version 1."""


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping: the least of the kernel's estimate and what each group leaves.

    Where the kernel gives no estimate (not Linux), the memory of the machine. `root` is that of the file system.
    """
    return max(0, min([_of_machine(root), *_of_groups(root)]))


def _of_machine(root: Path) -> int:
    try:
        return 1024 * _field((root / "proc/meminfo").read_text(), "MemAvailable:")
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups(root: Path) -> Iterator[int]:
    """What is left in the groups of this process and in those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        for controller, (limit, used, cached) in _CGROUP_FILES.items():
            if controller not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / controller
            group = mount / name.strip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(mount):
                    break
                try:
                    most, now = int((folder / limit).read_text()), int((folder / used).read_text())
                    yield most - now + _field((folder / "memory.stat").read_text(), cached)
                except (OSError, ValueError):  # no such group here, or no limit ("max")
                    continue


def _field(text: str, name: str) -> int:
    for words in map(str.split, text.splitlines()):
        if words[:1] == [name]:
            return int(words[1])
    raise ValueError(f"no field {name}")
