//! Promises of a run's course: the same bits however often it is stopped, killed and resumed, and on any number of threads.

mod common;
#[path = "train/evaluations.rs"]
mod evaluations;
#[path = "train/stall.rs"]
mod stall;

use common::{Done, Folder, command, files, metrics, samcore, send, start, steps_told, wait_until};
use samcore::optim::OPTIMIZERS;
use samcore::train::checkpoint::Checkpoint;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// 220 images of 14x14 pixels, of which 6 batches (5 with validation images held out) make an epoch.
fn small(name: &str) -> Folder {
    Folder::with_images(name, 220, 90, 2)
}

const COMMON: &str = "train --data data --model cnn --batch 32 --eval-batch 64 --seed 7";
const SGD: &str = "--opt sgd --lr 0.05 --epochs 3";
const SAM: &str =
    "--opt sam --rho 0.1 --lr 0.05 --epochs 3 --val-fraction 0.2 --dropout 0.3 --label-smoothing 0.1 --crop 2 --clip 2";

const DIVIDED: &str = "--opt sam --rho 0.1 --lr 0.05 --epochs 3 --m 16 --accumulate 4 --freeze conv1,bn1 --head-lr 0.01 \
                       --ema 0.9";
/// One run of each optimizer that remembers more than SGD does, or has several kinds of steps, and of averaging.
const OTHERS: [(&str, &str); 6] = [
    ("f-sam", "--opt f-sam --m 16"),
    ("vasso", "--opt vasso"),
    ("looksam", "--opt looksam --every 4"),
    ("sam-every", "--opt sam --every 2"),
    ("gsam", "--opt gsam --rho-min 0.02"),
    ("swa", "--opt asam --swa 0.5 --swa-lr 0.02 --l2-in-loss"),
];
const BF16: &str = "--opt sam --rho 0.1 --lr 0.05 --epochs 3 --dtype bf16 --dropout 0.3 --ema 0.9 --device cpu";
/// Every setting whose draws on the host are new in each epoch or step.
const AUGMENTED: &str =
    "--opt sam --rho 0.1 --lr 0.05 --epochs 3 --val-fraction 0.2 --augment aa --cutout 5 --mixup 0.5 --m 16";

/// Results of a run. At the end of an epoch nothing in these files depends on time, so they are equal to the byte.
const RESULTS: [&str; 3] = ["last.safetensors", "best.safetensors", "steps.jsonl"];
/// Columns of metrics.csv that tell time.
const TIMES: [&str; 3] = ["seconds", "images_per_s", "waited"];

/// Checks that two runs have equal results: weights, statistics, momentum, metadata, records.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    for name in RESULTS {
        let differs = fs::read(a.join(name)).unwrap() != fs::read(b.join(name)).unwrap();
        assert!(!differs, "{name} of {} and {}", a.display(), b.display());
    }
    let header = |run: &Path| {
        let text = fs::read_to_string(run.join("metrics.csv")).unwrap();
        text.lines().next().unwrap().split(',').map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(header(a), header(b));
    for column in header(a).iter().filter(|name| !TIMES.contains(&name.as_str())) {
        assert_eq!(metrics(a, column), metrics(b, column), "{column} of {} and {}", a.display(), b.display());
    }
}

/// The names of all files that a whole run leaves.
const WHOLE: [&str; 8] = [
    ".lock",
    "best.safetensors",
    "config.toml",
    "curves.svg",
    "env.json",
    "last.safetensors",
    "metrics.csv",
    "steps.jsonl",
];

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_iter().map(|f| f.0).collect()
}

#[test]
fn a_run_comes_to_the_same_bits_on_any_number_of_threads_and_from_its_own_config() {
    let folder = small("bits");
    for (kind, settings) in [("sgd", SGD), ("sam", SAM), ("divided", DIVIDED), ("bf16", BF16), ("augmented", AUGMENTED)]
    {
        let runs = [1, 2, 3].map(|threads| (threads, folder.path(&format!("{kind}{threads}"))));
        for (threads, run) in &runs {
            let line = format!("{COMMON} {settings} --threads {threads} --out {}", run.display());
            samcore(&folder.0, &line).well();
            assert_same(run, &runs[0].1);
        }
        let again = folder.path(&format!("{kind}-again"));
        let config = runs[0].1.join("config.toml");
        let line = format!("train --config {} --threads 2 --out {}", config.display(), again.display());
        samcore(&folder.0, &line).well();
        assert_same(&again, &runs[0].1);
        assert_eq!(names(&again), WHOLE);
        let other_seed = folder.path(&format!("{kind}-seed"));
        let line = format!("{COMMON} {settings} --seed 8 --out {}", other_seed.display());
        samcore(&folder.0, &line).well();
        assert_ne!(fs::read(other_seed.join("steps.jsonl")).unwrap(), fs::read(again.join("steps.jsonl")).unwrap());
    }
}

