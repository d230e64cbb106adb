"""Outputs: standard output and error that are closed, full or left by their reader, and files that are no regular ones."""
import os
import stat
import subprocess
from dataclasses import dataclass
from typing import Callable

from trial import TIMEOUT, Broken, Done, Try, copy, require, results, sha256, text

PROMISE = """Whatever becomes of standard output and error, a command does its work: files come out as always, with 0, or 74 where
standard output broke. An output path that exists and is no regular file is written to and stays what it is."""
QUICK = 60
DATA = "--data data --model cnn --batch 8 --lr 0.05 --threads 1"


def nothing(folder):
    return {}


def files_of(name, suffixes=(".csv", ".svg", ".idx1-ubyte", ".safetensors", ".idx3-ubyte")):
    def outcome(folder):
        below = sorted(path for path in (folder / name).rglob("*") if path.is_file() and path.name.endswith(suffixes))
        return {str(path.relative_to(folder)): sha256(path) for path in below if path.name not in ("metrics.csv", "curves.svg")}

    return outcome


def run_results(folder):
    return {name: value for name, value in results(folder / "new").items() if name != "names"}


def bootstrapped(folder):
    return {part: results(folder / "boot" / part) for part in ("first", "second") if (folder / "boot" / part).exists()}


@dataclass
class Command:
    line: str
    outcome: Callable = nothing
    # Its output is the same each time.
    repeats: bool = False


STUDIED = "run/last.safetensors --threads 1 --seeds 1"
COMMANDS = {
    "train": Command(f"train {DATA} --epochs 2 --opt sam --out new", run_results),
    "train-json": Command(f"train {DATA} --epochs 2 --opt sam --json --out new", run_results),
    "bootstrap": Command(f"train {DATA} --epochs 1 --bootstrap --out boot", bootstrapped),
    "resume": Command("train --resume run", lambda folder: {"last": sha256(folder / "run/last.safetensors")}),
    "compare": Command(f"compare {DATA} --epochs 1 --opt sgd,sam --seeds 1 --out cmp", files_of("cmp", (".safetensors",))),
    "eval": Command("eval run/last.safetensors --threads 1 --json"),
    "corrupt": Command(f"study corrupt {STUDIED} --eps 1 --eps-inf 0.01 --n all --out study", files_of("study")),
    "sharpness": Command("study sharpness run/last.safetensors --m 8 --batch 8 --threads 1 --out study", files_of("study")),
    "noise": Command("data noise data --rate 0.5 --out noisy", files_of("noisy")),
    "info": Command("info --model cnn", repeats=True),
    "info-list": Command("info models", repeats=True),
    "check": Command("check relu --threads 1"),
    "bench": Command("bench add --threads 1"),
    "list": Command("data list", repeats=True),
    "verify": Command("data verify data"),
    "completions": Command("completions bash", repeats=True),
    "manual": Command("man", repeats=True),
    "manual-pages": Command("man --out pages", files_of("pages", (".1",))),
    "help": Command("--help", repeats=True),
    "train-help": Command("train --help", repeats=True),
    "version": Command("--version", repeats=True),
    "mistake": Command("train --lr much"),
}
# Of standard output and error: each way in which they fail.
WAYS = ("closed", "full", "left", "left-after-a-line")
STREAMS = ("out", "err", "both")
# Outputs by path.
PATHS = {
    "corrupt-csv": f"study corrupt {STUDIED} --eps 1 --eps-inf 0.01 --n all --csv",
    "sharpness-csv": "study sharpness run/last.safetensors --m 8 --batch 8 --threads 1 --csv",
    "bench-json": "bench add --threads 1 --json",
    "bench-profile": "bench --step cnn --opt sgd --batch 2 --threads 1 --profile=",
}
KINDS = ("fifo", "link", "dangling-link", "null", "full-device")


