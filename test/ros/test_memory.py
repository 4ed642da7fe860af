"""Memory that a node frees is reused or returned to the system."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from rclpy.executors import SingleThreadedExecutor

from molmo_ros.ros import node as molmo_node
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


# Small blocks that are freed between others that live on: the heap keeps them until it is trimmed.
BLOCKS = """
from molmo_ros.ros.memory import limit_arenas, resident_mb, trim_heap
limit_arenas()
before = resident_mb()
blocks = [bytearray(20_000) for _ in range(5000)]
blocks = blocks[::50]
kept = resident_mb() - before
trim_heap()
print(kept, resident_mb() - before)
"""


def test_what_is_free_in_a_heap_is_given_back_by_trimming() -> None:
    told = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True).stdout
    kept, trimmed = (float(word) for word in told.split())
    assert kept > 50.0 and trimmed < 15.0  # of 100 MB, of which 2 live on


def test_a_node_trims_its_heaps_by_itself(context: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(molmo_node, "TRIM_PERIOD_S", 0.05)
    monkeypatch.setattr(molmo_node, "trim_heap", trimmed.set)
    node = molmo_node.MolmoNode(namespace="/trimming")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        for _ in range(200):
            executor.spin_once(timeout_sec=0.05)
            if trimmed.is_set():
                break
    finally:
        executor.shutdown()
        node.destroy_node()
    assert trimmed.is_set()
