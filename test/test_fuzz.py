"""Any untrusted input: an answer, or one of our own errors, within a second.

Short here; 10 000 cases of each by hand:  MOLMO_ROS_FUZZ=10000 scripts/env.sh pytest test/test_fuzz.py
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from molmo_ros.answer_format.points import is_denial, parse_molmo1, parse_molmo2
from molmo_ros.camera.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.camera.conversions import (
    COLOR_ENCODINGS,
    DEPTH_ENCODINGS,
    decode_color,
    decode_depth,
    decode_lens,
)
from molmo_ros.checkpoint.checkpoint import open_weights, resolve
from molmo_ros.checkpoint.preprocess import ImageConfig
from molmo_ros.checkpoint.query import parse_query, parse_question
from molmo_ros.errors import MolmoRosError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.io import read_color, read_depth
from molmo_ros.limits import parse_boxes
from molmo_ros.network.read_config import parse_config
from molmo_ros.perception.camera_info import load_camera_info
from molmo_ros.policy.policy import Policy
from molmo_ros.runtimes.engine_store import read_manifest
from molmo_ros.tools.recipes import load_recipe

CASES = int(os.environ.get("MOLMO_ROS_FUZZ", "25"))
FUZZ = settings(
    max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=CASES <= 25
)
ASSETS = resolve("tiny").parent
FRAGMENTS = st.sampled_from(
    [
        "<points",
        ' coords="',
        "1 1 ",
        "500 ",
        '">',
        "</points>",
        '<point x="',
        '" y="',
        "<|im_end|>",
        "<im_patch>",
        "<think>",
        "Assistant:",
        "User :",
        "There are",
        " none.",
        "\x00",
        "\ud800",
        "\u202e",
        "|<EXTRA_TOKENS_1>|",
        "<POINT_3>",
        ";",
        "\t",
        "9" * 40,
        "e" * 3000,
        "\u0301" * 500,
    ]
)
TEXT = st.lists(FRAGMENTS | st.text(max_size=20), max_size=30).map("".join)
JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just([]) | st.just({})
)


def ours(call: Callable[[], Any]) -> Any:
    """The result, or None for one of our errors. Anything else fails, and so does a second of work."""
    start = time.process_time()
    try:
        return call()
    except MolmoRosError as error:
        assert str(error)
        return None
    finally:
        assert time.process_time() - start < 1.0


def mutated(valid: bytes, draw: Callable[[Any], Any]) -> bytes:
    """Some bytes changed, cut out or doubled."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["set", "cut", "double", "end"]))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 50))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 50))]
        else:
            del data[at:]
    return bytes(data)


def changed(valid: Any, draw: Callable[[Any], Any]) -> Any:
    """A JSON value with one entry replaced or removed."""
    content = json.loads(json.dumps(valid))
    at = content
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
        if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
            at = at[key]
            continue
        if draw(st.booleans()):
            del at[key]
        else:
            at[key] = draw(JUNK)
        return content


@FUZZ
@given(TEXT)
def test_answers_of_a_model(text: str) -> None:
    for parse in (parse_molmo1, parse_molmo2):
        for point in ours(lambda parse=parse: parse(text, 640, 480)):
            assert 0 <= point.x <= 639 and 0 <= point.y <= 479
    assert is_denial(text) in (True, False)


@FUZZ
@given(TEXT)
def test_queries(text: str) -> None:
    query = ours(lambda: parse_query(text))
    question = ours(lambda: parse_question(text))
    for found in (query, question):
        if found is not None:
            assert found.text.isprintable()
            again = ours(lambda found=found: parse_question(found.text))
            assert again is not None and again.text == found.text


@FUZZ
@given(
    st.sampled_from([*COLOR_ENCODINGS, *DEPTH_ENCODINGS, "bayer_rggb8", ""]),
    st.integers(0, 9),
    st.integers(0, 9) | st.just(2**32 - 1),
    st.integers(0, 80) | st.just(2**32 - 1),
    st.binary(max_size=400),
    st.integers(0, 255),
)
def test_images(encoding: str, height: int, width: int, step: int, data: bytes, big: int) -> None:
    msg = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, data=data, is_bigendian=big
    )
    color, depth = ours(lambda: decode_color(msg)), ours(lambda: decode_depth(msg))
    assert color is None or color.shape == (height, width, 3)
    assert depth is None or (depth.shape == (height, width) and not (depth <= 0).any())