#[test]
fn a_run_that_is_stopped_and_resumed_comes_to_the_same_bits_as_one_that_is_not() {
    let folder = small("resume");
    for (kind, settings, per_epoch) in
        [("sgd", SGD, 6), ("sam", SAM, 5), ("divided", DIVIDED, 6), ("bf16", BF16, 6), ("augmented", AUGMENTED, 5)]
    {
        let unbroken = folder.path(kind);
        samcore(&folder.0, &format!("{COMMON} {settings} --out {}", unbroken.display())).well();
        // After the first step, at an epoch's end, in its middle, in the last epoch; once and twice.
        for stops in [vec![1], vec![per_epoch], vec![per_epoch + 2], vec![3, 2 * per_epoch + 1], vec![1, per_epoch]] {
            let run = folder.path(&format!("{kind}-{stops:?}").replace(", ", "-"));
            let mut line = format!("{COMMON} {settings} --threads 2 --out {}", run.display());
            for (i, stop) in stops.iter().enumerate() {
                let done = samcore(&folder.0, &format!("{line} --steps {stop}")).well();
                assert!(
                    done.stderr.contains(&format!("ended after step {stop} of {}", 3 * per_epoch)),
                    "{}",
                    done.stderr
                );
                assert_eq!(Checkpoint::open(&run.join("last.safetensors")).unwrap().position.step, *stop);
                assert_eq!(steps_told(&run), *stop as usize);
                line = format!("train --resume {} --threads {}", run.display(), i + 1);
            }
            let done = samcore(&folder.0, &line).well();
            let last = stops.last().unwrap();
            assert!(done.stderr.contains(&format!("resuming after step {last}")), "{}", done.stderr);
            assert_same(&run, &unbroken);
            assert_eq!(names(&run), WHOLE);
        }
    }
}

#[test]
fn every_kind_of_optimizer_goes_on_to_the_same_bits() {
    let folder = small("kinds");
    for (name, settings) in OTHERS {
        let line = format!("{COMMON} {settings} --lr 0.05 --epochs 3");
        samcore(&folder.0, &format!("{line} --threads 1 --out {name}")).well();
        // In an epoch's middle and at its end.
        let broken = format!("{name}-broken");
        samcore(&folder.0, &format!("{line} --steps 9 --out {broken}")).well();
        samcore(&folder.0, &format!("train --resume {broken} --steps 12")).well();
        samcore(&folder.0, &format!("train --resume {broken}")).well();
        assert_same(&folder.path(&broken), &folder.path(name));
    }
    // The rate of averaging, from the middle of the run on; what is averaged is what best holds.
    assert_eq!(metrics(&folder.path("swa"), "lr")[1..], ["0.02", "0.02"]);
    let gains = metrics(&folder.path("sam-every"), "sharpness_gain");
    assert!(gains.iter().all(|gain| gain.parse::<f64>().is_ok_and(f64::is_finite)), "{gains:?}");
}

#[test]
fn with_a_running_average_what_is_evaluated_is_what_best_holds() {
    let folder = small("average");
    samcore(&folder.0, &format!("{COMMON} {DIVIDED} --out run")).well();
    let lines = ["run/best.safetensors", "run/last.safetensors", "run/last.safetensors --weights raw"];
    let [best, last, raw] = lines.map(|line| {
        let done = samcore(&folder.0, &format!("eval {line} --batch 64 --json")).well();
        format!("{:.6}", done.json()["loss"].as_f64().unwrap())
    });
    let (accuracies, losses) =
        (metrics(&folder.path("run"), "test_accuracy"), metrics(&folder.path("run"), "test_loss"));
    let value = |epoch: &usize| accuracies[*epoch].parse::<f64>().unwrap();
    // The first of equals.
    let epoch = (0..3).rev().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap();
    assert_eq!(best, losses[epoch]);
    assert_eq!(last, losses[2]);
    // The file to resume from has the weights themselves in the model's place.
    assert_ne!(raw, losses[2]);
}

