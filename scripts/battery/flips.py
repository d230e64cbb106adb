"""Flips: a bit of every file that samcore reads, or its end, and then the command that reads it."""
import json
from dataclasses import dataclass
from typing import Callable

from trial import Try, copy, require, results, short

PROMISE = """A file in which a bit is flipped, or that is cut short, is refused with one line, or does no harm: no panic, no hang,
and never other weights or another evaluation without a word. A record may keep a flipped digit, which no checksum covers."""
QUICK = 170
FLIPS = 100
# A folder of each try's own for compiled kernels.
CACHE = {"SAMCORE_CACHE": "cache"}
CODES = {2, 65, 66, 69, 73, 74, 76}
RUN = "train --data data --model cnn --batch 8 --epochs 2 --lr 0.05 --checkpoint-steps 2 --threads 1 --quiet"
TRAIN = f"{RUN} --opt sam --label-noise 0.2 --val-fraction 0.25 --ema 0.9"
COMPARE = "compare --data data --model cnn --batch 8 --epochs 1 --lr 0.05 --opt sgd,sam --seeds 1 --threads 1 --quiet --out out"
RESUME = "train --resume run --quiet"
SHARPNESS = "study sharpness run/last.safetensors --m 8 --batch 8 --threads 1 --json"
INIT = f"{RUN} --opt sam --seed 1 --init run/last.safetensors --out fine"


@dataclass
class Damage:
    """A file that is damaged, and the command that reads it."""

    name: str
    start: str
    file: str
    line: str
    # The outcome that must not change without a word.
    outcome: Callable
    # How many of the file's first bytes are damaged; 0: all.
    head: int = 0
    # Number of tries.
    count: int = FLIPS
    # The file is only cut short, and must be made again: a cache.
    cached: bool = False


def weights(run):
    """The weights of a run, and not its records."""
    return lambda folder, out: {name: value for name, value in results(folder / run).items() if name == "last.safetensors"}


def all_runs(folder, out):
    return {run.name: results(run).get("last.safetensors") for run in sorted((folder / "out").iterdir()) if run.is_dir()}


def printed(folder, out):
    return {key: value for key, value in json.loads(out).items() if "second" not in key}


def anything(folder, out):
    return {}


IMAGES, LABELS = "data/train-images-idx3-ubyte", "data/train-labels-idx1-ubyte"
EVAL = "eval run/last.safetensors --threads 1 --json"
DAMAGES = [
    Damage("checkpoint-resumed", "run", "run/last.safetensors", RESUME, weights("run")),
    Damage("checkpoint-head-resumed", "run", "run/last.safetensors", RESUME, weights("run"), 2500),
    Damage("checkpoint-evaluated", "run", "run/last.safetensors", EVAL, printed),
    Damage("checkpoint-head-evaluated", "run", "run/last.safetensors", EVAL, printed, 2500),
    Damage("best-evaluated", "run", "run/best.safetensors", "eval run/best.safetensors --threads 1 --json", printed),
    Damage("checkpoint-as-init", "run", "run/last.safetensors", INIT, weights("fine"), 2500),
    Damage("checkpoint-studied", "run", "run/last.safetensors", SHARPNESS, printed, 4000),
    Damage("settings", "run", "run/config.toml", RESUME, weights("run")),
    Damage("environment", "run", "run/env.json", RESUME, weights("run")),
    Damage("metrics", "run", "run/metrics.csv", RESUME, weights("run")),
    Damage("steps", "run", "run/steps.jsonl", RESUME, weights("run")),
    Damage("images-resumed", "run", IMAGES, RESUME, weights("run")),
    Damage("labels-resumed", "run", LABELS, RESUME, weights("run")),
    Damage("images-head", "run", IMAGES, f"{TRAIN} --out new", anything, 16),
    Damage("labels-new", "run", LABELS, f"{TRAIN} --out new", anything),
    Damage("images-gz", "packed", f"{IMAGES}.gz", f"{TRAIN} --out new", weights("new")),
    Damage("labels-gz", "packed", f"{LABELS}.gz", f"{TRAIN} --out new", weights("new")),
    Damage("cifar", "cifar", "cifar/data_batch_1.bin", "data verify cifar", anything),
    Damage("request", "compared", "out/compare.toml", "compare --resume out --quiet", all_runs),
    Damage("compared-settings", "compared", "out/sgd-seed0/config.toml", "compare --resume out --quiet", all_runs),
    Damage("compared-metrics", "compared", "out/sgd-seed0/metrics.csv", "compare --resume out --quiet", all_runs),
    Damage("noise-record", "noisy", "noisy/noise.json", "data verify noisy", anything),
    Damage("noisy-labels", "noisy", "noisy/train-labels-idx1-ubyte", "data verify noisy", anything),
    Damage("relabelled", "relabelled", "run/labels.idx1-ubyte", RESUME, weights("run")),
    Damage("benchmark", "bench", "before.json", "bench relu --threads 1 --compare before.json", anything, count=25),
    Damage("kernels", "kernels", "**/pointwise-*.so", "check relu --device emu --threads 1", anything, count=8, cached=True),
    Damage("emulator", "kernels", "**/runtime-*.so", "check relu --device emu --threads 1", anything, count=8, cached=True),
]