@FUZZ
@given(
    st.lists(st.floats(), min_size=9, max_size=9),
    st.lists(st.floats(), min_size=12, max_size=12),
    st.lists(st.floats(), max_size=14),
    st.sampled_from(["plumb_bob", "equidistant", "rational_polynomial", "x"]),
)
def test_camera_infos(k: list[float], p: list[float], d: list[float], model: str) -> None:
    with np.errstate(all="ignore"):
        good = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
        for matrix in (k, good):
            msg = SimpleNamespace(
                k=matrix, p=p, d=d, r=k, distortion_model=model, width=640, height=480, header=None
            )
            ours(lambda msg=msg: decode_lens(msg, 640, 480))


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint16 if form == "depth" else np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(buffer, "jpeg" if form == "jpeg" else "png")
    return buffer.getvalue()


@FUZZ
@given(st.data())
def test_compressed_pictures(data: Any) -> None:
    form = data.draw(st.sampled_from(["png", "jpeg", "depth"]))
    content = mutated(picture(form), data.draw)
    msg = SimpleNamespace(data=content, format=form)
    color = ours(lambda: decode_compressed_color(msg))
    assert color is None or color.ndim == 3
    head = struct.pack("<iff", 0, *data.draw(st.tuples(st.floats(width=32), st.floats(width=32))))
    msg = SimpleNamespace(data=mutated(head + content, data.draw), format="32FC1; compressedDepth")
    with np.errstate(all="ignore"):
        depth = ours(lambda: decode_compressed_depth(msg))
    assert depth is None or not (depth <= 0).any()


YAMLS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "gripper": ((ASSETS / "grippers" / "franka_hand.yaml").read_bytes(), Gripper.load),
    "policy": ((ASSETS / "policy" / "lab.yaml").read_bytes()[-3000:], Policy.load),
    "recipe": ((ASSETS / "engines" / "rtx.yaml").read_bytes(), lambda path: load_recipe(str(path))),
    "camera": (
        b"image_width: 640\nimage_height: 480\ncamera_name: c\ndistortion_model: plumb_bob\n"
        b"camera_matrix: {rows: 3, cols: 3, data: [500, 0, 320, 0, 500, 240, 0, 0, 1]}\n"
        b"distortion_coefficients: {data: [0.1]}\n",
        load_camera_info,
    ),
    "color": (picture("png"), read_color),
    "depth": (picture("depth"), read_depth),
}


@pytest.mark.parametrize("kind", YAMLS)
@FUZZ
@given(st.data())
def test_files(kind: str, data: Any) -> None:
    valid, read = YAMLS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("file.yaml" if kind not in ("color", "depth") else "file.png")
        path.write_bytes(mutated(valid, data.draw))
        ours(lambda: read(path))


@FUZZ
@given(st.data())
def test_configurations(data: Any) -> None:
    tiny = ASSETS / "tiny"
    fields = changed(json.loads((tiny / "config.json").read_text()), data.draw)
    ours(lambda: parse_config(fields))
    image = changed(json.loads((tiny / "preprocessor_config.json").read_text()), data.draw)
    ours(lambda: ImageConfig.parse(image))


@FUZZ
@given(st.data())
def test_manifests(data: Any) -> None:
    entry = {"name": "a.engine", "bytes": 3, "sha256": "0" * 64}
    valid = {
        "checkpoint": "tiny",
        "checkpoint_hash": "x",
        "precision": "int4",
        "quantisation": {},
        "runtime": "tensorrt",
        "runtime_version": "10",
        "gpu": "",
        "sm": 86,
        "system": "",
        "date": "2026-01-01T00:00:00+00:00",
        "graph_version": 1,
        "graphs": {},
        "profiles": {},
        "kv": {},
        "attention": {},
        "files": {"a": entry},
        "format": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest.json")
        path.write_text(json.dumps(changed(valid, data.draw)))
        found = ours(lambda: read_manifest(Path(folder)))
        assert found is None or found.bytes >= 0
        path.write_bytes(mutated(json.dumps(valid).encode(), data.draw))
        ours(lambda: read_manifest(Path(folder)))


@FUZZ
@given(st.data())
def test_headers_of_safetensors(data: Any) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    valid = struct.pack("<Q", len(header)) + header + bytes(8)
    length = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    for content in (mutated(valid, data.draw), length + valid[8:]):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model.safetensors").write_bytes(content)
            ours(lambda folder=folder: open_weights(Path(folder)))


@FUZZ
@given(TEXT | st.lists(st.floats().map(str), max_size=8).map(" ".join))
def test_boxes(text: str) -> None:
    for box in ours(lambda: parse_boxes([text], "workspace")) or ():
        assert all(low < high for low, high in zip(box.low, box.high, strict=True))
