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
        # The same code draws it as all other figures.
        draw = ["cargo", "run", "--release", "-q", "--example", "figures", "--", "label-noise"]
        subprocess.run([*draw, args.out.resolve(), args.figure.resolve()], cwd=measured.ROOT, check=True)
    report(result)


if __name__ == "__main__":
    main()
