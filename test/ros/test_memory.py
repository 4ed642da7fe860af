"""What a node frees is used again or given back."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from ros_helpers import running

from molmo_ros.ros import node as node_module
from molmo_ros.ros.memory import ARENAS

THREADS = 16  # by default glibc gives each its own heap on a machine with two cores or more
EARLIER = 1  # heaps of threads that a library started while it was imported
# Makes threads that allocate at the same time, and has the C library list its heaps.
CHILD = f"""
import ctypes, threading
from rclpy.node import Node
from molmo_ros.ros.entry import run_node

def many_threads(node):
    together = threading.Barrier({THREADS})
    def allocate():
        blocks = [bytearray(100_000) for _ in range(20)]
        together.wait()
    threads = [threading.Thread(target=allocate) for _ in range({THREADS})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    out = libc.fopen(b"/dev/stdout", b"w")
    libc.malloc_info(0, ctypes.c_void_p(out))
    libc.fflush(ctypes.c_void_p(out))

raise SystemExit(run_node("threads", lambda: Node("threads"), many_threads))
"""


def test_the_threads_of_a_node_share_few_heaps() -> None:
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    assert 1 <= told.count("<heap nr=") <= ARENAS + EARLIER, told


# Images that are freed between small blocks that live on.
IMAGES = """
from molmo_ros.ros.memory import limit_arenas, map_large_blocks, resident_mb
limit_arenas()
map_large_blocks()
before, small, images = resident_mb(), [], []
for _ in range(200):
    images.append(bytearray(320 * 240 * 4))
    small.append(bytearray(2000))
images.clear()
print(resident_mb() - before)
"""


def test_images_that_are_freed_are_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", IMAGES], capture_output=True, text=True, check=True).stdout
    assert float(told) < 10.0  # of 62 MB


# Blocks too small to be mapped, freed between small ones that live on.
BLOCKS = """
from molmo_ros.ros.memory import map_large_blocks, resident_mb, return_free_pages
map_large_blocks()
blocks, small = [], []
for _ in range(500):
    blocks.append(bytearray(100_000))
    small.append(bytearray(2000))
blocks.clear()
before = resident_mb()
return_free_pages()
print(before - resident_mb())
"""


def test_what_is_free_between_blocks_that_live_on_is_returned() -> None:
    told = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True).stdout
    assert float(told) > 30.0  # of 50 MB


@pytest.mark.usefixtures("context")
def test_a_node_returns_free_memory_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = threading.Event()
    monkeypatch.setattr(node_module, "TRIM_S", 0.2)
    monkeypatch.setattr(node_module, "return_free_pages", returned.set)
    with running({"autostart": False}, namespace="/returns"):
        assert returned.wait(60.0)
