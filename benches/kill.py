#!/usr/bin/env python3
"""Kill a training with SIGKILL at random moments, go on after each, and hold what is left to what was promised.

    cargo build --release
    python benches/kill.py --samcore target/release/samcore --out benches/results/kill.json

A run on the first images of Fashion-MNIST is killed and resumed until it is done, and another one begins if kills are left
over. After each kill: the records are consecutive, no file is there that does not belong, the next process goes on at the
checkpoint, and no more was lost than the steps from one checkpoint to the next. At the end of each run weights, statistics,
momentum and records are, byte for byte, those of a run that nobody disturbed. Ends with 1 if any of this does not hold.
"""
import argparse
import csv
import datetime
import gzip
import hashlib
import json
import math
import os
import pathlib
import platform
import pty
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHOLE = {".lock", "best.safetensors", "config.toml", "curves.svg", "env.json", "last.safetensors", "metrics.csv", "steps.jsonl"}
TIMES = {"seconds", "images_per_s"}
TEMPORARY = re.compile(r"\..+\.(\d+)\.\d+\.tmp")


def first_images(source, folder, counts):
    """The first images of each half as plain IDX files."""
    folder.mkdir()
    for half, count in counts.items():
        for kind, rank in (("images", 3), ("labels", 1)):
            name = f"{half}-{kind}-idx{rank}-ubyte"
            with gzip.open(source / f"{name}.gz") as packed:
                header = bytearray(packed.read(4 + 4 * rank))
                values = packed.read(count * (784 if rank == 3 else 1))
            header[4:8] = struct.pack(">I", count)
            (folder / name).write_bytes(bytes(header) + values)


def checkpoint_step(path):
    """The step of a checkpoint; 0 where there is none."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return int(header["__metadata__"]["samcore.step"])


def whole_lines(path):
    """The lines that have their end; a process that was killed may leave a torn one behind them."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def record_faults(run, per_epoch):
    """What is wrong with the records, and the last step that they tell of."""
    faults = []
    steps = [json.loads(line)["step"] for line in whole_lines(run / "steps.jsonl")]
    if steps != list(range(1, len(steps) + 1)):
        faults.append("steps.jsonl is not consecutive from 1")
    rows = list(csv.DictReader(whole_lines(run / "metrics.csv")))
    if [(int(row["epoch"]), int(row["step"])) for row in rows] != [(i, i * per_epoch) for i in range(1, len(rows) + 1)]:
        faults.append("metrics.csv is not consecutive from 1")
    return faults, len(steps)


def results(run):
    """Hashes of what a whole run comes to, without the columns that tell time."""
    hashes = {n: hashlib.sha256((run / n).read_bytes()).hexdigest() for n in ("last.safetensors", "best.safetensors", "steps.jsonl")}
    with open(run / "metrics.csv", newline="") as rows:
        table = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(rows)]
    return {**hashes, "metrics.csv": hashlib.sha256(json.dumps(table).encode()).hexdigest()}


class Process:
    """A training whose stderr is a terminal, so that it shows each step (at most ten times a second)."""

    def __init__(self, command, folder):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        self.screen = b""
        self.reader = threading.Thread(target=self.read, args=[ours])
        self.reader.start()

    def read(self, terminal):
        try:
            while piece := os.read(terminal, 1 << 16):
                self.screen += piece
        except OSError:
            pass  # The other end is closed.
        os.close(terminal)

    def end(self):
        """Exit code, and everything that was shown."""
        code = self.process.wait()
        self.reader.join()
        return code, self.screen.decode(errors="replace")


def shown_step(screen, per_epoch):
    """The last step that the progress line told of; 0: none."""
    told = re.findall(r"epoch (\d+)/\d+ (?:\[[^\]]*\] *(\d+) %| (evaluating))", screen)
    if not told:
        return 0
    epoch, percent, evaluating = told[-1]
    # The share is rounded to whole percents; this is the least step that is shown so.
    in_epoch = per_epoch if evaluating else math.ceil((int(percent) - 0.5) / 100 * per_epoch)
    return (int(epoch) - 1) * per_epoch + max(in_epoch, 0)


