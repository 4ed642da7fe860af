"""Frames -> training batches: augmentation, dense targets, and several questions per image.

The questions of an image share its prefix: each sees the image and itself, so one pass trains them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmo_ros.tools.tiny.data import Frames
from molmo_ros.tools.tiny.model import GRID, IMAGE_SIZE, PATCH, POOL, TOKENS
from molmo_ros.tools.tiny.questions import Thing, ask
from molmo_ros.tools.tiny.tokenizer import token_id

LENGTH = 224  # tokens: the image prefix, then as many questions as fit
MIN_SEEN = 0.009  # share of the image below which a crop has hidden too much of a thing
IGNORE = -100
_TRIPLE = re.compile(r" (\d+) (\d{3}) (\d{3})")
_DIGIT_WEIGHTS = (1.5, 1.0, 0.3)


@dataclass(frozen=True)
class Batch:
    """Tensors of B samples; see Heads for the meaning of the targets."""

    patches: Tensor  # (B, 256, 300) float, -1..1
    patch_names: Tensor  # (B, 256, 3) objectness, kind, colour; IGNORE where mixed or background
    token_names: Tensor  # (B, 64, 3)
    token_digits: Tensor  # (B, 64, 6) digits of x, then of y
    input_ids: Tensor  # (B, LENGTH)
    positions: Tensor  # (B, LENGTH)
    bias: Tensor  # (B, 1, LENGTH, LENGTH) additive mask
    labels: Tensor  # (B, LENGTH) the next token, IGNORE outside answers
    weights: Tensor  # (B, LENGTH) of each label
    roles: Tensor  # (B, LENGTH) 1 = first of an answer, 2, 3, 4 = hundreds, tens, ones, 5 = more or stop


def prefix_ids(tokenizer: Tokenizer) -> list[int]:
    """BOS (the official files use the end token), then the image block."""
    patch = [token_id(tokenizer, "<im_patch>")] * TOKENS**2
    names = ("<|im_end|>", "<low_res_im_start>", "<im_end>")
    bos, start, end = (token_id(tokenizer, n) for n in names)
    return [bos, start, *patch, end]


def make_batch(
    frames: Frames, tokenizer: Tokenizer, size: int, rng: np.random.Generator, augment: bool = True
) -> Batch:
    """size random samples of frames."""
    picks = rng.integers(len(frames), size=size)
    samples = [_sample(frames, int(i), tokenizer, rng, augment) for i in picks]
    return Batch(*(torch.from_numpy(np.stack([s[f.name] for s in samples])) for f in fields(Batch)))


def _sample(
    frames: Frames, i: int, tokenizer: Tokenizer, rng: np.random.Generator, augment: bool
) -> dict[str, np.ndarray]:
    rgb, ids = _view(frames.rgb[i], frames.ids[i], rng, augment)
    things, count = _things(ids, frames.kinds[i], frames.colors[i])
    if augment:
        rgb = _photometric(rgb, rng)
    patches = rgb.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(GRID**2, -1)
    patch_ids, patch_share = _dominant(ids, PATCH, count)
    token_ids, token_share = _dominant(ids, PATCH * POOL, count)
    names, digits = _lookup(things, count)
    return {
        "patches": patches.astype(np.float32) / 127.5 - 1,
        "patch_names": _names(names[patch_ids], patch_share, 0.4),
        "token_names": _names(names[token_ids], token_share, 0.15),
        "token_digits": np.where((token_share >= 0.15)[:, None], digits[token_ids], IGNORE),
        **_questions([t for t in things if t is not None], tokenizer, rng),
    }


def _view(
    rgb: np.ndarray, ids: np.ndarray, rng: np.random.Generator, augment: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The frame at the model's size: stretched as the preprocessor does, or cropped and perhaps mirrored."""
    h, w = ids.shape
    whole = np.array([[IMAGE_SIZE / w, 0, 0], [0, IMAGE_SIZE / h, 0]])
    if not augment:
        return _warp(rgb, ids, whole)
    before = np.bincount(ids.ravel(), minlength=10) > 0
    for _ in range(4):
        zoom = rng.uniform(0.9, 1.25) * rng.uniform(0.94, 1.06, 2)
        slack = IMAGE_SIZE * (1 - zoom)
        shift = np.where(slack < 0, rng.uniform(0, 1, 2), 0.5) * slack
        M = np.concatenate([whole[:, :2] * zoom[:, None], shift[:, None]], 1)
        view = _warp(rgb, ids, M)
        seen = np.bincount(view[1].ravel(), minlength=10)
        if (seen[before] >= MIN_SEEN * IMAGE_SIZE**2).all():
            break
    else:
        view = _warp(rgb, ids, whole)
    return (view[0][:, ::-1], view[1][:, ::-1]) if rng.random() < 0.5 else view


def _warp(rgb: np.ndarray, ids: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    M = M.copy()
    M[:, 2] += 0.5 * (M[0, 0] - 1), 0.5 * (M[1, 1] - 1)  # pixel centres, as a resize has them
    size = (IMAGE_SIZE, IMAGE_SIZE)
    color = cv2.warpAffine(rgb, M, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return color, cv2.warpAffine(ids, M, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


def _photometric(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)
    table = np.arange(256)[:, None] / 255
    table = np.clip(table ** rng.uniform(0.85, 1.2) * gain, 0, 1) * 255
    out = np.stack([table[:, c][rgb[..., c]] for c in range(3)], -1).astype(np.float32)
    if rng.random() < 0.2:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 0.8)), np.float32)
    out += rng.standard_normal(out.shape, dtype=np.float32) * rng.uniform(0, 7)
    return np.clip(out, 0, 255).astype(np.uint8)


