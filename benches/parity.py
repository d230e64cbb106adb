#!/usr/bin/env python3
"""Train the same Wide ResNet with SAM in samcore and in PyTorch: same initial weights, same batches, same augmentation.

    pip install torch numpy safetensors
    python benches/parity.py --data DIR --out benches/results/parity_wrn_16_4.json
    python benches/parity.py --data DIR --images 10000 --epochs 3 --threads 1 --side-by-side ...

samcore writes its initial weights (`--steps 0`), which PyTorch loads by name; the order of the images, the crops and the
flips are worked out here by samcore's counter-based generator. What is compared is the test accuracy after each epoch.
DIR holds CIFAR-10's binary files. `--images N` trains on the first N of them: a folder with shorter files is written for it.
`--work DIR` keeps the run's folder and PyTorch's state after each epoch, so that a broken comparison goes on.
"""
import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "golden"))
from common import Draws, philox, stream  # noqa: E402

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ROW = 1 + 3 * 32 * 32
CROP = 4
# Steps whose losses are told one by one: how fast rounding errors grow.
FIRST = 22


class Block(nn.Module):
    """Pre-activation block of Zagoruyko and Komodakis (2016), with the parameter names of its usual PyTorch form."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.convShortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        h = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        return self.conv2(F.relu(self.bn2(self.conv1(h)))) + shortcut


class Group(nn.Module):
    def __init__(self, count, inputs, outputs, stride):
        super().__init__()
        blocks = [Block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, k, classes=10):
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Group(n, 16, 16 * k, 1)
        self.block2 = Group(n, 16 * k, 32 * k, 2)
        self.block3 = Group(n, 32 * k, 64 * k, 2)
        self.bn1 = nn.BatchNorm2d(64 * k)
        self.fc = nn.Linear(64 * k, classes)

    def forward(self, x):
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(h)).mean(dim=(2, 3)))


def cifar(folder, names):
    raw = b"".join((folder / name).read_bytes() for name in names)
    rows = np.frombuffer(raw, np.uint8).reshape(-1, ROW)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


TRAINING = [f"data_batch_{i}.bin" for i in range(1, 6)]


def shortened(data, images, to):
    """A folder with the first `images` training images in five files of equal length, and the whole test set."""
    raw = b"".join((data / name).read_bytes() for name in TRAINING)[: images * ROW]
    to.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(TRAINING):
        (to / name).write_bytes(raw[i * (images // 5) * ROW : (i + 1) * (images // 5) * ROW])
    shutil.copy(data / "test_batch.bin", to / "test_batch.bin")
    return to


def permutation(seed, epoch, n):
    """The order in which an epoch visits its images: `permutation` in src/rng.rs."""
    words = Draws(seed, stream("shuffle"), epoch).words(n - 1).tolist()
    order = list(range(n))
    for word, i in zip(words, range(n - 1, 0, -1)):
        j = word * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return np.array(order)


def augment(images, numbers, seed, epoch):
    """Crops out of the zero-padded images, and flips, by the draws of each image's number: `ingest_spec` in src/ops."""
    counter = np.empty((len(numbers), 4), np.uint64)
    counter[:, 0], counter[:, 1], counter[:, 2], counter[:, 3] = 0, numbers, epoch, stream("ingest")
    words = philox(counter, (seed & 0xFFFF_FFFF, seed >> 32))
    dx, dy = (words[:, i] * np.uint64(2 * CROP + 1) >> np.uint64(32) for i in (0, 1))
    flips = words[:, 2] >> np.uint64(31)
    padded = np.pad(images, ((0, 0), (0, 0), (CROP, CROP), (CROP, CROP)))
    out = np.empty_like(images)
    for i in range(len(images)):
        x, y = int(dx[i]), int(dy[i])
        crop = padded[i, :, y : y + 32, x : x + 32]
        out[i] = crop[:, :, ::-1] if flips[i] else crop
    return out


def normalised(images):
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.astype(np.float32) / 255 - mean) / std


def rate(step, total, lr, warmup):
    """`Schedule::lr` of the cosine shape."""
    rise = min(round(warmup * total), total - 1)
    factor = (step + 1) / (rise + 1) if step < rise else 1.0
    return lr * factor * 0.5 * (1 + math.cos(math.pi * (max(step, rise) - rise) / (total - rise)))


