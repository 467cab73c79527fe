"""Runs a part of a test with something mounted: in a child that has mounts of its own."""

import ctypes
import os
import sys
import traceback
from pathlib import Path

_BIND = 0x1000  # MS_BIND of linux/mount.h
_READ_ONLY = 0x20 | 0x1  # MS_REMOUNT and MS_RDONLY
_NEW = 0x10000000 | 0x00020000  # CLONE_NEWUSER and CLONE_NEWNS of linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)


def with_mounted(bound, work):
    """Calls `work` while each key has another folder or file mounted at it, its value.

    It is root then, in a user namespace, so any user may do this. It fails where the system lets
    nobody mount anything, or if `work` raises; that is printed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become_root()
            for point, source in bound.items():
                mount(source, point)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def mount(source, point):
    """Has a folder or file at another place as well, as `mount --bind`."""
    _checked(_LIBC.mount(os.fsencode(source), os.fsencode(point), None, _BIND, None), point)


def mount_read_only(folder):
    """Has nobody write to a folder, as on a disc or in an image."""
    mount(folder, folder)
    # What the mount was made with cannot be taken off in this namespace.
    kept = os.statvfs(folder).f_flag & ~os.ST_RELATIME
    made = _LIBC.mount(None, os.fsencode(folder), None, _BIND | _READ_ONLY | kept, None)
    _checked(made, folder)


def mount_memory(point, options):
    """Has an empty file system in memory at a folder."""
    made = _LIBC.mount(b"none", os.fsencode(point), b"tmpfs", 0, options.encode())
    _checked(made, point)


def mount_overlay(point, lower, upper, work):
    """Has a folder with another above it, as a container has its own files above an image's."""
    # The last is for one who is root in this namespace alone.
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    made = _LIBC.mount(b"none", os.fsencode(point), b"overlay", 0, os.fsencode(options))
    _checked(made, point)


def _become_root():
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(_NEW), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def _checked(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(what))
