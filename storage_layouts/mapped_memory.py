"""Parts of files as memory: mapped, loaded from the disk ahead of their use, and let go after it."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, missing in Python's mmap module
_WILL_NEED, _DONT_NEED = 3, 4


def mapped(descriptor: int, offset: int, size: int) -> np.ndarray:
    """A private memory map of a part of a file, uint8 [size]: writing to it does not change the file.

    Python's mmap keeps a file descriptor open for each map. A store has hundreds of files, and a process can usually
    open 1,024. This map needs no descriptor, and is unmapped when nothing uses it.
    """
    libc = _libc()
    before = offset % mmap.ALLOCATIONGRANULARITY  # a map begins with a page
    size += before
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, offset - before)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.madvise(address, size, _POPULATE_READ)  # an older kernel refuses it, and loads page by page
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, libc.munmap, address, size).atexit = False  # other threads may still read at exit
    return np.frombuffer(memoryview(memory), np.uint8)[before:]


def load(address: int, size: int) -> None:
    """Read mapped bytes from the disk, if they are not in memory, in large pieces."""
    start, length = _pages(address, size)
    _libc().madvise(start, length, _WILL_NEED)
    _libc().madvise(start, length, _POPULATE_READ)


def let_go(address: int, size: int) -> None:
    """Take mapped bytes from the memory of this process. They are read again when they are used; writes are lost."""
    _libc().madvise(*_pages(address, size), _DONT_NEED)


def _pages(address: int, size: int) -> tuple[int, int]:
    before = address % mmap.PAGESIZE
    return address - before, size + before


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