def start_packed(battery, folder):
    battery.data(folder, packed=True)


def start_run(battery, folder):
    battery.data(folder)
    battery.run(folder, f"{TRAIN} --steps 5 --out run").well()


def start_relabelled(battery, folder):
    battery.data(folder)
    battery.run(folder, f"{RUN} --steps 5 --out before").well()
    battery.run(folder, f"{RUN} --relabel before/last.safetensors --steps 5 --out run").well()


def start_compared(battery, folder):
    battery.data(folder)
    battery.run(folder, COMPARE).well()


def start_noisy(battery, folder):
    battery.data(folder)
    battery.run(folder, "data noise data --rate 0.5 --out noisy").well()


def start_cifar(battery, folder):
    (folder / "cifar").mkdir()
    rows = b"".join(bytes([i]) + bytes(range(i, i + 3)) * 1024 for i in range(4))
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / "cifar" / f"{name}.bin").write_bytes(rows)


def start_bench(battery, folder):
    battery.run(folder, "bench relu --threads 1 --json before.json").well()


def start_kernels(battery, folder):
    battery.run(folder, "check relu --device emu --threads 1", env=CACHE).well()


STARTS = {"kernels": start_kernels, "run": start_run, "packed": start_packed, "compared": start_compared, "noisy": start_noisy,
          "relabelled": start_relabelled, "cifar": start_cifar, "bench": start_bench}


def tries(battery, folder):
    begins, made = {}, []
    for name, start in STARTS.items():
        begins[name] = folder / f"begin-{name}"
        begins[name].mkdir()
        start(battery, begins[name])
    for damage in DAMAGES:
        sound = copy(begins[damage.start], folder / f"sound-{damage.name}")
        done = battery.run(sound, damage.line, env=CACHE)
        # A set of made-up files is verified with an answer of its own.
        require(done.code == 0 or "verify" in damage.line, str(done))
        expected = damage.outcome(sound, done.out)
        for i in range(1, damage.count + 1):
            made.append(Try(f"{damage.name}-{i}", flip(battery, damage, begins[damage.start], expected)))
    return made


def flip(battery, damage, begin, expected):
    def attempt(place, draw):
        folder = copy(begin, place / "try")
        (file,) = folder.glob(damage.file)
        content = bytearray(file.read_bytes())
        size = len(content)
        if damage.cached or draw.random() < 0.15:
            length = draw.randrange(damage.head or size)
            how = f"cut to {length} of {size} bytes"
            del content[length:]
        else:
            bit = draw.randrange(8 * min(damage.head or size, size))
            how = f"bit {bit % 8} of byte {bit // 8} flipped"
            content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        done = battery.run(folder, damage.line, env=CACHE)
        require(done.code == 0 or not damage.cached, f"{how}: not made again: {done}")
        require("panicked" not in done.err and done.code in CODES | {0, 1}, f"{how}: {done}")
        if done.code != 0:
            # Reports about data sets are printed, and end with one line too.
            lines = done.err.strip().splitlines()
            one = lines and lines[-1].startswith("samcore: ") and (len(lines) == 1 or "verify" in damage.line)
            require(one, f"{how}: not one line: {done}")
            shown = [c for c in done.err.strip() if not c.isprintable() and c != "\n"]
            require(not shown, f"{how}: raw control characters {shown} in {short(done.err)!r}")
            return {"refused": 1}
        found = damage.outcome(folder, done.out)
        differing = [key for key in expected if found.get(key) != expected[key]]
        require(not differing, f"{how}: {', '.join(map(str, differing))} changed without a word; {short(done.out)}")
        return {"did_no_harm": 1}

    return attempt