def tries(battery, folder):
    begin, made = folder / "begin", []
    begin.mkdir()
    battery.data(begin)
    battery.run(begin, f"train {DATA} --epochs 2 --opt sam --steps 3 --out run").well()
    for name, command in COMMANDS.items():
        whole = copy(begin, folder / f"whole-{name}")
        usual = battery.run(whole, command.line)
        expected = command.outcome(whole)
        for way in WAYS:
            for stream in STREAMS:
                made.append(Try(f"{name}-{stream}-{way}", broken_stream(battery, begin, command, usual, expected, way, stream)))
    for name, line in PATHS.items():
        for kind in KINDS:
            made.append(Try(f"{name}-to-{kind}", odd_path(battery, begin, line, kind)))
    return made


class Stream:
    """A standard stream that fails in the given way."""

    def __init__(self, way):
        self.way, self.reader, self.file = way, None, None
        if way in ("full", "closed"):
            # A closed one is closed by the shell that starts the command.
            self.file = open("/dev/full" if way == "full" else os.devnull, "wb")
        else:
            command = ["head", "-n", "1"] if way == "left-after-a-line" else ["true"]
            self.reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            self.file = self.reader.stdin
            if way == "left":
                self.reader.wait()

    def close(self):
        try:
            self.file.close()
        except BrokenPipeError:
            pass
        if self.reader:
            self.reader.wait()


def broken_stream(battery, begin, command, usual, expected, way, stream):
    def attempt(place, draw):
        folder = copy(begin, place / "try")
        broken = {name: Stream(way) for name in ("out", "err") if stream in (name, "both")}
        close = "".join(f" {number}>&-" for number, name in ((1, "out"), (2, "err")) if name in broken and way == "closed")
        prefix = ["sh", "-c", f'exec "$@"{close}', "closing"] if close else []
        streams = {f"std{name}": broken[name].file if name in broken else subprocess.PIPE for name in ("out", "err")}
        process = subprocess.Popen([*prefix, *battery.command(command.line)], cwd=folder, env=battery.environment(),
                                   stdin=subprocess.DEVNULL, **streams)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Broken(f"'{command.line}' hangs with {stream} {way}") from None
        finally:
            for one in broken.values():
                one.close()
        done = Done(command.line, process.returncode, text(out), text(err))
        allowed = {usual.code} | ({74} if "out" in broken else set())
        require(done.code in allowed and "panicked" not in done.err, str(done))
        found = command.outcome(folder)
        differing = [key for key in {*expected, *found} if found.get(key) != expected.get(key)]
        require(not differing, f"{', '.join(differing)} differ from those with whole outputs; {done}")
        if command.repeats and "out" not in broken:
            require(done.out == usual.out, "standard output differs where standard error alone is broken")
        return {"did_its_work": 1}

    return attempt


def odd_path(battery, begin, line, kind):
    def attempt(place, draw):
        folder = copy(begin, place / "try")
        path, target, reader = folder / "output", folder / "elsewhere" / "target", None
        target.parent.mkdir()
        if kind == "fifo":
            os.mkfifo(path)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        elif kind in ("link", "dangling-link"):
            path.symlink_to("elsewhere/target")
            if kind == "link":
                target.write_text("old")
        else:
            try:
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3 if kind == "null" else 7))
                with open(path, "rb"):
                    pass
            except PermissionError:
                battery.note("outputs: device nodes cannot be made here, so none is tried")
                return {"without_device_nodes": 1}
        before = os.lstat(path)
        done = battery.run(folder, line + "output" if line.endswith("=") else f"{line} output")
        after = os.lstat(path)
        same = (stat.S_IFMT(before.st_mode), before.st_ino) == (stat.S_IFMT(after.st_mode), after.st_ino)
        require(same, f"output was replaced by {stat.filemode(after.st_mode)} after {done}")
        if kind == "full-device":
            battery.answered(done, {74})
        else:
            done.well()
        if reader is not None:
            require(os.read(reader, 1 << 16), "nothing came out of the FIFO")
            os.close(reader)
        if "link" in kind:
            require(target.read_bytes() not in (b"", b"old"), "the link's target was not written")
        return {"stayed_what_it_was": 1}

    return attempt
