//! Promises of a run that is resumed: its data may move but not change, its settings may not, and what is lost is said.

mod common;

use common::{Done, Folder, command, files, metrics, samcore, steps_told};
use samcore::safetensors::{self, Metadata};
use samcore::train::checkpoint::{Checkpoint, signed};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// 96 images of 14x14 pixels, of which 3 batches make an epoch.
fn small(name: &str) -> Folder {
    Folder::with_images(name, 96, 40, 2)
}

const RUN: &str = "train --data data --model cnn --batch 32 --eval-batch 40 --lr 0.05 --epochs 3 --seed 7 --threads 2";

/// A run in `run` that was stopped in the middle of its second epoch.
fn stopped(folder: &Folder, more: &str) {
    samcore(&folder.0, &format!("{RUN} {more} --steps 5 --out run")).well();
}

#[track_caller]
fn says(done: &Done, words: &[&str]) {
    for word in words {
        assert!(done.stderr.contains(word), "'{word}' is not said: {}", done.stderr);
    }
}

/// That two checkpoints hold the same tensors, whatever their metadata say.
#[track_caller]
fn same_tensors(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|run| safetensors::read(&run.join("last.safetensors")).unwrap().tensors);
    assert!(a == b);
}

/// That `line` is refused with `code` and all `words`, and that the run in `run` stays as it is.
#[track_caller]
fn refused(folder: &Folder, line: &str, code: i32, words: &[&str]) {
    let before = files(&folder.path("run"));
    let done = samcore(&folder.0, line);
    assert_eq!(done.code, code, "{line}: {}", done.stderr);
    says(&done, words);
    assert!(files(&folder.path("run")) == before, "{line}: something has changed");
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn edit_metadata(path: &Path, change: impl Fn(&mut Metadata)) {
    let mut contents = safetensors::read(path).unwrap();
    change(&mut contents.metadata);
    safetensors::write(path, &contents.tensors, &signed(&contents.metadata, &contents.tensors)).unwrap();
}

#[test]
fn a_run_is_resumed_from_any_folder_and_its_data_may_move() {
    let folder = small("moved");
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    let unbroken = folder.path("unbroken");
    let run = folder.path("run");
    let start = || {
        let _ = fs::remove_dir_all(&run);
        stopped(&folder, "");
    };
    let bytes = |run: &Path| fs::read(run.join("last.safetensors")).unwrap();

    // From another folder, in which the path of the data leads nowhere, or to other data.
    for other in [false, true] {
        start();
        let elsewhere = folder.path(&format!("elsewhere-{other}"));
        fs::create_dir(&elsewhere).unwrap();
        if other {
            common::write_images(&elsewhere.join("data"), 64, 40, 2);
        }
        samcore(&elsewhere, &format!("train --resume {}", run.display())).well();
        assert!(bytes(&run) == bytes(&unbroken), "data of another folder");
    }

    // Spelt otherwise.
    for spelt in ["data/".to_string(), folder.path("data").display().to_string()] {
        start();
        samcore(&folder.0, &format!("train --resume run --data {spelt}")).well();
        same_tensors(&run, &unbroken);
    }

    start();
    fs::rename(folder.path("data"), folder.path("moved")).unwrap();
    refused(&folder, "train --resume run", 66, &["data", "if the data have moved, add --data DIR"]);
    samcore(&folder.0, "train --resume run --data moved --steps 6").well();
    // The new place is remembered.
    samcore(&folder.0, "train --resume run").well();
    same_tensors(&run, &unbroken);
    samcore(&folder.0, "eval run/last.safetensors").well();
}

#[test]
fn replaced_data_are_refused_by_the_part_that_differs() {
    let folder = small("replaced");
    let change = |file: &str| {
        let path = folder.path("data").join(file);
        let sound = fs::read(&path).unwrap();
        let mut other = sound.clone();
        // A label of another class that there is, or a pixel.
        let last = other.len() - 1;
        other[last] = if other[last] == 1 { 2 } else { 1 };
        fs::write(&path, other).unwrap();
        move || fs::write(&path, &sound).unwrap()
    };
    for settings in ["", "--label-noise 0.3"] {
        let _ = fs::remove_dir_all(folder.path("run"));
        stopped(&folder, settings);
        for (file, part) in [
            ("train-images-idx3-ubyte", "training images"),
            ("train-labels-idx1-ubyte", "training labels"),
            ("t10k-images-idx3-ubyte", "test images"),
            ("t10k-labels-idx1-ubyte", "test labels"),
        ] {
            let restore = change(file);
            let words = [&format!("data has other {part} than the run in run was trained with"), "--data DIR"];
            refused(&folder, "train --resume run", 65, &words);
            restore();
        }
        samcore(&folder.0, "train --resume run").well();
    }
    // A checkpoint of a version that recorded no hashes has only the shape of its images to go by.
    let _ = fs::remove_dir_all(folder.path("run"));
    stopped(&folder, "");
    edit_metadata(&folder.path("run/last.safetensors"), |metadata| {
        metadata.retain(|key, _| !key.ends_with("_sha256") && key != "samcore.settings");
    });
    let _restore = change("t10k-labels-idx1-ubyte");
    samcore(&folder.0, "train --resume run").well();
}

#[test]
fn predicted_labels_are_checked_and_need_no_more_the_checkpoint_they_came_from() {
    let folder = small("relabelled");
    samcore(&folder.0, &format!("{RUN} --out first")).well();
    stopped(&folder, "--relabel first/last.safetensors --init first/last.safetensors");
    fs::rename(folder.path("first"), folder.path("moved")).unwrap();
    let labels = folder.path("run/labels.idx1-ubyte");
    let sound = fs::read(&labels).unwrap();
    let mut other = sound.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&labels, other).unwrap();
    refused(&folder, "train --resume run", 65, &["run/labels.idx1-ubyte has other training labels"]);
    fs::write(&labels, sound).unwrap();
    samcore(&folder.0, "train --resume run").well();
}

