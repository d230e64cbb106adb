#!/usr/bin/env python3
"""Measure what a second thread brings, and what a whole epoch on real images takes beside the bare steps.

    python benches/cpu_figures.py                              # both, with the release binary, which is built first
    python benches/cpu_figures.py --figures epoch --rounds 3

scaling: steps of each model by one thread and by all, in turns; of each round images/s of all over images/s of one.
epoch: between any two measurements of bare steps (`samcore bench --step`, one batch again and again) one epoch of
`samcore train` on Fashion-MNIST; of each round the epoch's images/s over the mean of the bare steps before and after it.
`training` is the epoch without its evaluation: shuffled images, augmentation, metrics, records and progress; `whole` is with
evaluation on the test images. What a process does before its first and behind its last epoch is told apart, in seconds.
"""
import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from measured import ROOT, Others, build, disturbed, figures, provenance, spread

SAMCORE = "target/release/samcore"
BATCH, OPT = 128, "sam"
MODELS = ["cnn", "wrn-16-4"]
# The epoch's.
MODEL, IMAGES = "cnn", 60_000


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def steps(model, threads, seconds):
    """The result of `samcore bench` for bare steps."""
    lines = run(SAMCORE, "bench", "--step", model, "--opt", OPT, "--batch", str(BATCH), "--threads", str(threads),
                "--seconds", str(seconds), "--json", "-").splitlines()
    return json.loads(lines[-1])


def rate(result):
    return result["images_per_s"]["median"]


def scaling(args):
    """All rounds of each model, and the spread of the ratios."""
    found = {}
    for model in MODELS:
        rounds = []
        for number in range(args.rounds):
            # Whoever comes first in one round comes last in the next.
            order = [1, args.threads] if number % 2 == 0 else [args.threads, 1]
            results = {threads: steps(model, threads, args.seconds) for threads in order}
            ratio = rate(results[args.threads]) / rate(results[1])
            rounds.append({"one": results[1], "all": results[args.threads], "ratio": ratio})
            print(f"{model} round {number + 1}: {ratio:.2f}", file=sys.stderr)
        ratio = spread([r["ratio"] for r in rounds])
        found[model] = {"ratio": ratio, "rounds": rounds}
        print(f"{model}, {OPT}, batch {BATCH}: {args.threads} threads over one {figures(ratio, 2)}, {args.rounds} rounds")
    return found


def epoch(threads):
    """What one epoch of training took."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        begun = time.perf_counter()
        run(SAMCORE, "train", "--data", "fashion-mnist", "--model", MODEL, "--opt", OPT, "--batch", str(BATCH), "--epochs", "1",
            "--threads", str(threads), "--out", str(out))
        process = time.perf_counter() - begun
        with open(out / "metrics.csv", newline="") as rows:
            row = list(csv.DictReader(rows))[-1]
    seconds, training = float(row["seconds"]), float(row["images_per_s"])
    # The images that fill no batch are left out.
    images = IMAGES // BATCH * BATCH
    return {"training_images_per_s": training, "whole_images_per_s": images / seconds, "epoch_s": seconds,
            "evaluation_s": seconds - images / training, "rest_of_the_process_s": process - seconds}


def epochs(args):
    """Epochs between measurements of bare steps."""
    bare, rounds = [rate(steps(MODEL, args.threads, args.seconds))], []
    for number in range(args.rounds):
        result = epoch(args.threads)
        bare.append(rate(steps(MODEL, args.threads, args.seconds)))
        beside = (bare[-2] + bare[-1]) / 2
        result |= {"bare_images_per_s": beside} | {
            f"{what}_over_bare": result[f"{what}_images_per_s"] / beside for what in ("training", "whole")}
        rounds.append(result)
        print(f"epoch {number + 1}: training {result['training_over_bare']:.3f}, whole {result['whole_over_bare']:.3f} "
              f"of the bare steps' {beside:.0f} images/s", file=sys.stderr)
    found = {key: spread([r[key] for r in rounds]) for key in rounds[0]}
    for what, about in (("training", "without evaluation"), ("whole", "with it")):
        print(f"{MODEL}, {OPT}, batch {BATCH}: an epoch {about} over bare steps {figures(found[f'{what}_over_bare'], 3)}, "
              f"{args.rounds} rounds")
    return found | {"rounds": rounds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {"scaling": scaling, "epoch": epochs}
    parser.add_argument("--figures", choices=list(known), nargs="+", default=list(known))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="time for each measurement of bare steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all that are compared with one")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results/cpu_figures.json")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    if args.threads < 2 and "scaling" in args.figures:
        parser.error("--threads must be at least 2 to be compared with one")
    build()
    result = {
        "what": "images/s of all threads over one, and of an epoch on real images over bare steps; ratios of single rounds",
        **provenance("benches/cpu_figures.py"), "threads": args.threads, "seconds": args.seconds,
    }
    for name in args.figures:
        others = Others()
        result[name] = known[name](args)
        result[name]["others"] = others.share()
        print(disturbed([result[name]["others"]]), end="")
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
