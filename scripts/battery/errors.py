"""Injected errors: the n-th call of one function of the C library fails, for every n and every function that matters."""
import errno
import json
import os
import pathlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import Callable

from trial import Try, copy, require, results, sha256, strays

PROMISE = """A system call that fails ends the command with the documented code and one line, or does no harm. Nothing half
written stays, the last checkpoint is sound, and the command given again ends with the bits of one that nothing disturbed. EINTR,
short reads and short writes do no harm at all."""
QUICK = 260
SOURCE = pathlib.Path(__file__).with_name("preload.c")
SHORT, STAYS = "short", "stays"
# Errors of each function of preload.c; with STAYS all later calls fail too.
ERRORS = {
    "write": ["ENOSPC", f"ENOSPC-{STAYS}", "EIO", "EINTR", SHORT],
    "open": ["EMFILE", "EIO", "EACCES", "EINTR"],
    "read": ["EIO", "EINTR", SHORT],
    "rename": ["EIO", f"ENOSPC-{STAYS}"],
    "fsync": ["EIO", "ENOSPC", "EINTR"],
    "mmap": ["ENOMEM"],
    "ftruncate": ["EIO", "EINTR"],
    "mkdir": ["ENOSPC", "EACCES"],
    "unlink": ["EIO"],
    "stat": ["EIO", "EACCES"],
    "readdir": ["EIO"],
    "flock": ["ENOLCK", "EINTR"],
    "thread": ["EAGAIN"],
    "memory": ["ENOMEM"],
}
HARMLESS = {"EINTR", SHORT}
# No input, not available, cannot create, reading or writing failed.
CODES = {66, 69, 73, 74}
RUN = "train --data data --model cnn --batch 8 --epochs 2 --lr 0.05 --checkpoint-steps 2 --threads 1 --quiet"
TRAIN = f"{RUN} --opt sam --label-noise 0.2 --val-fraction 0.25"
COMPARE = "compare --data data --model cnn --batch 8 --epochs 1 --lr 0.05 --opt sgd,sam --seeds 1 --threads 1 --quiet --out out"


@dataclass
class Scenario:
    """A command that is disturbed, and how it is given again."""

    line: str
    again: Callable[[pathlib.Path], str]
    # Everything that the command gives, once it has ended well.
    outcome: Callable[[pathlib.Path, str], dict]


def same_line(line):
    return lambda folder: line


def resume(folder):
    return "train --resume run --quiet" if (folder / "run/config.toml").exists() else f"{TRAIN} --out run"


def run_outcome(folder, out):
    return results(folder / "run")


def printed(folder, out):
    """What was printed, without times."""
    found = json.loads(out)
    return {name: value for name, value in found.items() if "second" not in name}


def files_of(name):
    def outcome(folder, out):
        return {str(path.relative_to(folder)): sha256(path) for path in sorted((folder / name).rglob("*")) if path.is_file()}

    return outcome


def compare_outcome(folder, out):
    return {run.name: results(run) for run in sorted((folder / "out").iterdir()) if (run / "last.safetensors").exists()}


NOISE = "data noise data --rate 0.5 --out noisy"
EVAL = "eval stopped/last.safetensors --json --threads 1"
STUDY = "study corrupt stopped/last.safetensors --threads 1 --seeds 1 --eps 1 --eps-inf 0.01 --n all --out study"
SCENARIOS = {
    "train": Scenario(f"{TRAIN} --out run", resume, run_outcome),
    "resume": Scenario("train --resume run --quiet", resume, run_outcome),
    "compare": Scenario(COMPARE, same_line(COMPARE), compare_outcome),
    "noise": Scenario(NOISE, same_line(NOISE), files_of("noisy")),
    "eval": Scenario(EVAL, same_line(EVAL), printed),
    "study": Scenario(STUDY, same_line(STUDY), files_of("study")),
}


def library(battery):
    """Compiles preload.c once."""
    path = battery.scratch / "preload.so"
    with battery.lock:
        if not path.exists():
            compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
            require(compiler, "no C compiler: install gcc or clang")
            command = [compiler, "-O1", "-Wall", "-fPIC", "-shared", "-o", str(path), str(SOURCE), "-ldl", "-pthread"]
            built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            require(built.returncode == 0, f"{SOURCE.name} cannot be compiled: {built.stdout}")
    return str(path)


def start(battery, scenario, folder):
    battery.data(folder)
    if scenario == "resume":
        battery.run(folder, f"{TRAIN} --steps 3 --out run").well()
    if scenario in ("eval", "study"):
        battery.run(folder, f"{TRAIN} --steps 3 --out stopped").well()


def tries(battery, folder):
    preload, made = library(battery), []
    for name, scenario in SCENARIOS.items():
        begin, whole = folder / f"{name}-begin", folder / f"{name}-whole"
        begin.mkdir()
        start(battery, name, begin)
        copy(begin, whole)
        counted = battery.run(whole, scenario.line, env={"LD_PRELOAD": preload, "BATTERY_COUNT": "counts"}).well()
        expected = scenario.outcome(whole, counted.out)
        counts = dict(line.split() for line in (whole / "counts").read_text().splitlines())
        for call, errors in ERRORS.items():
            for error in errors:
                for at in range(1, int(counts[call]) + 1):
                    attempt = injected(battery, name, begin, expected, preload, (call, error, at))
                    made.append(Try(f"{name}-{call}-{error}-{at}", attempt))
    return made


def injected(battery, name, begin, expected, preload, failure):
    scenario, (call, error, at) = SCENARIOS[name], failure
    number, _, stays = error.partition("-")
    variables = {"LD_PRELOAD": preload, "BATTERY_CALL": call, "BATTERY_AT": str(at)}
    variables["BATTERY_ERROR"] = str(getattr(errno, number, 0))
    if stays:
        variables["BATTERY_STAYS"] = "1"

    def attempt(place, draw):
        folder = copy(begin, place / "try")
        done = battery.run(folder, scenario.line, env=variables)
        battery.answered(done, CODES | {0})
        require(done.code == 0 or number not in HARMLESS, f"{error} did harm: {done}")
        left = strays(folder)
        require(not left or call == "unlink", f"stray files: {left} after {done}")
        harmless = done.code == 0
        if not harmless:
            done = battery.run(folder, scenario.again(folder)).well()
        found = scenario.outcome(folder, done.out)
        # A journal that could not be removed stays, and a line says so.
        kept = {key for key in found if key.endswith(".journal") and call == "unlink" and key in done.err}
        differing = [key for key in {*expected, *found} - kept if found.get(key) != expected.get(key)]
        how = "nothing was said" if harmless else "given again"
        require(not differing, f"{', '.join(differing)} differ from those of the undisturbed command ({how})")
        return {"did_no_harm" if harmless else "ended_and_given_again": 1}

    return attempt