/// Weights and their running average are evaluated as they are after rounding.
#[test]
fn in_bf16_a_run_learns_and_is_judged_as_in_f32() {
    let folder = small("bf16");
    for average in ["", "--ema 0.8"] {
        let [f32, bf16] = ["f32", "bf16"].map(|dtype| {
            let out = format!("{dtype}{}", average.len());
            let settings = format!("--opt sam --rho 0.1 --lr 0.05 --epochs 3 --device cpu --dtype {dtype} {average}");
            samcore(&folder.0, &format!("{COMMON} {settings} --out {out}")).well();
            let env = fs::read_to_string(folder.path(&out).join("env.json")).unwrap();
            assert_eq!(env.contains(" bf16\""), dtype == "bf16", "{env}");
            ["train_loss", "test_loss"].map(|name| metrics(&folder.path(&out), name))
        });
        for (a, b) in f32.iter().flatten().zip(bf16.iter().flatten()) {
            let [a, b] = [a, b].map(|loss| loss.parse::<f64>().unwrap());
            assert!((a / b - 1.0).abs() < 0.05, "{f32:?} and {bf16:?} {average}");
        }
    }
}

#[test]
fn a_finished_run_says_so_and_gives_its_result_again() {
    let folder = small("finished");
    let first = samcore(&folder.0, &format!("{COMMON} {SGD} --out run --json")).well();
    let before = files(&folder.path("run"));
    let again = samcore(&folder.0, "train --resume run --json").well();
    assert!(again.stderr.contains("nothing left to do: all 18 steps were done before"), "{}", again.stderr);
    assert!(files(&folder.path("run")) == before, "nothing is written");
    let (first, again) = (first.json(), again.json());
    for key in ["folder", "steps", "epochs", "complete", "test_loss", "test_accuracy", "best_accuracy", "best_epoch"] {
        assert!(!first[key].is_null() && first[key] == again[key], "{key}: {} {}", first[key], again[key]);
    }
    assert_eq!(
        metrics(&folder.path("run"), "test_accuracy")[2],
        format!("{:.6}", again["test_accuracy"].as_f64().unwrap())
    );
    let less = samcore(&folder.0, "train --resume run --steps 4 --json").well();
    assert_eq!(less.json()["steps"], 18, "{}", less.stderr);
}

