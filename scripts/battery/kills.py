"""Kills: SIGKILL at random moments and amid writes, again and again until a run is done."""
import math
import os
import pty
import re
import signal
import subprocess
import threading
import time

from trial import TIMEOUT, Broken, Try, checkpoint_step, recorded_steps, require, results, same_results, strays, table

PROMISE = """A run that is killed goes on: its records are consecutive, no more steps are lost than lie between two
checkpoints, no stray file stays, and at its end it has the bits of a run that nobody disturbed. So does a comparison."""
QUICK = 6
CHAINS = 64
STEPS, PER_EPOCH = 3, 16
BASE = f"train --data data --model cnn --lr 0.05 --batch 4 --epochs 4 --checkpoint-steps {STEPS} --seed 3"
# Name, settings: each keeps other state from step to step.
RUNS = {
    "sam": f"{BASE} --opt sam",
    "average": f"{BASE} --opt sgd --ema 0.9 --label-noise 0.3 --val-fraction 0.25",
    "vasso": f"{BASE} --opt vasso --dropout 0.2 --mixup 0.2 --crop 2",
    "bf16": f"{BASE} --opt looksam --dtype bf16 --accumulate 2",
}
COMPARE = "compare --data data --model cnn --lr 0.05 --batch 8 --epochs 2 --opt sgd,sam --seeds 2 --checkpoint-steps 3"


class Process:
    """A training whose stderr is a terminal, so that it shows each step (at most ten times a second)."""

    def __init__(self, battery, line, folder):
        ours, theirs = pty.openpty()
        environment = battery.environment(TERM="xterm", COLUMNS="100")
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": theirs}
        self.process = subprocess.Popen(battery.command(line), cwd=folder, env=environment, **streams)
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
        try:
            code = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Broken(f"it hangs; {self.screen[-300:]}") from None
        finally:
            self.reader.join()
        return code, self.screen.decode(errors="replace")


def shown_step(screen, per_epoch):
    """The last step on the progress line; 0: none."""
    shown = re.findall(r"epoch (\d+)/\d+ (?:\[[^\]]*\] *(\d+) %| (evaluating))", screen)
    if not shown:
        return 0
    epoch, percent, evaluating = shown[-1]
    # The share is rounded to whole percents; this is the least step that is shown so.
    in_epoch = per_epoch if evaluating else math.ceil((int(percent) - 0.5) / 100 * per_epoch)
    return (int(epoch) - 1) * per_epoch + max(in_epoch, 0)


def kill(process, folder, delay, amid_a_write):
    """Kills after `delay` seconds, or as soon as a temporary file is there after them."""
    time.sleep(delay)
    while amid_a_write and process.poll() is None and not any(folder.rglob(".*.tmp")):
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)


def tries(battery, folder):
    battery.data(folder, train=64, test=32, stride=2)
    expected, seconds = {}, {}
    for name, line in RUNS.items():
        begun = time.monotonic()
        battery.run(folder, f"{line} --quiet --threads 1 --out {name}").well()
        seconds[name], expected[name] = time.monotonic() - begun, results(folder / name)
        expected[name]["per_epoch"] = checkpoint_step(folder / name) // 4
    begun = time.monotonic()
    battery.run(folder, f"{COMPARE} --quiet --threads 1 --out compare").well()
    seconds["compare"], expected["compare"] = time.monotonic() - begun, comparison(folder / "compare")
    names = [*RUNS, "compare"]

    def chain(name):
        whole, wanted = seconds[name], expected[name]
        attempt = compared if name == "compare" else broken_run
        return lambda place, draw: attempt(battery, place, draw, name, whole, wanted)

    return [Try(f"{names[i % len(names)]}-{i // len(names) + 1}", chain(names[i % len(names)])) for i in range(CHAINS)]


def broken_run(battery, folder, draw, name, whole, expected):
    """One run, killed until it is done."""
    battery.data(folder, train=64, test=32, stride=2)
    run = folder / name
    figures = {"kills": 0, "amid_a_write": 0, "most_steps_lost": 0, "runs_with_the_unbroken_bits": 1}
    expected = dict(expected)
    per_epoch = expected.pop("per_epoch")
    while True:
        saved, before = checkpoint_step(run), strays(run)
        threads = draw.choice([1, 1, 2])
        # Before config.toml is there, no run has begun, and the same line begins it.
        begun = (run / "config.toml").exists()
        line = f"train --resume {name}" if begun else f"{RUNS[name]} --out {name} --threads {threads}"
        started = Process(battery, line, folder)
        # From the first instruction of the program to a third of the whole run's time; after 40 kills it may end.
        if figures["kills"] < 40:
            kill(started.process, folder, draw.uniform(0, whole / 3), draw.random() < 0.3)
        code, screen = started.end()
        require("samcore: " not in screen, f"'{line}' after step {saved}: {screen[screen.find('samcore: '):].strip()[:400]}")
        if code == 0:
            break
        require(code == -signal.SIGKILL, f"'{line}' ended with {code}: {screen[-400:]}")
        figures["kills"] += 1
        on_record = recorded_steps(run)
        epochs = [(int(row["epoch"]), int(row["step"])) for row in table(run / "metrics.csv")]
        require(epochs == [(i, i * per_epoch) for i in range(1, len(epochs) + 1)], "metrics.csv is not consecutive from 1")
        after = checkpoint_step(run)
        told = re.search(r"after step (\d+) of", screen)
        require(not told or int(told[1]) == saved, f"the checkpoint was of step {saved}: {told and told[0]}")
        require(after >= saved, f"the checkpoint went back from step {saved} to {after}")
        lost = max(on_record, shown_step(screen, per_epoch)) - after
        require(lost <= STEPS, f"{lost} steps are lost")
        # A process that is killed before it has the lock cannot remove what the one before it left.
        left = [name for name in strays(run) if name not in before]
        require(len(left) <= 1, f"one process left {left}")
        figures["amid_a_write"] += bool(left)
        figures["most_steps_lost"] = max(figures["most_steps_lost"], lost)
    require(not strays(run), f"stray files: {strays(run)}")
    same_results(run, expected)
    return figures


def comparison(folder):
    """The results of all runs of a comparison."""
    runs = sorted(path.parent for path in folder.rglob("last.safetensors"))
    return {str(run.relative_to(folder)): results(run) for run in runs} | {"names": sorted(p.name for p in folder.iterdir())}


def compared(battery, folder, draw, name, whole, expected):
    """One comparison, killed until it is done."""
    battery.data(folder, train=64, test=32, stride=2)
    figures = {"kills": 0, "comparisons_with_the_unbroken_bits": 1}
    while True:
        begun = (folder / name / "compare.toml").exists()
        line = f"compare --resume {name}" if begun and draw.random() < 0.5 else f"{COMPARE} --threads 1 --out {name}"
        started = Process(battery, line, folder)
        if figures["kills"] < 40:
            kill(started.process, folder, draw.uniform(0, whole / 3), draw.random() < 0.3)
        code, screen = started.end()
        require("samcore: " not in screen, f"'{line}': {screen[screen.find('samcore: '):].strip()[:400]}")
        if code == 0:
            break
        require(code == -signal.SIGKILL, f"'{line}' ended with {code}: {screen[-400:]}")
        figures["kills"] += 1
    require(not strays(folder / name), f"stray files: {strays(folder / name)}")
    found = comparison(folder / name)
    for key, value in expected.items():
        differing = [k for k in value if found.get(key, {}).get(k) != value[k]] if isinstance(value, dict) else found[key]
        require(found.get(key) == value, f"{key} differs from the unbroken comparison's: {differing}")
    return figures
