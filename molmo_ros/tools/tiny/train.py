"""Train the built-in model: first to see (auxiliary read-outs), then to see and to answer.

Deterministic for a seed, a number of ranks and a data set; resumable: start the same command again.
The learning rate is constant, then falls linearly to zero over the last --decay steps, so that a run can be
extended from its last state. Two single-threaded ranks use two cores better than one with two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from molmo_ros.tools.tiny import data
from molmo_ros.tools.tiny.batch import IGNORE, Batch, make_batch, prefix_ids
from molmo_ros.tools.tiny.model import Heads, connect, new_model, text, vision
from molmo_ros.tools.tiny.tokenizer import train_tokenizer

SAVE_EVERY, JUDGE_EVERY = 100, 200


class Trainer(nn.Module):
    """The model, its auxiliary heads, and the loss of a batch."""

    def __init__(self, tokenizer: Tokenizer, seed: int, compiled: bool = False) -> None:
        super().__init__()
        wrap = partial(torch.compile, dynamic=False) if compiled else lambda f: f
        self.vision, self.connect, self.text = wrap(vision), wrap(connect), wrap(text)
        self.model = new_model(seed)
        self.heads = Heads()
        self.prefix = len(prefix_ids(tokenizer))

    def forward(self, batch: Batch, answer: bool) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.vision(self.model, batch.patches)
        tokens = self.connect(self.model, features)
        scores: dict[str, Tensor] = {}
        loss = _names_loss(self.heads.patch(features), batch.patch_names, "patch", scores)
        read = self.heads.token(tokens)
        loss = loss + _names_loss(read[..., :16], batch.token_names, "token", scores)
        loss = loss + _digits_loss(read[..., 16:], batch.token_digits, scores)
        if answer:
            loss = 0.3 * loss + self._answers_loss(tokens, batch, scores)
        return loss, scores

    def _answers_loss(self, tokens: Tensor, batch: Batch, scores: dict[str, Tensor]) -> Tensor:
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        first = 2  # BOS, start of image
        embeds = torch.cat(
            [embeds[:, :first], embeds[:, first : self.prefix - 1] + tokens, embeds[:, self.prefix - 1 :]], 1
        )
        hidden = self.text(self.model, embeds, batch.bias.to(embeds.dtype), batch.positions)
        said = batch.labels != IGNORE
        labels, weights, roles = batch.labels[said], batch.weights[said], batch.roles[said]
        logits = self.model.lm_head(hidden[said]).float()
        each = nn.functional.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(-1) == labels).float()
        for role, name in enumerate(("other", "first", "hundreds", "tens", "ones", "more_or_stop")):
            scores[name] = right[roles == role].mean()
        return (each * weights).sum() / weights.sum()


def _names_loss(logits: Tensor, names: Tensor, where: str, scores: dict[str, Tensor]) -> Tensor:
    """Objectness everywhere; kind and colour on objects only, so that background does not swamp them."""
    objectness, kind, color = names.unbind(-1)
    known = objectness != IGNORE
    loss = nn.functional.binary_cross_entropy_with_logits(
        logits[..., 0][known].float(), objectness[known].float()
    )
    for name, target, part in (("kind", kind, logits[..., 1:8]), ("color", color, logits[..., 8:16])):
        on = target != IGNORE
        loss = loss + nn.functional.cross_entropy(part[on].float(), target[on])
        scores[f"{where}_{name}"] = (part[on].argmax(-1) == target[on]).float().mean()
    return loss


def _digits_loss(logits: Tensor, digits: Tensor, scores: dict[str, Tensor]) -> Tensor:
    on = digits[..., 0] != IGNORE
    part, target = logits[on].view(-1, 6, 10).float(), digits[on]
    loss = torch.zeros(())
    for place, weight in enumerate((0.75, 0.5, 0.08) * 2):
        loss = loss + weight * nn.functional.cross_entropy(part[:, place], target[:, place])
    scores["token_hundreds"] = (part[:, 0].argmax(-1) == target[:, 0]).float().mean()
    return loss


class Optimizer:
    """Muon for the matrices inside the towers, AdamW for the rest; Muon's work is divided over the ranks."""

    def __init__(self, module: nn.Module, lr: float, rank: int, ranks: int) -> None:
        named = list(module.named_parameters())
        inner = [p for n, p in named if p.ndim == 2 and (".layers." in n or "projector" in n)]
        ids = {id(p) for p in inner}
        self.shares = [inner[r::ranks] for r in range(ranks)]
        self.ranks = ranks
        self.muon = torch.optim.Muon(
            self.shares[rank], lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=5
        )
        rest = [p for _, p in named if id(p) not in ids]
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)

    def step(self, lr: float) -> None:
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()  # type: ignore[no-untyped-call,unused-ignore]
        if self.ranks > 1:
            for r, share in enumerate(self.shares):
                flat = torch.cat([p.data.flatten() for p in share])
                dist.broadcast(flat, r)
                _unflatten(flat, [p.data for p in share])


