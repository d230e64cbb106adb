"""Signals: SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 at random moments, once or twice, and under nohup."""
import signal
import subprocess
import time

from trial import TIMEOUT, Broken, Done, Try, checkpoint_step, recorded_steps, require, results, same_results
from trial import signal_name, strays, text

PROMISE = """A signal that asks for an end saves and ends with 75; not a step is lost, and the run that goes on ends with the bits of an
unbroken one. A second Ctrl-C ends at once with 130 and loses no more than lies between two checkpoints. Under nohup a closed
terminal (SIGHUP) changes nothing."""
QUICK = 24
TRIES = 20
STEPS = 3
RUN = f"train --data data --model cnn --opt sam --lr 0.05 --batch 4 --epochs 4 --checkpoint-steps {STEPS} --threads 1"
SAVING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def tries(battery, folder):
    battery.data(folder, train=64, test=32, stride=2)
    begun = time.monotonic()
    battery.run(folder, f"{RUN} --out run").well()
    whole, expected = time.monotonic() - begun, results(folder / "run")
    made = []
    for number in SAVING:
        name = signal_name(number).lower()
        made += [Try(f"{name}-{i}", once(battery, number, whole, expected)) for i in range(1, TRIES + 1)]
        made += [Try(f"{name}-twice-{i}", twice(battery, number, whole, expected)) for i in range(1, TRIES // 2 + 1)]
    made += [Try(f"nohup-{i}", nohup(battery, whole, expected)) for i in range(1, TRIES // 2 + 1)]
    return made


def start(battery, folder, prefix=()):
    battery.data(folder, train=64, test=32, stride=2)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [*prefix, *battery.command(f"{RUN} --out run")]
    return subprocess.Popen(command, cwd=folder, env=battery.environment(), **streams)


def end(process):
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Broken("it hangs after the signal") from None
    return Done("train", process.returncode, text(out), text(err))


def go_on(battery, folder, expected):
    run = folder / "run"
    begun = (run / "config.toml").exists()
    battery.run(folder, "train --resume run --quiet" if begun else f"{RUN} --quiet --out run").well()
    same_results(run, expected)


def saved(folder, done):
    """Checks an end with 75: nothing that was done is lost."""
    run = folder / "run"
    require("panicked" not in done.err and not strays(run), f"{strays(run)}: {done}")
    steps, step = recorded_steps(run), checkpoint_step(run)
    require(steps == step, f"{steps} steps are on record, the checkpoint is of step {step}: {done}")


def once(battery, number, whole, expected):
    def attempt(place, draw):
        process = start(battery, place)
        time.sleep(draw.uniform(0, whole))
        process.send_signal(number)
        done = end(process)
        if done.code == 0:
            same_results(place / "run", expected)
            return {"done_before": 1}
        if done.code == -number:
            # Only before the first step, when there is nothing to save.
            steps = recorded_steps(place / "run") if (place / "run").exists() else 0
            saved_step = checkpoint_step(place / "run")
            require(steps == 0, f"{signal_name(number)} killed it after step {steps}; the checkpoint is of step {saved_step}")
        else:
            require(done.code == 75, str(done))
            saved(place, done)
        go_on(battery, place, expected)
        return {"saved" if done.code == 75 else "before_the_first_step": 1}

    return attempt


def twice(battery, number, whole, expected):
    def attempt(place, draw):
        process = start(battery, place)
        time.sleep(draw.uniform(whole / 4, whole))
        process.send_signal(number)
        time.sleep(draw.choice([0, 0.001, 0.01]))
        process.send_signal(number)
        done = end(process)
        if done.code == 0:
            same_results(place / "run", expected)
            return {"done_before": 1}
        if done.code == 75:
            saved(place, done)
        else:
            at_once = {130} if number == signal.SIGINT else set()
            run = place / "run"
            steps = recorded_steps(run) if run.exists() else 0
            require(done.code in at_once or (done.code == -number and steps == 0), str(done))
            require(steps - checkpoint_step(run) <= STEPS, f"{steps - checkpoint_step(run)} steps are lost")
        go_on(battery, place, expected)
        return {"saved" if done.code == 75 else "at_once": 1}

    return attempt


def nohup(battery, whole, expected):
    def attempt(place, draw):
        process = start(battery, place, prefix=["nohup"])
        # nohup itself must have begun to ignore it.
        time.sleep(0.2 + draw.uniform(0, whole))
        process.send_signal(signal.SIGHUP)
        done = end(process)
        require(done.code == 0, str(done))
        same_results(place / "run", expected)
        return {"under_nohup": 1}

    return attempt