/// Starts `line` with its run in `out`, sends `signal` when two steps are on the disk and `share` of the time of another has
/// passed, and runs the very line that the message gives.
#[track_caller]
fn stop_and_go_on(folder: &Folder, line: &str, out: &str, signal: (&str, &str), share: f64) {
    let run = folder.path(out);
    let words = line.split_whitespace().chain(["--out", out]).collect::<Vec<_>>();
    let mut command = command(&folder.0, &words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the first step", || steps_told(&run) >= 1);
    let first = Instant::now();
    wait_until("the second step", || steps_told(&run) >= 2);
    std::thread::sleep(first.elapsed().mul_f64(share));
    send(signal.0, &child);
    let done = Done::of(child.wait_with_output().unwrap());
    let (_, line) = done.stderr.split_once("saved; resume with: ").unwrap_or_else(|| panic!("{}", done.stderr));
    let steps = steps_told(&run);
    let message = format!("samcore: stopped by {} after step {steps} of ", signal.1);
    assert!(done.code == 75 && done.stderr.contains(&message), "{} {}", done.code, done.stderr);
    assert_eq!(Checkpoint::open(&run.join("last.safetensors")).unwrap().position.step, steps as u64);
    let program = Path::new(env!("CARGO_BIN_EXE_samcore")).parent().unwrap().display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let resumed = Command::new("sh").args(["-c", line]).current_dir(&folder.0).env("PATH", path).output().unwrap();
    Done::of(resumed).well();
}

const TERM: (&str, &str) = ("TERM", "SIGTERM");
const INT: (&str, &str) = ("INT", "SIGINT (Ctrl-C)");
const USR1: (&str, &str) = ("USR1", "SIGUSR1");

#[test]
fn signals_save_and_the_line_in_the_message_goes_on() {
    let folder = small("signals");
    let line = format!("{COMMON} {} --checkpoint-steps 2", SGD.replace("--epochs 3", "--epochs 12"));
    samcore(&folder.0, &format!("{line} --out unbroken")).well();
    for (signal, out) in [(TERM, "run"), (INT, "it's \"one\" $run"), (USR1, "limit")] {
        stop_and_go_on(&folder, &line, out, signal, 0.0);
        assert_same(&folder.path(out), &folder.path("unbroken"));
    }
}

/// With one batch an epoch every step is an epoch's last one; most of its time goes into the step.
#[test]
fn a_signal_in_the_last_step_of_an_epoch_does_not_lose_the_row_of_the_epoch() {
    let folder = Folder::with_images("last-step", 220, 40, 1);
    let line = format!("{COMMON} {} --batch 220", SGD.replace("--epochs 3", "--epochs 6"));
    samcore(&folder.0, &format!("{line} --out unbroken")).well();
    for share in [0.3, 0.6] {
        let out = format!("run-{share}");
        stop_and_go_on(&folder, &line, &out, TERM, share);
        assert_same(&folder.path(&out), &folder.path("unbroken"));
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_what_was_saved_goes_on() {
    let folder = Folder::with_images("second", 220, 20, 1);
    let line = format!("{COMMON} {SAM} --epochs 2 --batch 160");
    samcore(&folder.0, &format!("{line} --out unbroken")).well();
    let run = folder.path("run");
    let mut child = start(&folder.0, &format!("{line} --out run"));
    wait_until("the first checkpoint", || run.join("last.safetensors").exists());
    // As fast as they come, for a step may end between two of them.
    wait_until("the end", || {
        send("INT", &child);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(130));
    samcore(&folder.0, "train --resume run").well();
    assert_same(&run, &folder.path("unbroken"));
    assert_eq!(names(&run), WHOLE);
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint_and_leaves_nothing_stray() {
    let folder = small("killed");
    samcore(&folder.0, &format!("{COMMON} {SAM} --out unbroken")).well();
    let run = folder.path("run");
    let mut line = format!("{COMMON} {SAM} --checkpoint-steps 1 --out run");
    for steps in [1, 4, 5, 9] {
        let mut child = start(&folder.0, &line);
        wait_until("some steps", || steps_told(&run) >= steps);
        child.kill().unwrap();
        child.wait().unwrap();
        line = "train --resume run".into();
    }
    // Torn files, as a kill amid a write leaves them.
    fs::write(run.join(".last.safetensors.4242.7.tmp"), "torn").unwrap();
    let mut torn = fs::read(run.join("steps.jsonl")).unwrap();
    torn.extend(b"{\"step\":9999,\"ep");
    fs::write(run.join("steps.jsonl"), torn).unwrap();
    samcore(&folder.0, &line).well();
    assert_same(&run, &folder.path("unbroken"));
    assert_eq!(names(&run), WHOLE);
}

#[test]
fn a_run_folder_belongs_to_one_process_and_one_run() {
    let folder = small("folder");
    let long = format!("{COMMON} {SAM} --epochs 8");
    samcore(&folder.0, &format!("{long} --out unbroken")).well();
    let run = folder.path("run");
    let mut child = start(&folder.0, &format!("{long} --out run --checkpoint-steps 1"));
    wait_until("the first steps", || steps_told(&run) >= 1);
    samcore(&folder.0, "train --resume run").refused(73, "run is in use by another samcore process");
    samcore(&folder.0, &format!("{COMMON} --out run")).refused(73, "run is in use by another samcore process");
    assert!(child.try_wait().unwrap().is_none(), "the run went on meanwhile");
    Done::of(child.wait_with_output().unwrap()).well();
    assert_same(&run, &folder.path("unbroken"));

    let before = files(&run);
    samcore(&folder.0, &format!("{COMMON} --out run")).refused(
        73,
        "run holds a run with --opt sam, not sgd; resume it with '--resume run', or give --out another folder",
    );
    samcore(&folder.0, "train --resume run --lr 0.3")
        .refused(2, "--lr cannot change on --resume: this run began with 0.05");
    assert!(files(&run) == before, "nothing has changed");
}

#[test]
fn a_run_that_diverges_names_step_and_call_and_keeps_its_last_checkpoint() {
    let folder = small("diverges");
    for (optimizer, checkpoint_steps) in [("sgd", 0), ("sam", 1)] {
        let line =
            format!("{COMMON} --opt {optimizer} --lr 1e30 --checkpoint-steps {checkpoint_steps} --out {optimizer}");
        let done = samcore(&folder.0, &line);
        assert_eq!(done.code, 76, "{}", done.stderr);
        let told = done.stderr.split_once("not finite in step ").map(|(_, rest)| rest.split_once(" of 48, ")).unwrap();
        let (step, rest) = told.unwrap_or_else(|| panic!("{}", done.stderr));
        assert!(rest.starts_with("first in the call '") && rest.contains("last.safetensors"), "{rest}");
        let run = folder.path(optimizer);
        assert_eq!(steps_told(&run), step.parse::<usize>().unwrap() - 1);
        let saved = samcore(&folder.0, &format!("eval {optimizer}/last.safetensors --json"));
        let loss = saved.well().json()["loss"].as_f64().unwrap();
        if checkpoint_steps == 0 {
            assert!((2.0..3.0).contains(&loss), "untrained weights have a loss near ln 10, not {loss}");
        }
    }
}

/// A step's loss may be finite and the weights that it makes not: they replace no checkpoint and are no success.
#[test]
fn weights_without_a_finite_loss_are_never_saved() {
    let folder = small("unsound");
    for (name, settings) in [
        ("rate", "--lr 1e38 --warmup 0 --checkpoint-steps 1"),
        ("decay", "--lr 1 --weight-decay 1e37 --warmup 0 --checkpoint-steps 1 --opt msam"),
        ("last", "--lr 1e38 --warmup 0 --steps 1"),
        // Each epoch is a step, and the first two are not evaluated.
        ("unevaluated", "--lr 1e38 --warmup 0 --batch 220 --eval-every 3"),
        ("average", "--lr 1e38 --warmup 0 --checkpoint-steps 1 --ema 0.9 --opt sam"),
    ] {
        let done = samcore(&folder.0, &format!("{COMMON} {settings} --out {name}"));
        assert_eq!(done.code, 76, "{name}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{}", done.stdout);
        for words in ["keeps the weights of step", "--config ", "/config.toml --lr "] {
            assert!(done.stderr.contains(words), "{name}: {}", done.stderr);
        }
        // The search names a call that computes, not one that copies what was infinite already.
        assert!(!done.stderr.contains("call 'set'"), "{name}: {}", done.stderr);
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path(name).join("diverged.json")).unwrap()).unwrap();
        assert!(record["step"].as_u64() <= record["steps"].as_u64() && record["culprit"].is_string(), "{record}");
        let saved = samcore(&folder.0, &format!("eval {name}/last.safetensors --json")).well().json();
        assert!(saved["loss"].as_f64().unwrap().is_finite() && saved["step"] != 48, "{saved}");
    }
}

#[test]
fn fitted_data_train_through_with_every_optimizer_and_steps_are_counted_once() {
    let folder = small("fitted");
    let labels = folder.path("data/train-labels-idx1-ubyte");
    let mut bytes = fs::read(&labels).unwrap();
    bytes[8..].fill(3);
    fs::write(&labels, bytes).unwrap();
    for opt in ["asam", "sam-on", "looksam"] {
        let line = format!("train --data data --model cnn --batch 32 --opt {opt} --lr 1 --momentum 0 --weight-decay 0");
        let done = samcore(&folder.0, &format!("{line} --warmup 0 --epochs 3 --out {opt} --json")).well().json();
        assert!(done["dropped"].as_u64().unwrap() <= done["steps"].as_u64().unwrap(), "{opt}: {done}");
    }
}

#[test]
fn a_run_that_is_killed_before_its_first_checkpoint_begins_on_resume() {
    let folder = small("unborn");
    let line = format!("{COMMON} {SGD} --epochs 1");
    samcore(&folder.0, &format!("{line} --out unbroken")).well();
    let begun = fs::read(folder.path("unbroken/config.toml")).unwrap();
    // In the order in which a run makes its files, the newest perhaps unfinished.
    let made: [(&str, &[u8]); 5] =
        [(".lock", b""), ("config.toml", &begun), ("env.json", b"{}"), ("metrics.csv", b"epo"), ("steps.jsonl", b"")];
    for count in 2..=made.len() {
        let run = folder.path(&format!("run{count}"));
        fs::create_dir(&run).unwrap();
        made[..count].iter().for_each(|(name, content)| fs::write(run.join(name), content).unwrap());
        fs::write(run.join(".last.safetensors.4242.0.tmp"), "torn").unwrap();
        samcore(&folder.0, &format!("train --resume run{count}")).well();
        assert_same(&run, &folder.path("unbroken"));
        assert_eq!(names(&run), WHOLE);
    }
}

#[test]
fn every_optimizer_trains_on_mixed_images() {
    let folder = Folder::with_images("mixed", 16, 8, 4);
    for name in OPTIMIZERS.iter().map(|row| row.name) {
        let line = "train --data data --model cnn --batch 8 --mixup 0.3 --steps 1 --quiet";
        samcore(&folder.0, &format!("{line} --opt {name} --out {name}")).well();
    }
}