def _things(ids: np.ndarray, kinds: np.ndarray, colors: np.ndarray) -> tuple[list[Thing | None], int]:
    """What is seen, by instance id (None: nothing of it), and the number of ids."""
    count = int((kinds >= 0).sum())
    things: list[Thing | None] = []
    for j in range(count):
        v, u = np.nonzero(ids == j + 1)
        if not len(u):
            things.append(None)
            continue
        nearest = np.argmin((u - u.mean()) ** 2 + (v - v.mean()) ** 2)  # the centre, moved onto the thing
        x, y = (round((c[nearest] + 0.5) / IMAGE_SIZE * 1000) for c in (u, v))
        things.append(Thing(int(kinds[j]), int(colors[j]), x, y))
    return things, count


def _dominant(ids: np.ndarray, cell: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each cell: the id that covers most of it (0 = background only), and its share."""
    n = IMAGE_SIZE // cell
    cells = ids.reshape(n, cell, n, cell).transpose(0, 2, 1, 3).reshape(n * n, -1)
    shares = np.stack([(cells == j).mean(1) for j in range(1, count + 1)], 1)
    best = shares.argmax(1)
    share = shares[np.arange(n * n), best]
    return np.where(share > 0, best + 1, 0), share


def _lookup(things: list[Thing | None], count: int) -> tuple[np.ndarray, np.ndarray]:
    """By id: (kind, colour) and the digits of x and y."""
    names = np.full((count + 1, 2), IGNORE)
    digits = np.full((count + 1, 6), IGNORE)
    for j, t in enumerate(things, 1):
        if t is not None:
            names[j] = t.kind, t.color
            digits[j] = [int(c) for c in f"{min(t.x, 999):03d}{min(t.y, 999):03d}"]
    return names, digits


def _names(names: np.ndarray, share: np.ndarray, enough: float) -> np.ndarray:
    """(N, 3): objectness 0/1 (IGNORE between), kind and colour where an object covers enough."""
    objectness = np.where(share >= enough, 1, np.where(share < 0.3 * enough, 0, IGNORE))
    return np.concatenate([objectness[:, None], np.where((share >= enough)[:, None], names, IGNORE)], 1)


def _questions(things: list[Thing], tokenizer: Tokenizer, rng: np.random.Generator) -> dict[str, np.ndarray]:
    prefix = prefix_ids(tokenizer)
    start = len(prefix)
    input_ids = np.zeros(LENGTH, np.int64)
    positions = np.zeros(LENGTH, np.int64)
    labels = np.full(LENGTH, IGNORE)
    weights = np.zeros(LENGTH, np.float32)
    roles = np.zeros(LENGTH, np.int64)
    group = np.full(LENGTH, -1)  # 0 = prefix, 1... = the question; -1 = padding
    input_ids[:start], positions[:start], group[:start] = prefix, np.arange(start), 0
    at, number = start, 1
    while True:
        ids, answer_from, w, r = _tokens(*ask(things, rng), tokenizer)
        end = at + len(ids)
        if end > LENGTH:
            break
        input_ids[at:end], positions[at:end], group[at:end] = ids, np.arange(start, start + len(ids)), number
        said = slice(at + answer_from - 1, end - 1)
        labels[said], weights[said], roles[said] = ids[answer_from:], w, r
        at, number = end, number + 1
    return {
        "input_ids": input_ids, "positions": positions, "bias": _mask(group, start),
        "labels": labels, "weights": weights, "roles": roles,
    }  # fmt: skip


def _mask(group: np.ndarray, prefix: int) -> np.ndarray:
    """Causal within a question and to the prefix; the image block (all but BOS) sees itself both ways."""
    i = np.arange(LENGTH)
    same = (group[:, None] == group[None]) | (group[None] == 0)
    seen = same & (i[None] <= i[:, None])
    seen[1:prefix, 1:prefix] = True
    return np.where(seen, 0, -1e4).astype(np.float32)[None]


def _tokens(prompt: str, answer: str, tokenizer: Tokenizer) -> tuple[list[int], int, np.ndarray, np.ndarray]:
    """ids of a whole turn; where the answer starts; weights and roles of the answer's tokens."""
    question = tokenizer.encode(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n").ids
    said = tokenizer.encode(answer)
    weights, roles = np.full(len(said.ids) + 1, 0.5, np.float32), np.zeros(len(said.ids) + 1, np.int64)
    starts = {o[0]: k for k, o in enumerate(said.offsets)}
    for match in _TRIPLE.finditer(answer):
        for group in (2, 3):
            for place in range(3):
                k = starts[match.start(group) + place]
                weights[k], roles[k] = _DIGIT_WEIGHTS[place], 2 + place
        stop = starts[match.end()]
        weights[stop], roles[stop] = 2.0, 5
    weights[0], roles[0] = 3.0, 1
    return question + said.ids + [token_id(tokenizer, "<|im_end|>")], len(question), weights, roles