class Trial:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.per_epoch = args.images // args.batch
        self.flags = ["--data", "data", "--model", "cnn", "--opt", args.opt, "--lr", "0.05", "--batch", str(args.batch),
                      "--epochs", str(args.epochs), "--checkpoint-steps", str(args.checkpoint_steps), "--seed", "3"]

    def start(self, flags):
        return Process([str(self.args.samcore), "train", *flags], self.folder)

    def begin_or_resume(self, run):
        # Before config.toml is there, no run has begun, and the same line begins it.
        begun = (run / "config.toml").exists()
        return self.start(["--resume", run.name] if begun else [*self.flags, "--out", run.name])

    def kill_once(self, run, delay, aim):
        """One process, killed after `delay` seconds, or with `aim` in the next write of a file; None if it was done before."""
        saved = checkpoint_step(run / "last.safetensors")
        started = self.begin_or_resume(run)
        time.sleep(delay)
        while aim and started.process.poll() is None and not (run.exists() and any(run.glob(".*.tmp"))):
            time.sleep(0.0002)
        started.process.send_signal(signal.SIGKILL)
        code, screen = started.end()
        if code != -signal.SIGKILL:
            self.done(code, screen)
            return None
        faults, on_record = record_faults(run, self.per_epoch)
        after = checkpoint_step(run / "last.safetensors")
        told = re.search(r"going on after step (\d+) of", screen)
        if told and int(told[1]) != saved:
            faults.append(f"the checkpoint was of step {saved}, but the run went on after step {told[1]}")
        if after < saved:
            faults.append(f"the checkpoint went back from step {saved} to {after}")
        done = max(on_record, shown_step(screen, self.per_epoch))
        lost = max(done - after, 0)
        if lost > self.args.checkpoint_steps:
            faults.append(f"{lost} steps are lost")
        strays = {f.name for f in run.iterdir()} - WHOLE if run.exists() else set()
        torn = {name for name in strays if (found := TEMPORARY.fullmatch(name)) and int(found[1]) == started.process.pid}
        if strays != torn:
            faults.append(f"stray files: {sorted(strays - torn)}")
        if "samcore: " in screen:
            faults.append(screen[screen.index("samcore: "):].strip())
        return {"after_s": round(delay, 3), "went_on_after": saved, "steps_done": done, "steps_on_record": on_record,
                "checkpoint": after, "lost_steps": lost, "amid_a_write": bool(torn), "faults": faults}

    def done(self, code, screen):
        if code != 0:
            sys.exit(f"a process that was not killed ended with {code}:\n{screen}")

    def finish(self, run):
        self.done(*self.begin_or_resume(run).end())

    def end_faults(self, run, expected):
        faults, steps = record_faults(run, self.per_epoch)
        if steps != self.per_epoch * self.args.epochs:
            faults.append(f"steps.jsonl ends at step {steps}")
        names = {f.name for f in run.iterdir()}
        if names != WHOLE:
            faults.append(f"the folder holds {sorted(names)}")
        found = results(run)
        return faults + [f"{name} differs from the unbroken run's" for name in expected if found[name] != expected[name]]


def machine():
    models = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {"cpu": models[0] if models else "unknown", "cores": os.cpu_count(), "os": platform.platform()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--samcore", type=pathlib.Path, default=ROOT / "target/release/samcore", help="the program")
    ap.add_argument("--data", type=pathlib.Path, default=ROOT / "data/fashion-mnist", help="the .gz files")
    ap.add_argument("--kills", type=int, default=50)
    ap.add_argument("--aimed", type=int, default=10, help="more kills, each amid the write of a file")
    ap.add_argument("--seed", type=int, default=0, help="of the moments")
    ap.add_argument("--images", type=int, default=512, help="training images")
    ap.add_argument("--test-images", type=int, default=500)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--epochs", type=int, default=4)
    ap.add_argument("--checkpoint-steps", type=int, default=3)
    ap.add_argument("--opt", default="sam")
    ap.add_argument("--out", type=pathlib.Path, help="write the raw results here as JSON")
    args = ap.parse_args()
    args.samcore = args.samcore.resolve()
    draw = random.Random(args.seed)
    kills, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        first_images(args.data, folder / "data", {"train": args.images, "t10k": args.test_images})
        trial = Trial(args, folder)
        begun = time.monotonic()
        trial.finish(folder / "unbroken")
        whole = time.monotonic() - begun
        expected = results(folder / "unbroken")
        print(f"unbroken: {trial.per_epoch * args.epochs} steps in {whole:.1f} s")
        wanted = [False] * args.kills + [True] * args.aimed
        draw.shuffle(wanted)
        while len(kills) < len(wanted):
            run = folder / f"run{len(runs) + 1}"
            while len(kills) < len(wanted):
                # From the first instruction of the program to a third of what the whole run takes.
                kill = trial.kill_once(run, draw.uniform(0, whole / 3), wanted[len(kills)])
                if kill is None:
                    break
                kills.append({"run": len(runs) + 1, "aimed": wanted[len(kills)], **kill})
                print(f"kill {len(kills)}: run {len(runs) + 1}, {json.dumps(kill)}", flush=True)
            trial.finish(run)
            faults = trial.end_faults(run, expected)
            runs.append({"kills": sum(k["run"] == len(runs) + 1 for k in kills), "faults": faults})
            print(f"run {len(runs)} is done: {'; '.join(faults) or 'the same bits as the unbroken one'}")
    bad = sum(bool(k["faults"]) for k in kills) + sum(bool(r["faults"]) for r in runs)
    lost = [k["lost_steps"] for k in kills]
    result = {
        "what": f"SIGKILL at {args.kills} random moments of a training, and {args.aimed} times amid a write",
        "resumed": sum(not k["faults"] for k in kills),
        "kills": len(kills),
        "lost_steps": {"most": max(lost), "mean": statistics.mean(lost), "allowed": args.checkpoint_steps},
        "amid_a_write": sum(k["amid_a_write"] for k in kills),
        "before_the_first_checkpoint": sum(k["checkpoint"] == 0 for k in kills),
        "runs": runs,
        "runs_with_the_bits_of_the_unbroken_one": sum(not r["faults"] for r in runs),
        "configuration": {"flags": " ".join(trial.flags), "images": args.images, "test_images": args.test_images, "seed": args.seed},
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip(),
        "script": "benches/kill.py",
        "each_kill": kills,
    }
    print(f"{result['resumed']} of {len(kills)} kills went on as promised; at most {max(lost)} steps lost, "
          f"{args.checkpoint_steps} allowed; {result['amid_a_write']} amid a write; "
          f"{result['runs_with_the_bits_of_the_unbroken_one']} of {len(runs)} runs have the unbroken one's bits")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
