#!/usr/bin/env python3
"""Where SAM stands still: runs over rho, --rho-warmup and seeds, and how many of them are at chance in the end.

    python benches/stall.py --epochs 45 --seeds 0,1,2 --runs runs/stall --out benches/results/stall.json --figure docs/stall.svg \\
        -- --data cifar-10 --model cnn --train-images 2500 --augment basic

Everything behind `--` goes to `samcore train` as it is. With --runs DIR the runs stay in DIR: the same command goes on with what is
there and takes finished runs as they are; runs with other settings are refused. A run is at chance by the rule of `samcore compare`: in its last epoch the training loss
is within 1 % of the log of the number of classes, and the accuracy at most three standard errors above chance.
"""
import argparse
import contextlib
import csv
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import measured

SAMCORE = measured.ROOT / "target/release/samcore"


def at_chance(row, classes):
    """Whether that epoch learned nothing; see src/train/stall.rs."""
    chance = 1 / classes
    error = math.sqrt(chance * (1 - chance) / row["images"])
    return abs(row["train_loss"] / math.log(classes) - 1) <= 0.01 and row["train_accuracy"] <= chance + 3 * error


def train(folder, flags, classes):
    """What a run came to. One that is in `folder` already goes on."""
    command = [str(word) for word in [SAMCORE, "train", *flags, "--out", folder, "--json", "--quiet"]]
    done = subprocess.run(command, cwd=measured.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    result = json.loads(done.stdout)
    images = result["steps"] // result["epochs"] * batch(folder)
    with open(folder / "metrics.csv", newline="") as rows:
        names = ("train_loss", "train_accuracy", "grad_norm")
        epochs = [{**{name: float(row[name]) for name in names}, "images": images} for row in csv.DictReader(rows)]
    stalled = [at_chance(epoch, classes) for epoch in epochs]
    return {
        "test_accuracy": result["test_accuracy"],
        "at_chance": stalled[-1],
        # How many epochs passed before the run got away.
        "epochs_at_chance": stalled.index(False) if False in stalled else len(stalled),
        "curves": {name: [epoch[name] for epoch in epochs] for name in ("train_loss", "train_accuracy", "grad_norm")},
    }


def batch(folder):
    """Images of a step, by the config.toml of the run."""
    lines = (folder / "config.toml").read_text().splitlines()
    return next(int(line.split("=")[1].split("#")[0]) for line in lines if line.startswith("batch ="))


def figure(result):
    """A cell for each rho and warm-up: the darker, the more of its seeds are at chance; the numbers say it too."""
    rhos, warmups = result["rhos"], result["rho_warmups"]
    cell, left, top = 96, 120, 84
    width, height = left + cell * len(rhos) + 24, top + 56 * len(warmups) + 96
    text = lambda x, y, words, more="": f'<text x="{x}" y="{y}" {more}>{words}</text>'
    centred = 'text-anchor="middle"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        "<title>Seeds at chance over rho and its warm-up</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(16, 26, "Seeds at chance in the end", 'font-size="16" font-weight="bold"'),
        text(left + cell * len(rhos) / 2, 52, "rho", centred),
        text(16, top - 12, "rho-warmup"),
    ]
    parts += [text(left + cell * (i + 0.5), top - 12, f"{rho:g}", centred) for i, rho in enumerate(rhos)]
    by_place = {(group["rho"], group["rho_warmup"]): group for group in result["groups"]}
    for j, warmup in enumerate(warmups):
        parts.append(text(16, top + 56 * j + 32, f"{warmup:g}"))
        for i, rho in enumerate(rhos):
            group = by_place.get((rho, warmup))
            if group is None:
                continue
            runs = group["runs"]
            stalled = sum(run["at_chance"] for run in runs)
            shade = round(255 - 175 * stalled / len(runs))
            ink = "#ffffff" if shade < 140 else "#000000"
            x, y = left + cell * i, top + 56 * j
            mean = 100 * sum(run["test_accuracy"] for run in runs) / len(runs)
            parts.append(f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="54" fill="rgb({shade},{shade},{shade})" stroke="#808080"/>')
            parts.append(text(x + cell / 2, y + 24, f"{stalled} of {len(runs)}", f'{centred} fill="{ink}" font-weight="bold"'))
            parts.append(text(x + cell / 2, y + 43, f"{mean:.1f} %", f'{centred} fill="{ink}"'))
    foot = top + 56 * len(warmups) + 28
    parts.append(text(16, foot, "Below the count: mean test accuracy.", 'font-size="12"'))
    parts.append(text(16, foot + 18, f"{result['epochs']} epochs, seeds {', '.join(map(str, result['seeds']))}.", 'font-size="12"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rhos", default="0.02,0.05,0.1,0.2", help="comma-separated")
    ap.add_argument("--rho-warmups", default="0,0.1,0.3", help="comma-separated")
    ap.add_argument("--epochs", type=int, default=45)
    ap.add_argument("--seeds", default="0,1,2", help="comma-separated")
    ap.add_argument("--classes", type=int, default=10, help="of the data set")
    ap.add_argument("--eval-every", type=int, default=15, help="epochs from one evaluation to the next")
    ap.add_argument("--out", type=pathlib.Path, required=True, help="result as JSON, written anew after each group")
    ap.add_argument("--figure", type=pathlib.Path, help="figure as SVG, drawn anew after each group")
    ap.add_argument("--runs", type=pathlib.Path, help="keep the runs in this folder, and go on with those that are there")
    ap.add_argument("flags", nargs="*", help="flags of samcore train")
    args = ap.parse_args()
    measured.build()
    numbers = lambda words: [float(word) for word in words.split(",")]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    common = [*args.flags, "--opt", "sam", "--epochs", args.epochs, "--eval-every", args.eval_every]
    result = {
        **measured.provenance("benches/stall.py"),
        "command": " ".join(str(word) for word in ["samcore", "train", *common]),
        "rhos": numbers(args.rhos),
        "rho_warmups": numbers(args.rho_warmups),
        "epochs": args.epochs,
        "seeds": seeds,
        "groups": [],
    }
    with contextlib.ExitStack() as stack:
        folder = (args.runs or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for warmup in result["rho_warmups"]:
            for rho in result["rhos"]:
                group = {"rho": rho, "rho_warmup": warmup, "runs": []}
                for seed in seeds:
                    run = folder / f"rho{rho:g}-warmup{warmup:g}-seed{seed}"
                    flags = [*common, "--rho", rho, "--rho-warmup", warmup, "--seed", seed]
                    group["runs"].append({"seed": seed, **train(run, flags, args.classes)})
                result["groups"].append(group)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
                if args.figure:
                    args.figure.write_text(figure(result))
                stalled = sum(run["at_chance"] for run in group["runs"])
                print(f"rho {rho:g}, warm-up {warmup:g}: {stalled} of {len(seeds)} seeds at chance", flush=True)


if __name__ == "__main__":
    main()