def torch_run(args, data, initial, work):
    """Test accuracy and loss after each epoch in PyTorch."""
    torch.set_num_threads(args.threads)
    depth, k = (int(part) for part in args.model.split("-")[1:])
    model = WideResNet(depth, k)
    model.load_state_dict({n: v for n, v in load_file(initial).items() if not n.startswith("optimizer.")})
    model = model.to(memory_format=torch.channels_last)
    images, labels = cifar(data, TRAINING)
    # Padding is zero behind the normalisation, as in samcore; so normalise first.
    images, tests = normalised(images), cifar(data, ["test_batch.bin"])
    params = list(model.parameters())
    statistics = [b for n, b in model.named_buffers() if "running" in n or "tracked" in n]
    opt = torch.optim.SGD(params, lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    per_epoch = len(images) // args.batch
    total, epochs = per_epoch * args.epochs, []
    state = work / "torch.pt"
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        epochs = saved["epochs"]

    def gradient(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return float(loss.detach())

    for epoch in range(len(epochs), args.epochs):
        begun, sum_loss = time.time(), 0.0
        order = permutation(args.seed, epoch, len(images))
        model.train()
        for i in range(per_epoch):
            chosen = order[i * args.batch : (i + 1) * args.batch]
            x = torch.from_numpy(augment(images[chosen], chosen, args.seed, epoch))
            x, y = x.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels[chosen])
            sum_loss += (loss := gradient(x, y))
            if epoch == 0 and i < FIRST:
                with open(work / "torch_steps.txt", "w" if i == 0 else "a") as file:
                    file.write(f"{loss}\n")
            with torch.no_grad():
                norm = torch.sqrt(sum((p.grad**2).sum() for p in params))
                moves = [p.grad * (args.rho / norm) for p in params]
                kept = [s.clone() for s in statistics]
                torch._foreach_add_(params, moves)
            gradient(x, y)
            with torch.no_grad():
                torch._foreach_sub_(params, moves)
                for s, before in zip(statistics, kept):
                    s.copy_(before)
            opt.param_groups[0]["lr"] = rate(epoch * per_epoch + i, total, args.lr, args.warmup)
            opt.step()
        model.eval()
        hits, loss = 0, 0.0
        with torch.no_grad():
            for first in range(0, len(tests[0]), 500):
                x = torch.from_numpy(normalised(tests[0][first : first + 500]))
                y = torch.from_numpy(tests[1][first : first + 500])
                out = model(x.contiguous(memory_format=torch.channels_last))
                hits += int((out.argmax(1) == y).sum())
                loss += float(F.cross_entropy(out, y, reduction="sum"))
        n = len(tests[0])
        row = {"epoch": epoch + 1, "train_loss": sum_loss / per_epoch, "test_loss": loss / n, "test_accuracy": hits / n}
        epochs.append({**row, "seconds": time.time() - begun})
        print(f"PyTorch {json.dumps(epochs[-1])}", flush=True)
        torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "epochs": epochs}, state)
    return epochs


def samcore_epochs(run):
    with open(run / "metrics.csv", newline="") as rows:
        wanted = ("epoch", "train_loss", "test_loss", "test_accuracy", "seconds")
        return [{k: float(row[k]) for k in wanted} for row in csv.DictReader(rows)]


def first_losses(run, work):
    """Losses of the first steps in both, and by how much they differ."""
    ours = [json.loads(line)["loss"] for line in open(run / "steps.jsonl")][:FIRST]
    theirs = [float(line) for line in open(work / "torch_steps.txt")]
    return [{"samcore": a, "pytorch": b, "difference": a - b} for a, b in zip(ours, theirs)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=pathlib.Path, required=True, help="folder with CIFAR-10's binary files")
    ap.add_argument("--model", default="wrn-16-4")
    ap.add_argument("--images", type=int, default=50_000, help="training images, a multiple of 5")
    ap.add_argument("--epochs", type=int, default=3)
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--rho", type=float, default=0.05)
    ap.add_argument("--lr", type=float, default=0.1)
    ap.add_argument("--warmup", type=float, default=0.2)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=os.cpu_count(), help="of each of the two")
    ap.add_argument("--side-by-side", action="store_true", help="both at once instead of one after the other")
    ap.add_argument("--samcore", default=str(ROOT / "target" / "release" / "samcore"))
    ap.add_argument("--work", type=pathlib.Path)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    args = ap.parse_args()
    work = args.work or pathlib.Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    data = args.data if args.images == 50_000 else shortened(args.data, args.images, work / "cifar-10-batches-bin")
    run, initial = work / "run", work / "initial.safetensors"
    flags = f"--data {data} --model {args.model} --opt sam --rho {args.rho} --epochs {args.epochs} --batch {args.batch} "
    flags += f"--lr {args.lr} --schedule cosine --warmup {args.warmup} --weight-decay 5e-4 --crop {CROP} --crop-padding zero --flip true "
    flags += f"--seed {args.seed} --checkpoint-steps 20"
    if not initial.exists():
        first = [args.samcore, "train", *flags.split(), "--steps", "0", "--out", str(run)]
        subprocess.run(first, check=True)
        shutil.copy(run / "last.safetensors", initial)
    command = [args.samcore, "train", "--resume", str(run), "--threads", str(args.threads)]
    child = subprocess.Popen(command)
    if not args.side_by_side and child.wait() != 0:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    theirs = torch_run(args, data, initial, work)
    if child.wait() != 0:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    ours = samcore_epochs(run)
    difference = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in zip(ours, theirs)]
    environment = json.loads((run / "env.json").read_text())
    environment.pop("arguments", None)
    result = {
        "what": f"{args.model}, SAM rho {args.rho}, {args.images} training images, batch {args.batch}, "
        f"{args.epochs} epochs, seed {args.seed}: the same initial weights, batches, crops and flips in both",
        "samcore": ours,
        "pytorch": theirs,
        "difference_in_points": difference,
        "loss_of_first_steps": first_losses(run, work),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads_each": args.threads,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": environment.get("commit"),
        "environment": environment,
        "script": "benches/parity.py",
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for a, b, d in zip(ours, theirs, difference):
        accuracies = f"samcore {100 * a['test_accuracy']:.2f} %, PyTorch {100 * b['test_accuracy']:.2f} %"
        print(f"epoch {a['epoch']:.0f}: {accuracies}, {d:+.2f} points")


if __name__ == "__main__":
    main()
