"""Shared by every kind of the battery: small data sets, processes, the results of runs, and checks of answers."""
import csv
import gzip
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Columns of metrics.csv that hold times, which no two runs share.
TIMES = {"seconds", "images_per_s", "waited"}
# Files whose bytes do not depend on the machine, the time or the number of threads.
EXACT = ("last.safetensors", "best.safetensors", "steps.jsonl", "labels.idx1-ubyte")
# What `files::replace` and `data noise` write before they rename it.
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{16}\.tmp|\d+\.part)")
# A process that takes longer hangs: the longest here takes a few seconds on an idle machine.
TIMEOUT = 180


class Broken(Exception):
    """A promise that did not hold."""


def require(holds, message):
    if not holds:
        raise Broken(message)


@dataclass
class Try:
    """One trial of a kind: `attempt(folder, draw)` raises Broken, or returns figures to add up."""

    label: str
    attempt: Callable[[pathlib.Path, random.Random], dict | None]


@dataclass
class Done:
    """A process that has ended; a code below 0 is the signal that ended it."""

    line: str
    code: int
    out: str
    err: str

    def well(self):
        require(self.code == 0, f"'{self.line}' ended with {self.code}: {short(self.err)}")
        return self

    def __str__(self):
        return f"'{self.line}' ended with {self.code}: {short(self.err)}"


@dataclass
class Battery:
    """The program under test, and a scratch folder."""

    samcore: pathlib.Path
    scratch: pathlib.Path
    seed: int
    quick: bool
    notes: list = field(default_factory=list)
    codes: set = field(default_factory=set)
    sets: dict = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        help_text = self.run(self.scratch, "--help").well().out
        self.codes = {int(code) for code in re.findall(r"^ +(\d+)  ", help_text, re.M)}
        require(75 in self.codes, "samcore --help lists no exit codes")

    def note(self, text):
        """Tells about a part that this machine does another way."""
        with self.lock:
            if text not in self.notes:
                self.notes.append(text)
                print(f"note: {text}", flush=True)

    def environment(self, **more):
        """The variables of a process: none of the user's own settings of samcore."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SAMCORE_")}
        cache = str(self.scratch / "cache")
        return {**kept, "NO_COLOR": "1", "SAMCORE_CACHE": cache, "SAMCORE_DATA": str(self.scratch / "no-sets"), **more}

    def command(self, line):
        return [str(self.samcore), *line.split()]

    def run(self, folder, line, timeout=TIMEOUT, env=None, prefix=(), **more):
        """Runs `samcore LINE` in `folder` to its end."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        command = [*prefix, *self.command(line)]
        process = subprocess.Popen(command, cwd=folder, env=self.environment(**(env or {})), **streams)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Broken(f"'{line}' hangs: it did not end in {timeout} s; {text(err).strip()[-300:]}") from None
        return Done(line, process.returncode, text(out), text(err))

    def answered(self, done, codes=None):
        """Checks an end that is no success: a documented code, one line, no panic."""
        require("panicked" not in done.err, f"panic: {done}")
        require(done.code in (self.codes | {0} if codes is None else codes), f"a code that is not documented here: {done}")
        if done.code != 0:
            lines = done.err.strip().splitlines()
            require(len(lines) == 1 and lines[0].startswith("samcore: "), f"not one line: {done}")
        return done

    def data(self, folder, train=32, test=16, stride=4, packed=False):
        """Puts the first images of Fashion-MNIST into `folder`/data; of each image, every `stride`-th pixel."""
        key = (train, test, stride)
        with self.lock:
            if key not in self.sets:
                self.sets[key] = first_images(ROOT / "data/fashion-mnist", {"train": train, "t10k": test}, stride)
        (folder / "data").mkdir()
        for name, content in self.sets[key].items():
            if packed:
                (folder / "data" / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / "data" / name).write_bytes(content)


def text(piece):
    return (piece or b"").decode(errors="replace")


def short(message):
    """The beginning of a long message, where its reason is."""
    message = message.strip()
    return message if len(message) <= 500 else message[:500] + " …"


def first_images(source, counts, stride):
    """The first images of each half as IDX files, by name."""
    files = {}
    for half, count in counts.items():
        for kind, rank in (("images", 3), ("labels", 1)):
            name = f"{half}-{kind}-idx{rank}-ubyte"
            with gzip.open(source / f"{name}.gz") as packed:
                head = packed.read(4 + 4 * rank)[:4]
                values = packed.read(count * (784 if rank == 3 else 1))
            side = len(range(0, 28, stride))
            if rank == 3:
                rows = range(0, 784, 28 * stride)
                values = b"".join(values[i * 784 + row:i * 784 + row + 28:stride] for i in range(count) for row in rows)
            sizes = [count, side, side] if rank == 3 else [count]
            files[name] = head + b"".join(struct.pack(">I", size) for size in sizes) + values
    return files


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata(path):
    """The metadata of a safetensors file; empty where there is none."""
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return header["__metadata__"]


def checkpoint_step(run):
    """The step of a run's last checkpoint; 0 where there is none."""
    return int(metadata(run / "last.safetensors").get("samcore.step", 0))


def whole_lines(path):
    """The lines that have their end; a process that was killed may leave a torn one behind them."""
    content = path.read_bytes().decode(errors="replace") if path.exists() else ""
    return content[: content.rfind("\n") + 1].splitlines()


def recorded_steps(run):
    """The number of steps on record; they must be consecutive from 1."""
    steps = [json.loads(line)["step"] for line in whole_lines(run / "steps.jsonl")]
    require(steps == list(range(1, len(steps) + 1)), "steps.jsonl is not consecutive from 1")
    return len(steps)


def table(path):
    """The rows of metrics.csv without the columns of times."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(whole_lines(path))]


def results(run):
    """Everything in a run's folder that two runs of the same settings must share, by file, and the names of all files."""
    found = {name: sha256(run / name) for name in EXACT if (run / name).exists()}
    found["metrics.csv"] = json.dumps(table(run / "metrics.csv"))
    found["names"] = sorted(path.name for path in run.iterdir())
    return found


def same_results(run, expected):
    found = results(run)
    for name, value in expected.items():
        shown = f": {found.get(name)} instead of {value}" if name == "names" else ""
        require(found.get(name) == value, f"{name} differs from the unbroken run's{shown}")


def strays(run):
    """Temporary files that an ended process has left in a folder, and in those in it."""
    hidden = sorted(path.name for path in run.rglob(".*") if path.suffix in (".tmp", ".part"))
    unknown = [name for name in hidden if not TEMPORARY.fullmatch(name)]
    require(not unknown, f"temporary files of a name that the battery does not know: {unknown}")
    return hidden


def copy(source, target):
    shutil.copytree(source, target, symlinks=True)
    return target


def signal_name(number):
    return signal.Signals(number).name
