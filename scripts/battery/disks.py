"""Full disks: file systems in memory of many sizes, and ones that something else fills, while samcore writes."""
import errno
import shutil
import subprocess

import errors
from trial import Try, require, results, same_results, strays

PROMISE = """On a full disk a command ends with 74 and one line (73 where a file could not even be made), leaves no half of a file, and
keeps the last checkpoint. Once there is space, the run goes on and ends with the bits of an unbroken one."""
QUICK = 24
SIZES = 60
RUN = "train --data data --model cnn --batch 8 --epochs 2 --lr 0.05 --checkpoint-steps 2 --threads 1 --quiet --opt sam"
STUDY = "study corrupt disk/run/last.safetensors --threads 1 --seeds 1 --eps 1 --eps-inf 0.01 --out disk/study"
FULL = "No space left on device"


def mount(*arguments):
    done = subprocess.run(["mount", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def can_mount(folder):
    """Checks that this process may mount file systems."""
    place = folder / "mount"
    place.mkdir()
    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)):
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def tries(battery, folder):
    battery.data(folder)
    battery.run(folder, f"{RUN} --out whole").well()
    expected = results(folder / "whole")
    pages = sum(path.stat().st_size for path in (folder / "whole").iterdir()) * 5 // 4 // 4096
    if can_mount(folder):
        small = [Try(f"small-{i}", small_disk(battery, expected, pages, i)) for i in range(1, SIZES + 1)]
        filled = [Try(f"filled-{i}", filled_disk(battery, expected)) for i in range(1, SIZES // 3 + 1)]
    else:
        battery.note("disks: file systems cannot be mounted here, so writes fail with ENOSPC from the n-th on instead")
        small = [Try(f"small-{i}", failing_writes(battery, expected, i)) for i in range(1, SIZES + 1)]
        filled = []
    limited = [Try(f"limited-{i}", limited_files(battery, expected)) for i in range(1, SIZES // 6 + 1)]
    return small + filled + limited


def full(battery, done, run, mounted=True):
    """Checks the answer to a full disk."""
    battery.answered(done, {0, 73, 74})
    require(done.code == 0 or not mounted or FULL in done.err, str(done))
    require(not strays(run), f"stray files: {strays(run)} after {done}")


def go_on(battery, folder, run, again, expected):
    if not (run / "config.toml").exists():
        battery.run(folder, again).well()
    else:
        battery.run(folder, f"train --resume {run.relative_to(folder)} --quiet").well()
    same_results(run, expected)


class Disk:
    """A file system in memory, in the folder `disk`."""

    def __init__(self, folder, kilobytes):
        self.path = folder / "disk"
        self.path.mkdir()
        require(mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(self.path)), "tmpfs cannot be mounted")

    def grow(self):
        require(mount("-o", "remount,size=64m", str(self.path)), "tmpfs cannot be made larger")

    def fill(self):
        with open(self.path / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", str(self.path)], check=True)


def small_disk(battery, expected, pages, i):
    def attempt(place, draw):
        battery.data(place)
        # From one page to more than the run takes.
        with Disk(place, 4 * max(1, round(pages * (i - draw.random()) / SIZES))) as disk:
            line = f"{RUN} --out disk/run"
            done = battery.run(place, line)
            full(battery, done, disk.path / "run")
            if done.code == 0:
                same_results(disk.path / "run", expected)
                return {"had_enough_space": 1}
            disk.grow()
            go_on(battery, place, disk.path / "run", line, expected)
        return {"full": 1}

    return attempt


def filled_disk(battery, expected):
    def attempt(place, draw):
        battery.data(place)
        with Disk(place, 4096) as disk:
            run = disk.path / "run"
            battery.run(place, f"{RUN} --steps {draw.randrange(8)} --out disk/run").well()
            before = (run / "last.safetensors").read_bytes()
            disk.fill()
            line = draw.choice(["train --resume disk/run --quiet", "data noise data --rate 0.5 --out disk/noisy", STUDY])
            done = battery.run(place, line)
            full(battery, done, run)
            require((run / "last.safetensors").read_bytes() == before, f"the checkpoint has changed after {done}")
            (disk.path / "filler").unlink()
            if "--resume" not in line:
                shutil.rmtree(disk.path / "study", ignore_errors=True)
                battery.run(place, line).well()
            go_on(battery, place, run, "", expected)
        return {"full": 1}

    return attempt


def failing_writes(battery, expected, i):
    """In place of a small disk: every write from the i-th on fails."""

    def attempt(place, draw):
        battery.data(place)
        line, run = f"{RUN} --out run", place / "run"
        variables = {"LD_PRELOAD": errors.library(battery), "BATTERY_CALL": "write", "BATTERY_AT": str(i)}
        done = battery.run(place, line, env={**variables, "BATTERY_STAYS": "1", "BATTERY_ERROR": str(errno.ENOSPC)})
        full(battery, done, run)
        if done.code != 0:
            go_on(battery, place, run, line, expected)
        return {"full": int(done.code != 0)}

    return attempt


def limited_files(battery, expected):
    """No file may be longer than `ulimit -f` says."""

    def attempt(place, draw):
        battery.data(place)
        blocks = draw.randrange(1, 700)
        line, run = f"{RUN} --out run", place / "run"
        prefix = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "limited"]
        done = battery.run(place, line, prefix=prefix)
        full(battery, done, run, mounted=False)
        if done.code != 0:
            go_on(battery, place, run, line, expected)
        return {"limited": 1}

    return attempt