#[test]
fn an_edited_config_is_refused_and_a_lost_one_restored() {
    let folder = small("config");
    samcore(&folder.0, &format!("{RUN} --opt sam --rho 0.1 --out unbroken")).well();
    stopped(&folder, "--opt sam --rho 0.1");
    let config = folder.path("run/config.toml");
    let sound = fs::read_to_string(&config).unwrap();
    for (from, to) in [("rho = 0.1", "rho = 0.2"), ("batch = 32", "batch = 16"), ("opt = \"sam\"", "opt = \"sgd\"")] {
        edit(&config, from, to);
        let message = format!("run/config.toml has {to}, but run/last.safetensors was made with {from}; put that back");
        refused(&folder, "train --resume run", 65, &[&message]);
        fs::write(&config, &sound).unwrap();
    }
    // A flipped bit in the recorded settings is a damaged checkpoint, not an edited config.
    let last = folder.path("run/last.safetensors");
    let checkpoint = fs::read(&last).unwrap();
    let at = checkpoint.windows(9).position(|window| window == b"rho = 0.1").unwrap();
    let mut damaged = checkpoint.clone();
    damaged[at + 8] ^= 1;
    fs::write(&last, damaged).unwrap();
    refused(&folder, "train --resume run", 65, &["run/last.safetensors", "it is damaged"]);
    fs::write(&last, checkpoint).unwrap();

    // Settings of the machine may change.
    edit(&config, "threads = 2", "threads = 1");
    fs::remove_file(&config).unwrap();
    let done = samcore(&folder.0, "train --resume run --threads 1").well();
    says(&done, &["run/config.toml was lost and is restored from the checkpoint"]);
    let read = |run: &str| fs::read(folder.path(run).join("last.safetensors")).unwrap();
    assert!(read("run") == read("unbroken"));
    assert!(fs::read_to_string(&config).unwrap().contains("rho = 0.1"));

    fs::remove_file(&config).unwrap();
    edit_metadata(&last, |metadata| assert!(metadata.remove("samcore.settings").is_some()));
    refused(&folder, "train --resume run", 66, &["run has no config.toml, and its checkpoint is of a version"]);
}

