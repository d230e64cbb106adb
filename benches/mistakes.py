#!/usr/bin/env python3
"""What each usual mistake does to SAM: SGD, the correct SAM, SAM with each mistake, and SAM with each wrong value of a setting.

    python benches/mistakes.py --epochs 50 --images 0 --seeds 0,1,2 --runs runs/mistakes \\
        --out benches/results/mistakes.json -- --data fashion-mnist --model cnn
    python benches/mistakes.py --only stats-frozen,rho-2 --conditions constant --runs runs/mistakes --out runs/few.json

Everything behind `--` goes to `samcore train` as it is. SGD gets twice the epochs of SAM, as in the report. Each case is trained
under each of --conditions: the recipe as it is, a constant rate, batches of 1024, or both. With --runs DIR the runs stay in DIR:
the same command goes on with what is there and takes finished runs as they are; runs with other settings are refused.
"""
import argparse
import contextlib
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import measured

# Apart from the usual build, whose program has no such setting.
TARGET = measured.ROOT / "target/mistakes"
SAMCORE = TARGET / "release/samcore"
# Those of src/optim/mistakes.rs.
MISTAKES = ["not-restored", "perturbed-twice", "rho-on-sum", "momentum-first", "stats-second", "stats-both", "stats-frozen"]
# Wrong values of settings, by the name of their case.
VALUES = {"rho-2": ["--rho", "2.0"]}
CONDITIONS = {
    "recipe": [],
    "constant": ["--schedule", "constant", "--warmup", "0"],
    "batch-1024": ["--batch", "1024"],
    "constant-batch-1024": ["--schedule", "constant", "--warmup", "0", "--batch", "1024"],
}


def cases():
    """Every case by name: its flags, and its epochs as a multiple of SAM's."""
    sam = ["--opt", "sam"]
    return {
        "sgd": (["--opt", "sgd"], 2),
        "sam": (sam, 1),
        **{name: ([*sam, "--mistake", name], 1) for name in MISTAKES},
        **{name: ([*sam, *flags], 1) for name, flags in VALUES.items()},
    }


def build():
    """Builds the program with the mistakes, in a folder of its own."""
    command = ["cargo", "build", "--release", "--locked", "-q", "--features", "mistakes", "--target-dir", TARGET]
    subprocess.run(command, cwd=measured.ROOT, check=True)


def train(folder, flags):
    """What a run came to, by epoch and in the end. One that is in `folder` already goes on; one that diverged says so."""
    diverged = folder / "diverged.json"
    if not diverged.exists():
        command = [str(word) for word in [SAMCORE, "train", *flags, "--out", folder, "--quiet"]]
        done = subprocess.run(command, cwd=measured.ROOT)
        if done.returncode != 0 and not (done.returncode == 76 and diverged.exists()):
            sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    with open(folder / "metrics.csv", newline="") as rows:
        rows = list(csv.DictReader(rows))
    columns = ("test_accuracy", "train_accuracy", "train_loss", "grad_norm")
    curves = {name: [float(row[name]) if row[name] else None for row in rows] for name in columns}
    tested = [accuracy for accuracy in curves["test_accuracy"] if accuracy is not None]
    result = {
        "diverged": json.loads(diverged.read_text()) if diverged.exists() else None,
        "test_accuracy": tested[-1] if tested else None,
        "best_test_accuracy": max(tested, default=None),
        "train_accuracy": curves["train_accuracy"][-1] if rows else None,
        "grad_norm": curves["grad_norm"][-1] if rows else None,
        "seconds": sum(float(row["seconds"]) for row in rows),
    }
    return {**result, "curves": curves}


def mean(runs, name):
    values = [run[name] for run in runs if run[name] is not None]
    return sum(values) / len(values) if values else None


def report(groups):
    """The table: means over the seeds that did not diverge before their first epoch."""
    lines = [
        "| condition | case | epochs | test accuracy | lowest seed | best epoch | train accuracy | \\|g\\| | diverged |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in groups:
        runs = group["runs"]
        percent = lambda value: "–" if value is None else f"{100 * value:.2f} %"
        lowest = min((run["test_accuracy"] for run in runs if run["test_accuracy"] is not None), default=None)
        norm = mean(runs, "grad_norm")
        cells = [
            group["condition"], group["case"], group["epochs"], percent(mean(runs, "test_accuracy")), percent(lowest),
            percent(mean(runs, "best_test_accuracy")), percent(mean(runs, "train_accuracy")),
            "–" if norm is None else f"{norm:.3g}", f"{sum(run['diverged'] is not None for run in runs)} of {len(runs)}",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--epochs", type=int, default=50, help="of SAM; SGD gets twice as many")
    ap.add_argument("--images", type=int, default=10000, help="training images; 0: all")
    ap.add_argument("--seeds", default="0", help="comma-separated")
    ap.add_argument("--conditions", default=",".join(CONDITIONS), help="comma-separated")
    ap.add_argument("--only", help="names of cases, comma-separated [all]")
    ap.add_argument("--eval-every", type=int, default=1, help="epochs from one evaluation to the next")
    ap.add_argument("--out", type=pathlib.Path, required=True, help="result as JSON, written anew after each case")
    ap.add_argument("--runs", type=pathlib.Path, help="keep the runs in this folder, and go on with those that are there")
    ap.add_argument("flags", nargs="*", help="flags of samcore train")
    args = ap.parse_args()
    known = cases()
    chosen = list(known) if args.only is None else args.only.split(",")
    conditions = args.conditions.split(",")
    unknown = [name for name in chosen if name not in known] + [name for name in conditions if name not in CONDITIONS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; cases {', '.join(known)}; conditions {', '.join(CONDITIONS)}")
    build()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    common = [*args.flags, "--train-images", args.images, "--eval-every", args.eval_every]
    result = {
        **measured.provenance("benches/mistakes.py"),
        "command": " ".join(str(word) for word in ["samcore", "train", *common]),
        "images": args.images,
        "seeds": seeds,
        "conditions": {name: " ".join(CONDITIONS[name]) for name in conditions},
        "groups": [],
    }
    with contextlib.ExitStack() as stack:
        folder = (args.runs or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for condition in conditions:
            for name in chosen:
                own, times = known[name]
                flags = [*common, *CONDITIONS[condition], *own, "--epochs", times * args.epochs]
                group = {"condition": condition, "case": name, "flags": " ".join(own), "epochs": times * args.epochs, "runs": []}
                for seed in seeds:
                    run = folder / f"{condition}-{name}-seed{seed}"
                    group["runs"].append({"seed": seed, **train(run, [*flags, "--seed", seed])})
                    if "environment" not in result:
                        result["environment"] = json.loads((run / "env.json").read_text())
                        result["environment"].pop("arguments", None)
                        result["environment"].pop("data_folder", None)
                result["groups"].append(group)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
                print(report([group]).splitlines()[-1], flush=True)
    print("\n" + report(result["groups"]))


if __name__ == "__main__":
    main()
