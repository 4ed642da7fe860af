"""Pictures that are small on the wire and huge in memory, and headers that lie."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from molmo_ros.camera.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.errors import FrameError
from molmo_ros.io import read_color, read_depth


def png(width: int, height: int, *, bits: int = 8, data: bytes | None = None) -> bytes:
    """A grey PNG with this header; ``data``: the compressed pixels, black if None."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    if data is None:
        packer = zlib.compressobj(9)
        row = bytes(1 + width * bits // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def message(data: bytes, format_: str = "16UC1; compressedDepth png") -> Any:
    return SimpleNamespace(data=data, format=format_)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


HUGE = png(7200, 7200)
LYING = png(50_000, 50_000, data=b"")
WAYS: dict[str, Callable[[bytes], Any]] = {
    "color": lambda data: decode_compressed_color(message(data, "png")),
    "depth": lambda data: decode_compressed_depth(message(bytes(12) + data)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("data", [HUGE, LYING], ids=["huge", "lying"])
def test_a_small_message_does_not_unpack_to_gigabytes(way: str, data: bytes) -> None:
    with pytest.raises(FrameError):  # imports OpenCV and Pillow
        WAYS[way](b"x")
    before, start = peak_mb(), time.process_time()
    with pytest.raises(FrameError, match="would unpack to"):
        WAYS[way](data)
    assert time.process_time() - start < 0.5
    assert peak_mb() - before < 50


def test_a_picture_is_as_large_as_camera_info_says() -> None:
    data = png(4000, 3000, bits=16)
    with pytest.raises(FrameError, match="camera_info of 640x480"):
        decode_compressed_color(message(data, "png"), (640, 480))
    with pytest.raises(FrameError, match="camera_info of 640x480"):
        decode_compressed_depth(message(bytes(12) + data), (640, 480))
    assert decode_compressed_color(message(png(640, 480), "png"), (640, 480)).shape == (480, 640, 3)
    assert decode_compressed_depth(message(bytes(12) + png(8, 4, bits=16)), (8, 4)).shape == (4, 8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png(8, 8, data=b"x"),
        png(0, 0, data=b""),
        b"GIF89a" + bytes(50),
        b"\xff\xd8",
    ],
)
def test_damaged_pictures(way: str, data: bytes) -> None:
    with pytest.raises(FrameError):
        WAYS[way](data)


def test_a_header_that_promises_more_than_the_bytes_can_hold() -> None:
    """Found by fuzzing: 48 million pixels in half a kilobyte, a second of work to fill them with grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "jpeg")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 6000, 8000)
    with pytest.raises(FrameError, match="too few bytes for 8000x6000 pixels"):
        decode_compressed_color(SimpleNamespace(data=bytes(data), format="jpeg"))
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "png")  # what packs best is still read
    read = decode_compressed_color(SimpleNamespace(data=buffer.getvalue(), format="png"))
    assert read.shape == (2000, 2000, 3)


def test_a_chunk_that_is_longer_than_the_message() -> None:
    """Found by fuzzing: OpenCV makes room for the 1.6 GB that a chunk of a small PNG says it has."""
    data = bytearray(png(8, 8))
    assert data[37:41] == b"IDAT"
    data[33] = 0x60
    start = time.process_time()
    with pytest.raises(FrameError, match="cut off"):
        decode_compressed_color(SimpleNamespace(data=bytes(data), format="png"))
    assert time.process_time() - start < 0.5


def test_a_header_of_compressed_depth_that_is_cut_off() -> None:
    for length in range(13):
        with pytest.raises(FrameError):
            decode_compressed_depth(message(bytes(length), "32FC1; compressedDepth"))


@pytest.mark.parametrize(
    "quantisation", [(np.nan, 0.0), (np.inf, np.nan), (-1.0, 0.0), (1.0, np.inf), (0.0, 0.0)]
)
def test_quantisation_that_makes_no_sense_gives_no_depth(quantisation: tuple[float, float]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 7, np.uint16)).save(buffer, "png")
    data = struct.pack("<iff", 0, *quantisation) + buffer.getvalue()
    assert np.isnan(decode_compressed_depth(message(data, "32FC1; compressedDepth"))).all()


@pytest.mark.parametrize("data", [HUGE, LYING])
def test_files_are_bounded_as_well(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    for read in (read_color, read_depth):
        start = time.process_time()
        with pytest.raises(FrameError):
            read(path)
        assert time.process_time() - start < 0.5
