"""Memory that is used again, instead of given back and asked for anew at each step.

Linux hands out memory page by page, zeroed, when it is first touched, and glibc gives large blocks back as soon as they
are free: what a step computes on a CPU is in new pages every time. Kept, a step of model=14m took six sevenths of
its time and one of model=124m two thirds; the process stays as large as its largest step made it.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them, in malloc.h
NEVER, LARGEST, LARGEST_ONCE = -1, 2**31 - 1, 32 << 20  # bytes; the last is what an older glibc takes
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # variables of who has chosen already


def keep_freed_memory() -> None:
    """Let this process keep what it frees, until it ends. Only with glibc, and where no variable says otherwise."""
    if sys.platform != "linux" or any(name in os.environ for name in OWN):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    if not libc.mallopt(MMAP_THRESHOLD, LARGEST):
        libc.mallopt(MMAP_THRESHOLD, LARGEST_ONCE)
