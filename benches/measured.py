"""What the scripts that measure share: where and from what a result comes, and how it spreads."""
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build():
    """Builds the release binary, which the scripts run."""
    subprocess.run(["cargo", "build", "--release", "--locked", "-q"], cwd=ROOT, check=True)


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figures(spread, digits):
    """Median and extremes: 1.02 (0.99 to 1.04)."""
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f} to {spread['max']:.{digits}f})"


def provenance(script):
    """Date, commit and machine of a result of that script."""
    with open("/proc/cpuinfo") as listing:
        models = [line.split(":", 1)[1].strip() for line in listing if line.startswith("model name")]
    return {
        "script": script,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": {"cpu": models[0] if models else "unknown", "cores": os.cpu_count(), "os": platform.platform()},
    }


def output(*command):
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()


class Others:
    """Watches how much of the machine other processes take: figures of a machine that is not idle otherwise say little."""

    def __init__(self):
        self.begun = self.now()

    @staticmethod
    def now():
        """Seconds gone by, busy or taken by a hypervisor on all cores, and used by this process and the children it has
        waited for."""
        with open("/proc/stat") as listing:
            user, nice, system, _, _, irq, softirq, steal = (int(n) for n in listing.readline().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])

    def share(self):
        """Of the machine's cores, from 0 to 1, since the watch began."""
        elapsed, busy, own = (now - begun for now, begun in zip(self.now(), self.begun))
        return max(0.0, round((busy - own) / (elapsed * os.cpu_count()), 3))


def disturbed(shares):
    """A warning where others took more than a twentieth of the machine, or nothing."""
    worst = max(shares, default=0)
    return f"other processes took up to {100 * worst:.0f} % of the machine meanwhile: not to be published\n" if worst > 0.05 else ""
