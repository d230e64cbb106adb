#!/usr/bin/env python3
"""Label noise: SGD and, over a grid of rho, SAM on training labels of which some are wrong; SGD gets twice the epochs.

    python benches/label_noise.py --noise 0.4 --images 10000 --epochs 20 --rhos 0.05,0.1,0.2 --seeds 0,1,2 \\
        --out benches/results/label_noise_40.json --figure docs/label_noise.svg -- --data fashion-mnist --model cnn

Everything behind `--` goes to `samcore train` as it is. The noise is drawn by the seed, as are the images. With --runs DIR the
runs stay in DIR, and what is there already goes on: a measurement that was stopped is resumed by the same command.
"""
import argparse
import contextlib
import csv
import html
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

import measured

SAMCORE = measured.ROOT / "target/release/samcore"
# Per epoch, as metrics.csv names them.
CURVES = ["train_accuracy", "test_accuracy", "clean_accuracy", "learned", "memorised"]
# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
T95 = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
]
# Okabe and Ito's colours, as samcore's own figures have them; black is for SGD.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
BLACK, GREY = "#000000", "#888888"


def train(folder, flags):
    """What a run came to: its result and its curves. One that is in `folder` already goes on."""
    where = ["--resume", folder] if (folder / "config.toml").exists() else ["--out", folder, *flags]
    command = [str(word) for word in [SAMCORE, "train", *where, "--json", "--quiet"]]
    done = subprocess.run(command, cwd=measured.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    result = json.loads(done.stdout)
    with open(folder / "metrics.csv", newline="") as rows:
        rows = list(csv.DictReader(rows))
    if "learned" not in rows[0]:
        sys.exit(f"{folder} is of a run without noise")
    kept = ("test_accuracy", "test_loss", "best_accuracy", "best_epoch", "noise", "labels")
    curves = {name: [float(row[name]) if row[name] else None for row in rows] for name in CURVES}
    return {**{name: result[name] for name in kept}, "seconds": sum(float(row["seconds"]) for row in rows), "curves": curves}


def interval(values):
    """Mean and half the width of the 95 % t-interval over seeds; no width of a single one."""
    n = len(values)
    half = T95[min(n - 2, len(T95) - 1)] * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return {"n": n, "mean": statistics.mean(values), "half_width": half}


def summary(runs):
    measures = {
        "test_accuracy": [r["test_accuracy"] for r in runs],
        "best_accuracy": [r["best_accuracy"] for r in runs],
        **{name: [r["noise"][name] for r in runs] for name in ("clean", "learned", "memorised")},
    }
    return {name: interval(values) for name, values in measures.items() if None not in values}


def mean_curve(runs, name):
    """Over seeds, by epoch."""
    columns = zip(*(run["curves"][name] for run in runs))
    return [statistics.mean(column) for column in columns if None not in column]


class Axes:
    """A pair of axes in an SVG, 100 % high at most."""

    WIDTH, HEIGHT = 340, 230

    def __init__(self, left, title, x_label, y_label, x_ticks, y_ticks):
        self.left, self.top, self.parts = left, 60, []
        self.x_ends = (x_ticks[0][0], max(x_ticks[-1][0], x_ticks[0][0] + 1e-9))
        self.y_ends = (y_ticks[0], y_ticks[-1])
        self.text(left + self.WIDTH / 2, 48, title, "middle", 13)
        self.text(left + self.WIDTH / 2, self.top + self.HEIGHT + 36, x_label, "middle")
        self.text(left, self.top - 6, y_label, "end")
        for y in y_ticks:
            at = self.y(y)
            self.parts.append(f'<path d="M{left} {at:.1f}h{self.WIDTH}" stroke="#ddd"/>')
            self.text(left - 6, at + 4, f"{y:g}", "end")
        for x, label in x_ticks:
            self.text(self.x(x), self.top + self.HEIGHT + 16, label, "middle")

    def x(self, value):
        low, high = self.x_ends
        return self.left + self.WIDTH * (value - low) / (high - low)

    def y(self, value):
        low, high = self.y_ends
        return self.top + self.HEIGHT * (high - value) / (high - low)

    def text(self, x, y, text, anchor="start", size=11, colour="#222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>')

    def line(self, points, colour, dashed=False):
        path = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 3"' if dashed else ""
        self.parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>')

    def whisker(self, x, mean, half, colour):
        self.parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(mean):.1f}" r="3.5" fill="{colour}"/>')
        if half:
            low, high = (min(max(v, self.y_ends[0]), self.y_ends[1]) for v in (mean - half, mean + half))
            self.parts.append(f'<path d="M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}" stroke="{colour}" stroke-width="1.8"/>')

    def runs(self, x, values, colour):
        """Single runs, a little to the right of their mean."""
        for v in values:
            self.parts.append(f'<circle cx="{self.x(x) + 8:.1f}" cy="{self.y(v):.1f}" r="2.5" fill="none" stroke="{colour}"/>')


def ticks(low, high):
    """Round values around both ends."""
    span = max(high - low, 1.0)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if span / s <= 6)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def figure(result):
    groups = result["groups"]
    ends = [(100 * g["summary"]["test_accuracy"]["mean"], 100 * (g["summary"]["test_accuracy"]["half_width"] or 0)) for g in groups]
    y_ticks = ticks(max(0, min(m - h for m, h in ends)), min(100, max(m + h for m, h in ends)))
    # SGD stands at the left, each with its epochs; the values of rho are evenly spaced.
    x_ticks = [(i, f"SGD, {g['epochs']}" if g["rho"] is None else f"{g['rho']:g}, {g['epochs']}") for i, g in enumerate(groups)]
    over_rho = Axes(60, "Accuracy on clean test images", "rho of SAM, epochs", "%", x_ticks, y_ticks)
    plain = [g for g in groups if g["rho"] is None]
    colours = [BLACK, GREY][: len(plain)] + [COLOURS[i % len(COLOURS)] for i in range(len(groups) - len(plain))]
    for i, ((mean, half), colour) in enumerate(zip(ends, colours)):
        over_rho.whisker(i, mean, half, colour)
        over_rho.runs(i, [100 * run["test_accuracy"] for run in groups[i]["runs"]], colour)
    passes = max(len(mean_curve(g["runs"], "learned")) * g["gradients"] for g in groups)
    x_label = "gradients taken of each image: epochs of SGD, twice those of SAM"
    over_time = Axes(500, "Images with wrong labels", x_label, "%", [(0, "0"), (passes / 2, f"{passes / 2:g}"), (passes, f"{passes:g}")], range(0, 101, 20))
    for group, (i, label), colour in zip(groups, x_ticks, colours):
        for name, dashed in (("learned", False), ("memorised", True)):
            curve = mean_curve(group["runs"], name)
            over_time.line([((e + 1) * group["gradients"], 100 * v) for e, v in enumerate(curve)], colour, dashed)
        over_time.text(over_time.left + Axes.WIDTH + 10, over_time.top + 12 + 16 * i, label, colour=colour)
    over_time.text(over_time.left + Axes.WIDTH + 10, over_time.top + 28 + 16 * len(groups), "— as they are")
    over_time.text(over_time.left + Axes.WIDTH + 10, over_time.top + 44 + 16 * len(groups), "- - as labelled")
    seeds = len(result["seeds"])
    title = f"{100 * result['noise']:g} % label noise: {result['subject']}, {seeds} seed{'s' * (seeds > 1)}; bars: 95 % t-intervals, rings: runs"
    parts = [f'<text x="20" y="24" font-size="15" fill="#222">{html.escape(title)}</text>', *over_rho.parts, *over_time.parts]
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="960" height="340" font-family="sans-serif">'
    return "\n".join([head, '<rect width="960" height="340" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def report(result):
    for group in result["groups"]:
        name = "sgd" if group["rho"] is None else f"sam rho {group['rho']:g}"
        cells = []
        for measure, value in group["summary"].items():
            half = "" if value["half_width"] is None else f" ± {100 * value['half_width']:.2f}"
            cells.append(f"{measure} {100 * value['mean']:.2f}{half}")
        print(f"{name:14} {group['epochs']:3} epochs  {'  '.join(cells)}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--noise", type=float, default=0.4, help="share of the labels that are drawn anew, above 0")
    ap.add_argument("--images", type=int, default=10000, help="training images; 0: all")
    ap.add_argument("--epochs", type=int, default=20, help="of SAM; SGD gets twice as many")
    ap.add_argument("--equal-epochs", action="store_true", help="SGD with as many epochs as SAM, too")
    ap.add_argument("--twice", type=float, help="a rho for which SAM gets as many epochs as SGD, too")
    ap.add_argument("--twice-seeds", type=int, help="for how many of the seeds [all]")
    ap.add_argument("--rhos", default="0.05,0.1,0.2", help="comma-separated")
    ap.add_argument("--seeds", default="0,1,2", help="comma-separated")
    ap.add_argument("--out", type=pathlib.Path, required=True, help="result as JSON")
    ap.add_argument("--figure", type=pathlib.Path, help="figure as SVG")
    ap.add_argument("--runs", type=pathlib.Path, help="keep the runs in this folder, and go on with those that are there")
    ap.add_argument("flags", nargs="*", help="flags of samcore train")
    args = ap.parse_args()
    measured.build()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    common = ["--label-noise", args.noise, "--train-images", args.images, *args.flags]
    plan = [("sgd", None, 2 * args.epochs, 1, seeds)]
    if args.equal_epochs:
        plan.append(("sgd-once", None, args.epochs, 1, seeds))
    plan += [(f"sam-{float(rho):g}", float(rho), args.epochs, 2, seeds) for rho in args.rhos.split(",")]
    if args.twice is not None:
        few = seeds[: args.twice_seeds]
        plan.append((f"sam-{args.twice:g}-twice", args.twice, 2 * args.epochs, 2, few))
    origin = measured.provenance("benches/label_noise.py")
    groups = []
    with contextlib.ExitStack() as stack:
        runs = (args.runs or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        runs.mkdir(parents=True, exist_ok=True)
        for name, rho, epochs, gradients, its_seeds in plan:
            own = ["--opt", "sgd"] if rho is None else ["--opt", "sam", "--rho", rho]
            group = {"opt": own[1], "rho": rho, "epochs": epochs, "gradients": gradients, "runs": []}
            for seed in its_seeds:
                flags = [*common, *own, "--epochs", epochs, "--seed", seed]
                group["runs"].append({"seed": seed, **train(runs / f"{name}-seed{seed}", flags)})
                print(f"{name} seed {seed}: test accuracy {100 * group['runs'][-1]['test_accuracy']:.2f} %", flush=True)
            group["summary"] = summary(group["runs"])
            groups.append(group)
        with open(runs / f"sgd-seed{seeds[0]}" / "env.json") as environment:
            environment = json.load(environment)
    environment.pop("arguments", None)
    result = {
        **origin,
        "command": " ".join(str(word) for word in ["samcore", "train", *common]),
        "subject": " ".join(args.flags) or "the default data and model",
        "noise": args.noise,
        "images": args.images,
        "seeds": seeds,
        "intervals": "95 % Student t over seeds",
        "environment": environment,
        "groups": groups,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.figure:
        args.figure.write_text(figure(result))
    report(result)


if __name__ == "__main__":
    main()
