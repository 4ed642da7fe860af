"""Run a command that the kernel ends if it opens an internet socket: no_network.py [--dds] COMMAND...

A seccomp filter (seccomp(2)), inherited by all threads and children, so it holds for native code as well.
--dds: datagrams are allowed, without which there is no DDS; connections (TCP) are not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

SYS_SOCKET = {"x86_64": 41, "aarch64": 198}
LOAD, EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_ALU|AND|K, BPF_RET|K
ALLOW, KILL = 0x7FFF0000, 0x80000000
NUMBER, FAMILY, KIND = 0, 16, 24  # offsets in struct seccomp_data: syscall, first and second argument
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_sockets(datagrams: bool) -> None:
    """From now on socket(AF_INET | AF_INET6) ends the process with SIGSYS."""
    mask, kind = (0xF, socket.SOCK_STREAM) if datagrams else (0, 0)
    code = [  # (what, lines to skip if equal, if not, operand)
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 7, SYS_SOCKET[platform.machine()]),
        (LOAD, 0, 0, FAMILY),
        (EQUAL, 1, 0, socket.AF_INET),
        (EQUAL, 0, 4, socket.AF_INET6),
        (LOAD, 0, 0, KIND),
        (AND, 0, 0, mask),
        (EQUAL, 0, 1, kind),
        (RETURN, 0, 0, KILL),
        (RETURN, 0, 0, ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *line) for line in code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    program = _Program(len(code), packed)
    if libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    command = sys.argv[1:]
    dds = command[0] == "--dds"
    forbid_sockets(dds)
    os.execvp(command[dds], command[dds:])