#[test]
fn a_constant_rate_lets_a_finished_run_become_longer_and_others_are_told_a_way() {
    let folder = small("longer");
    let line = RUN.replace("--epochs 3", "--schedule constant --val-fraction 0.3 --batch 32");
    samcore(&folder.0, &format!("{line} --epochs 4 --warmup 0.25 --out unbroken")).well();
    samcore(&folder.0, &format!("{line} --epochs 2 --warmup 0.5 --out run")).well();
    let again = samcore(&folder.0, "train --resume run").well();
    says(&again, &["nothing left to do: all 4 steps were done before; to train longer: samcore train --resume run"]);
    refused(&folder, "train --resume run --epochs 1", 2, &["--epochs 1 is fewer than the 2 of this run"]);
    refused(&folder, "train --resume run --epochs 4 --warmup 0.3", 2, &["--warmup cannot change on --resume"]);
    samcore(&folder.0, "train --resume run --epochs 4 --steps 5").well();
    samcore(&folder.0, "train --resume run").well();
    for name in ["last.safetensors", "steps.jsonl"] {
        let [a, b] = ["run", "unbroken"].map(|run| fs::read(folder.path(run).join(name)).unwrap());
        assert!(a == b, "{name}: as if it had been begun with 4 epochs and as long a warm-up");
    }

    let _ = fs::remove_dir_all(folder.path("run"));
    samcore(&folder.0, &format!("{RUN} --out run")).well();
    let done = samcore(&folder.0, "train --resume run --epochs 5");
    says(&done, &["--epochs cannot change on --resume: this run began with 3"]);
    let (_, way) = done.stderr.split_once("train longer from its weights: samcore ").unwrap();
    samcore(&folder.0, way.trim().replace("--epochs N", "--epochs 1").as_str()).well();
    assert!(folder.path("NEW/last.safetensors").exists());
}

#[test]
fn the_same_line_again_resumes_its_run_and_another_one_is_refused() {
    let folder = small("again");
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    samcore(&folder.0, &format!("{RUN} --steps 4 --out run")).well();
    let message = "run holds a run with --lr 0.05, not 0.1; resume it with '--resume run'";
    refused(&folder, &format!("{RUN} --lr 0.1 --out run"), 73, &[message]);
    refused(&folder, &format!("{RUN} --epochs 4 --out run"), 73, &["run holds a run with --epochs 3, not 4"]);
    samcore(&folder.0, &format!("{RUN} --threads 1 --out run")).well();
    let [a, b] = ["run", "unbroken"].map(|run| fs::read(folder.path(run).join("last.safetensors")).unwrap());
    assert!(a == b);
    fs::write(folder.path("data/notes.txt"), "").unwrap();
    samcore(&folder.0, &format!("{RUN} --out data")).refused(73, "data is not empty");
}

#[test]
fn lost_records_are_named_and_the_run_continues_from_its_checkpoint() {
    let folder = small("records");
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    let (run, [steps, csv]) = (folder.path("run"), ["run/steps.jsonl", "run/metrics.csv"].map(|f| folder.path(f)));
    let start = || {
        let _ = fs::remove_dir_all(&run);
        stopped(&folder, "");
    };
    start();
    let file = File::options().write(true).open(&steps).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let done = samcore(&folder.0, "train --resume run").well();
    says(&done, &["run/steps.jsonl has lost step 5, which the checkpoint includes"]);
    same_tensors(&run, &folder.path("unbroken"));
    assert_eq!((steps_told(&run), metrics(&run, "epoch")), (8, ["1", "2", "3"].map(String::from).to_vec()));

    start();
    fs::remove_file(&steps).unwrap();
    fs::remove_file(&csv).unwrap();
    let done = samcore(&folder.0, "train --resume run").well();
    says(&done, &["run/steps.jsonl has lost steps 1 to 5", "run/metrics.csv has lost epoch 1"]);
    same_tensors(&run, &folder.path("unbroken"));
    assert_eq!((steps_told(&run), metrics(&run, "epoch")), (4, ["2", "3"].map(String::from).to_vec()));

    // Whatever else is left of a run that has no checkpoint, it is not begun again by itself.
    start();
    fs::remove_file(folder.path("run/last.safetensors")).unwrap();
    for file in ["steps.jsonl", "metrics.csv", "best.safetensors", "curves.svg"] {
        refused(&folder, "train --resume run", 66, &["run has no checkpoint to resume"]);
        fs::remove_file(run.join(file)).unwrap();
    }
    let done = samcore(&folder.0, "train --resume run").well();
    says(&done, &["run holds no step of a run yet, so it begins at step 1"]);
}

