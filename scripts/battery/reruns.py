"""Reruns: the same command again, on other numbers of threads, and in parts."""
import re

from trial import Try, require, results, same_results

PROMISE = """The same command gives the same bits, whatever the number of threads, and if it is stopped on the way and goes on."""
QUICK = 14
RUN = "train --data data --model cnn --batch 8 --epochs 2 --lr 0.05 --quiet"
SETTINGS = {
    "plain": "",
    "noise": "--label-noise 0.4 --val-fraction 0.25",
    "augmented": "--crop 2 --flip --cutout 3 --mixup 0.3",
    "random": "--dropout 0.3 --loss reed-soft",
    "averaged": "--swa 0.5 --ema 0.9",
    "bf16": "--dtype bf16",
    "parts": "--accumulate 2 --clip 1 --weight-decay 0.01",
}
THREADS = (2, 3, 5)


def tries(battery, folder):
    battery.data(folder)
    unknown = battery.run(folder, "train --opt no-such-optimizer")
    optimizers = re.search(r"known: (.*)", unknown.err)
    require(optimizers, f"optimizers are not listed: {unknown}")
    return [Try(f"{opt}-{name}", again(battery, f"{RUN} --opt {opt} {flags}"))
            for opt in optimizers[1].strip().split(", ") for name, flags in SETTINGS.items()]


def again(battery, line):
    def attempt(place, draw):
        battery.data(place)
        done = battery.run(place, f"{line} --threads 1 --out once")
        if done.code == 2:
            # Some optimizers have no such setting.
            battery.answered(done)
            return {"refused_settings": 1}
        done.well()
        expected = results(place / "once")
        battery.run(place, f"{line} --threads {draw.choice(THREADS)} --out twice").well()
        same_results(place / "twice", expected)
        battery.run(place, f"{line} --threads {draw.choice(THREADS)} --steps {draw.randrange(8)} --out parts").well()
        battery.run(place, "train --resume parts --quiet").well()
        same_results(place / "parts", expected)
        return {"reruns": 2}

    return attempt