def _average_gradients(module: nn.Module, ranks: int) -> None:
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]
    flat = torch.cat([g.flatten() for g in grads])
    if ranks > 1:
        dist.all_reduce(flat)
        flat /= ranks
    flat *= min(1.0, 1.0 / (flat.norm().item() + 1e-6))
    _unflatten(flat, grads)


def _unflatten(flat: Tensor, into: list[Tensor]) -> None:
    at = 0
    for t in into:
        t.copy_(flat[at : at + t.numel()].view_as(t))
        at += t.numel()


def learning_rate(step: int, total: int, peak: float, decay: int) -> float:
    """Warm up over 60 steps, hold, then fall to zero over the last `decay` steps."""
    return peak * min(1.0, (step + 1) / 60, max(0.0, (total - step) / max(decay, 1)))


def run(rank: int, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if args.ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
        dist.init_process_group("gloo", rank=rank, world_size=args.ranks)
    shards = data.shards(args.data)
    train, held = data.load(shards[:-1][rank :: args.ranks]), data.load(shards[-1:])
    tokenizer = train_tokenizer()
    trainer = Trainer(tokenizer, args.seed, args.compile)
    optimizer = Optimizer(trainer, args.lr, rank, args.ranks)
    step = _resume(trainer, optimizer, args.out, rank)
    total = args.vision_steps + args.joint_steps
    began = time.time()
    recent: dict[str, list[float]] = {}
    while step < total:
        rng = np.random.default_rng([args.seed, step, rank])
        batch = make_batch(train, tokenizer, args.batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, scores = trainer(batch, step >= args.vision_steps)
        loss.backward()
        _average_gradients(trainer, args.ranks)
        optimizer.step(learning_rate(step, total, args.lr, args.decay))
        for p in trainer.parameters():
            p.grad = None
        step += 1
        for k, v in {"loss": loss, **scores}.items():
            recent.setdefault(k, []).append(v.item())
        if rank == 0 and step % 20 == 0:
            means = {k: float(np.nanmean(v)) for k, v in recent.items()}
            _log(args.out, step, total, time.time() - began, means, "train")
            recent = {}
        if step % JUDGE_EVERY == 0 and rank == 0:
            scores = _judge(trainer, held, tokenizer, args.batch, step > args.vision_steps)
            _log(args.out, step, total, time.time() - began, scores, "held_out")
        if step % SAVE_EVERY == 0 or step == total:
            _save(trainer, optimizer, args.out, rank, step)
    if args.ranks > 1:
        dist.destroy_process_group()


@torch.no_grad()
def _judge(
    trainer: Trainer, held: data.Frames, tokenizer: Tokenizer, size: int, answer: bool
) -> dict[str, float]:
    rng, rows = np.random.default_rng(7), []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            loss, scores = trainer(make_batch(held, tokenizer, size, rng, augment=False), answer)
        rows.append({"loss": float(loss), **{k: float(v) for k, v in scores.items()}})
    return {k: float(np.nanmean([r[k] for r in rows])) for k in rows[0]}


def _log(out: Path, step: int, total: int, seconds: float, scores: dict[str, float], kind: str) -> None:
    row = {
        "on": kind,
        "step": step,
        "seconds": round(seconds, 1),
        **{k: round(v, 4) for k, v in scores.items()},
    }
    with (out / "log.jsonl").open("a") as f:
        f.write(json.dumps(row) + "\n")
    shown = " ".join(f"{k}={v:.3f}" for k, v in scores.items() if not k.startswith("patch_color"))
    print(f"[{step}/{total} {seconds:.0f}s {kind}] {shown}", flush=True)


def _save(trainer: Trainer, optimizer: Optimizer, out: Path, rank: int, step: int) -> None:
    """Weights once; each rank its own share of the optimizer's state. Each file is swapped in whole."""
    states = {"muon": optimizer.muon.state_dict(), "adamw": optimizer.adamw.state_dict(), "step": step}
    torch.save(states, out / f"optimizer{rank}.part")
    (out / f"optimizer{rank}.part").rename(out / f"optimizer{rank}.pt")
    if rank == 0:
        save_file(dict(trainer.state_dict()), out / "weights.part", metadata={"step": str(step)})
        (out / "weights.part").rename(out / "weights.safetensors")


def _resume(trainer: Trainer, optimizer: Optimizer, out: Path, rank: int) -> int:
    if not (out / "weights.safetensors").exists() or not (out / f"optimizer{rank}.pt").exists():
        return 0
    trainer.load_state_dict(load_file(out / "weights.safetensors"))
    states = torch.load(out / f"optimizer{rank}.pt", weights_only=True)
    optimizer.muon.load_state_dict(states["muon"])
    optimizer.adamw.load_state_dict(states["adamw"])
    return int(states["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-steps", type=int, default=1500)
    parser.add_argument("--joint-steps", type=int, default=4000)
    parser.add_argument("--decay", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=24, help="images a rank")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--port", type=int, default=29531)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.ranks == 1:
        run(0, args)
    else:
        spawn(run, (args,), args.ranks)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