#[test]
fn best_is_there_after_the_first_epoch_and_checked_on_resume() {
    let folder = small("best");
    let best = folder.path("run/best.safetensors");
    for (damage, words) in [("missing", "run/best.safetensors, of epoch"), ("flipped", "it is damaged")] {
        let _ = fs::remove_dir_all(folder.path("run"));
        stopped(&folder, "");
        let mut bytes = fs::read(&best).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        if damage == "missing" {
            fs::remove_file(&best).unwrap()
        } else {
            fs::write(&best, bytes).unwrap()
        }
        let done = samcore(&folder.0, "train --resume run --json").well();
        says(&done, &[words, "the best of the epochs that are left takes its place"]);
        let epoch = done.json()["best_epoch"].as_u64().unwrap();
        assert_eq!(Checkpoint::open(&best).unwrap().position.best_epoch, epoch);
        assert!(epoch > 1);
    }
    fs::remove_file(&best).unwrap();
    let done = samcore(&folder.0, "train --resume run").well();
    says(&done, &["run/best.safetensors, of epoch", "is missing; no epoch is left"]);

    // What cannot be read is not given up for that.
    fs::remove_dir_all(folder.path("run")).unwrap();
    stopped(&folder, "");
    let kept = fs::read(&best).unwrap();
    fs::remove_file(&best).unwrap();
    fs::create_dir(&best).unwrap();
    let done = samcore(&folder.0, "train --resume run --json");
    assert!([66, 74].contains(&done.code), "{}", done.stderr);
    says(&done, &["run/best.safetensors", "without this file the run can be resumed too"]);
    fs::remove_dir(&best).unwrap();
    fs::write(&best, kept).unwrap();
    samcore(&folder.0, "train --resume run").well();

    // Tested on a class that it never sees.
    let labels = |name: &str, count: usize, label: u8| {
        fs::write(folder.path("data").join(name), common::idx(&[count as u32], &vec![label; count])).unwrap();
    };
    labels("train-labels-idx1-ubyte", 96, 0);
    labels("t10k-labels-idx1-ubyte", 40, 1);
    samcore(&folder.0, &format!("{RUN} --lr 0.001 --out none")).well();
    let accuracies = metrics(&folder.path("none"), "test_accuracy");
    assert!(folder.path("none/best.safetensors").exists(), "{accuracies:?}");
}

#[test]
fn what_is_given_to_resume_is_recognised() {
    let folder = small("given");
    samcore(&folder.0, &format!("{RUN} --bootstrap --epochs 1 --out both")).well();
    let message = "both is not the folder of a run: it has no config.toml; it holds 2 runs, such as both/first; resume";
    let done = samcore(&folder.0, "train --resume both");
    assert!(done.code == 66 && done.stderr.contains(message), "{}", done.stderr);
    let (_, line) = done.stderr.split_once("resume what is there with: samcore ").unwrap();
    let again = samcore(&folder.0, line.trim()).well();
    assert_eq!(again.stderr.matches("nothing left to do").count(), 2, "{}", again.stderr);
    // The two runs may be given by another path.
    let absolute = folder.path("both").display().to_string();
    let line = format!("{RUN} --bootstrap --epochs 1 --out {absolute}");
    samcore(&folder.0, &line).well();
    samcore(&folder.0, "train --resume both/second/last.safetensors").well();

    fs::create_dir(folder.path("comparison")).unwrap();
    fs::write(folder.path("comparison/compare.toml"), "").unwrap();
    samcore(&folder.0, "train --resume comparison").refused(66, "samcore compare --resume comparison");
}

/// Runs `line`, which must end within a minute: what opens a pipe would wait for ever.
#[track_caller]
fn ends(folder: &Folder, line: &str) -> Done {
    let words = line.split_whitespace().collect::<Vec<_>>();
    let mut child = command(&folder.0, &words).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{line} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Done::of(child.wait_with_output().unwrap())
}

#[test]
fn files_of_a_run_that_are_links_or_pipes_are_refused_before_anything_is_written() {
    let folder = small("irregular");
    stopped(&folder, "");
    let target = folder.path("target");
    for name in [".lock", "config.toml", "metrics.csv", "steps.jsonl"] {
        let (path, aside) = (folder.path("run").join(name), folder.path("aside"));
        fs::rename(&path, &aside).unwrap();
        let others = |left_out: &str| {
            let names = ["config.toml", "last.safetensors", "metrics.csv", "steps.jsonl"];
            let others = names.into_iter().filter(|other| *other != left_out);
            others.map(|other| fs::read(folder.path("run").join(other)).unwrap()).collect::<Vec<_>>()
        };
        let before = others(name);

        fs::copy(&aside, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let linked = fs::read(&target).unwrap();
        let done = ends(&folder, "train --resume run");
        assert_eq!(done.code, 66, "{name}: {}", done.stderr);
        says(&done, &[&format!("run/{name} is a symbolic link")]);
        assert!(fs::read(&target).unwrap() == linked && others(name) == before, "{name}");
        fs::remove_file(&path).unwrap();

        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let done = ends(&folder, "train --resume run");
        assert_eq!(done.code, 66, "{name}: {}", done.stderr);
        says(&done, &[&format!("run/{name} is no regular file")]);
        assert!(others(name) == before, "{name}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    samcore(&folder.0, "train --resume run").well();
}
