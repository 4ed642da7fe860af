"""Train the mask network on rendered scenes. Resumable: start the same command again.

With --minutes the learning rate falls to zero at that time, however far the training is; shards that are
rendered meanwhile join it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from molmo_ros.perception.learned_mask import CROP
from molmo_ros.tools.segmenter import data
from molmo_ros.tools.segmenter.model import MaskNet
from molmo_ros.tools.segmenter.samples import POINTS, Inputs, Samples, Targets

JUDGE_SHARDS = 3  # the first ones, never trained on
JUDGE_EVERY, SAVE_EVERY, LOOK_EVERY = 100, 100, 50
WARM_STEPS = 100
EMA = 0.995
WEIGHTS, STATE = "mask.safetensors", "state.safetensors"


def loss_of(net: MaskNet, inputs: Inputs, targets: Targets) -> tuple[Tensor, Tensor]:
    """The loss, and the IoU (B,P) of the masks.

    Cross entropy in which borders count more, Dice, and the error of the IoU that the network expects.
    """
    seen, places, colours = net.look(*inputs.tensors())
    cells = net.cell(seen)
    things = functional.pixel_shuffle(net.things(seen), 2)[:, 0].float()
    loss = 0.5 * _entropy(things, targets.things, targets.weight)
    reached = []
    for k in range(targets.points.shape[1]):
        own, at, colour = at_points(targets.points[:, k], seen, places, colours)
        logits, expected = net.answer(
            seen, cells, places, colours, own, at[:, :3] / (at[:, 3:] + 1e-3), colour
        )
        logits, expected, truth = logits[:, 0].float(), expected.float(), targets.masks[:, k]
        probability = torch.sigmoid(logits)
        overlap = 2 * (probability * truth).sum((1, 2)) + 30.0
        dice = 1 - overlap / (probability.sum((1, 2)) + truth.sum((1, 2)) + 30.0)
        reached.append(iou(logits.detach() > 0, truth > 0.5))
        certainty = functional.binary_cross_entropy_with_logits(expected, reached[-1])
        share = 2.0 if k == 0 else 1.0  # at run time the point is the middle
        part = 2 * _entropy(logits, truth, targets.weight) + dice.mean() + 0.1 * certainty
        loss = loss + share * part / POINTS
    return loss, torch.stack(reached, dim=1)


def at_points(cells: Tensor, *maps: Tensor) -> list[Tensor]:
    """Values (B,C) of maps (B,C,S/2,S/2) at one point (B,2), row and column of S, of each crop."""
    i, j = (cells // 2).unbind(1)
    row = torch.arange(len(cells), device=cells.device)
    middle = (cells == CROP // 2).all(1, keepdim=True)
    found = []
    for values in maps:
        centre = CROP // 4
        of_middle = values[:, :, centre - 1 : centre + 1, centre - 1 : centre + 1].mean((2, 3))
        found.append(torch.where(middle, of_middle, values[row, :, i, j]))
    return found


def _entropy(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of masks (B,S,S), weighted."""
    return functional.binary_cross_entropy_with_logits(logits, truth, weight)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks (B,S,S); 0 where the truth b is empty, whatever a is."""
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


class Training:
    """The network, its running mean, the optimizer, and their progress."""

    def __init__(self, folder: Path, device: torch.device, lr: float) -> None:
        self.folder, self.device, self.lr = folder, device, lr
        torch.manual_seed(0)
        # torch's own types leave memory_format out
        self.net = MaskNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = MaskNet().to(device)
        self.mean.load_state_dict(self.net.state_dict())
        pairs = zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True)
        kept = [(a, b) for a, b in pairs if a.dtype.is_floating_point]
        self.followed = [a for a, _ in kept], [b for _, b in kept]  # BatchNorm's running moments, too
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
            lr=lr,
            fused=device.type == "cuda",
        )
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []
        if (folder / STATE).exists():
            self._resume()

    def update(self, inputs: Inputs, targets: Targets, share_done: float) -> float:
        """One step; the learning rate falls along a cosine."""
        rate = self.lr * min(1.0, (self.step + 1) / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * share_done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, reached = loss_of(self.net, inputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        with torch.no_grad():
            keep = min(EMA, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(*self.followed, 1 - keep)
        self.step += 1
        return float(reached[:, 0].mean()) if self.step % 50 == 0 else float("nan")

    def judge(self, samples: Samples) -> dict[str, float]:
        """IoU on held-out scenes of the running mean, and how well it knows its IoU."""
        self.mean.eval()
        generator = torch.Generator(self.device).manual_seed(7)
        reached, expected = [], []
        with torch.no_grad():
            for _ in range(8):
                inputs, targets = samples.batch(32, generator, augment=False)
                logits, certainty = self.mean(*inputs.tensors())
                reached.append(iou(logits[:, 0] > 0, targets.masks[:, 0] > 0.5))
                expected.append(torch.sigmoid(certainty))
        self.mean.train()
        a, b = torch.cat(reached), torch.cat(expected)
        return {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "iou": float(a.mean()),
            "iou_p10": float(a.quantile(0.1)),
            "good": float((a > 0.75).float().mean()),
            "expected_error": float((a - b).abs().mean()),
        }

    def save(self) -> None:
        """Write the weights, and everything needed to resume."""
        from safetensors.torch import save_file

        save_file({n: t.contiguous() for n, t in self.mean.state_dict().items()}, self.folder / WEIGHTS)
        state = {f"net.{n}": t for n, t in self.net.state_dict().items()}
        state |= {f"mean.{n}": t for n, t in self.mean.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{n}": t for n, t in moments.items()}
        told = {"step": str(self.step), "seconds": str(self.seconds), "curve": json.dumps(self.curve)}
        part = self.folder / "state.part"
        save_file({n: t.contiguous() for n, t in state.items()}, part, told)
        part.rename(self.folder / STATE)
        (self.folder / "curve.json").write_text(json.dumps(self.curve, indent=1))

    def _resume(self) -> None:
        from safetensors import safe_open

        with safe_open(self.folder / STATE, "pt", device=str(self.device)) as file:
            told, state = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        self.net.load_state_dict(_below("net.", state))
        self.mean.load_state_dict(_below("mean.", state))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", state).items():
            number, what = name.split(".")
            moments.setdefault(int(number), {})[what] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = int(told["step"]), float(told["seconds"])
        self.curve = json.loads(told["curve"])


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without the prefix."""
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def train(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    training = Training(args.out, device, args.lr)
    apart = [data.shard_path(args.data, i) for i in range(JUDGE_SHARDS)]
    _wait_for(apart)
    judged = Samples(data.joined([data.load(p) for p in apart]), device)
    known: list[Path] = []
    pools: list[Samples] = []
    generator = torch.Generator(device).manual_seed(training.step)
    start = time.monotonic() - training.seconds
    while True:
        training.seconds = time.monotonic() - start
        done = max(training.step / args.steps, training.seconds / (60 * args.minutes))
        if done >= 1:
            break
        if training.step % LOOK_EVERY == 0 or not pools:
            new = [p for p in data.shards(args.data) if p not in known and p not in apart]
            if new:
                pools.append(Samples(data.joined([data.load(p) for p in new]), device))
                known += new
        if not pools:
            time.sleep(1.0)
            continue
        sizes = torch.tensor([float(len(p)) for p in pools])
        pool = pools[int(torch.multinomial(sizes, 1))]
        reached = training.update(*pool.batch(args.batch, generator), done)
        if not math.isnan(reached):
            where = f"step {training.step}, {training.seconds:.0f} s, {len(known)} shards"
            print(f"{where}: iou {reached:.3f}", flush=True)
        if training.step % JUDGE_EVERY == 0:
            training.curve.append(training.judge(judged))
            print(training.curve[-1], flush=True)
        if training.step % SAVE_EVERY == 0:
            training.save()
    training.curve.append(training.judge(judged))
    print(training.curve[-1], flush=True)
    training.save()


def _wait_for(paths: list[Path]) -> None:
    while not all(p.exists() for p in paths):
        time.sleep(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=210.0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
