//! Promises of training on wrong labels: the same noise in memory as on the disk, a model that sees through it, labels that
//! predictions correct, and the same bits however often a run is stopped.

mod common;

use common::{Folder, command, metrics, samcore};
use std::fs;
use std::path::Path;

const COMMON: &str =
    "train --data data --model cnn --batch 32 --eval-batch 64 --seed 7 --lr 0.05 --epochs 2 --json --quiet";
const NOISE: &str = "--label-noise 0.3";

fn small(name: &str) -> Folder {
    Folder::with_images(name, 220, 90, 2)
}

fn content(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(name)).unwrap()
}

/// The figures of a run's last epoch.
fn last(run: &Path, column: &str) -> f64 {
    metrics(run, column).last().unwrap().parse().unwrap()
}

#[test]
fn noise_in_memory_is_the_noise_that_is_written() {
    let folder = small("noise-both");
    for (name, memory, disk) in [("symmetric", NOISE, ""), ("all", "--label-noise 0.3 --noise-all", "--all-classes")] {
        samcore(&folder.0, &format!("data noise data --rate 0.3 --seed 7 {disk} --out noisy-{name}")).well();
        let held = "--val-fraction 0.2";
        let one = samcore(&folder.0, &format!("{COMMON} {memory} {held} --out {name}-memory")).well().json();
        let line = format!("{COMMON} --data noisy-{name} {held} --out {name}-disk");
        let two = samcore(&folder.0, &line).well().json();
        assert!(one["noise"] == two["noise"] && one["labels"] == two["labels"], "{one} {two}");
        let [one, two] = ["memory", "disk"].map(|where_| folder.path(&format!("{name}-{where_}")));
        for column in ["train_loss", "val_accuracy", "test_loss", "clean_accuracy", "learned", "memorised"] {
            assert_eq!(metrics(&one, column), metrics(&two, column), "{column}");
        }
        assert!(content(&one, "steps.jsonl") == content(&two, "steps.jsonl"));
    }
    samcore(&folder.0, &format!("{COMMON} {NOISE} --data noisy-all --out again"))
        .refused(2, "--label-noise: noisy-all has noisy labels already, as its noise.json says");
    assert!(!folder.path("again").exists());
}

/// The labels of a set are right or wrong, and a wrong one is predicted as what the image is, as its label, or as neither.
#[test]
fn the_parts_of_the_training_set_add_up() {
    let folder = small("noise-parts");
    let done = samcore(&folder.0, &format!("{COMMON} {NOISE} --train-images 100 --out run")).well().json();
    let (images, wrong) = (done["labels"]["images"].as_f64().unwrap(), done["labels"]["wrong"].as_f64().unwrap());
    assert!(images == 100.0 && (15.0..=45.0).contains(&wrong), "{done}");
    let run = folder.path("run");
    let shares = ["clean_accuracy", "learned", "memorised"].map(|column| last(&run, column));
    for (share, of) in shares.iter().zip([images - wrong, wrong, wrong]) {
        let count = share * of;
        assert!((count - count.round()).abs() < 1e-3 && (0.0..=1.0).contains(share), "{share} of {of}");
    }
    assert!(shares[1] + shares[2] <= 1.0 + 1e-6);
    for (name, share) in ["clean", "learned", "memorised"].iter().zip(shares) {
        assert!((done["noise"][name].as_f64().unwrap() - share).abs() < 1e-6, "{done}");
    }
    let curves = fs::read_to_string(run.join("curves.svg")).unwrap();
    for part in ["Training images with a right and with a wrong label", "% of these images", "wrong label: predicted"] {
        assert!(curves.contains(part), "{part}: {curves}");
    }
    // A run without noise says nothing of it.
    let done = samcore(&folder.0, &format!("{COMMON} --epochs 1 --out clean")).well().json();
    assert!(done["noise"].is_null() && done["labels"]["wrong"].is_null());
    assert!(!fs::read_to_string(folder.path("clean/curves.svg")).unwrap().contains("a wrong label"));
}

#[test]
fn predictions_correct_labels_and_stay_when_the_checkpoint_goes() {
    let folder = Folder::with_images("relabel", 800, 60, 2);
    let settings = "--label-noise 0.5 --lr 0.02 --epochs 8 --loss reed-hard";
    let line = format!("{COMMON} {settings} --bootstrap --out both");
    let done = samcore(&folder.0, &line).well().json();
    let before = done["first"]["labels"]["wrong"].as_u64().unwrap();
    let relabelled = &done["labels"]["relabelled"];
    let count = |name: &str| relabelled[name].as_u64().unwrap();
    assert_eq!(count("wrong_before"), before);
    let after = done["labels"]["wrong"].as_u64().unwrap();
    assert_eq!(after, before - count("corrected") + count("spoiled"));
    assert!(
        count("corrected") > count("spoiled") && count("changed") >= count("corrected") + count("spoiled"),
        "{done}"
    );
    // Both runs are done: the same line again finds that.
    let again = samcore(&folder.0, &line).well().json();
    assert_eq!(again["noise"], done["noise"]);

    // The second run stopped, and gone on with when the first one's checkpoint is no longer there.
    let (first, second) = (folder.path("both/first"), folder.path("both/second"));
    let checkpoint = first.join("last.safetensors").strip_prefix(&folder.0).unwrap().display().to_string();
    let settings = format!("{settings} --relabel {checkpoint} --threads 1 --steps 30");
    samcore(&folder.0, &format!("{COMMON} {settings} --out stopped")).well();
    let kept = folder.path("kept");
    fs::rename(&first, &kept).unwrap();
    samcore(&folder.0, "train --resume stopped --quiet --threads 3").well();
    let stopped = folder.path("stopped");
    for name in ["last.safetensors", "best.safetensors", "steps.jsonl", "labels.idx1-ubyte", "labels.json"] {
        assert!(content(&stopped, name) == content(&second, name), "{name}");
    }
    for column in ["clean_accuracy", "learned", "memorised"] {
        assert_eq!(metrics(&stopped, column), metrics(&second, column), "{column}");
    }
    fs::remove_file(stopped.join("labels.idx1-ubyte")).unwrap();
    samcore(&folder.0, "train --resume stopped").refused(66, "the labels that the run began with, is missing");
}

#[test]
fn validation_images_are_some_of_those_that_are_used_and_are_not_relabelled() {
    let folder = small("noise-held-out");
    let line = format!("{COMMON} {NOISE} --train-images 100 --val-fraction 0.25 --out run");
    let done =
        command(&folder.0, &line.replace(" --quiet", "").split_whitespace().collect::<Vec<_>>()).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(told.contains("75 training, 25 validation, 90 test images"), "{told}");
    let relabel = "--relabel run/last.safetensors --out second";
    let done = samcore(&folder.0, &format!("{COMMON} {NOISE} --train-images 100 --val-fraction 0.25 {relabel}")).well();
    assert_eq!(done.json()["labels"]["images"], 75);
    let changed = done.json()["labels"]["relabelled"]["changed"].as_u64().unwrap() as usize;
    samcore(&folder.0, "data noise data --rate 0.3 --seed 7 --out noisy").well();
    let noisy = content(&folder.path("noisy"), "train-labels-idx1-ubyte");
    let labels = content(&folder.path("second"), "labels.idx1-ubyte");
    let differ = noisy.iter().zip(&labels).filter(|(a, b)| a != b).count();
    assert!(noisy.len() == labels.len() && differ == changed, "{differ}, told {changed}");
}

/// Labels 1 to 3 of the training images leave class 0 empty, and class 4 is in the test images alone.
#[test]
fn classes_without_images_are_named_and_get_no_noise() {
    let folder = small("noise-gaps");
    let relabel = |split: &str, map: &dyn Fn(u8) -> u8| {
        let file = folder.path(&format!("data/{split}-labels-idx1-ubyte"));
        let mut labels = fs::read(&file).unwrap();
        labels[8..].iter_mut().for_each(|label| *label = map(*label));
        fs::write(&file, labels).unwrap();
    };
    relabel("train", &|label| 1 + label % 3);
    relabel("t10k", &|label| 1 + label % 4);
    let lines = ["no image has class 0 (of 5 classes)", "no training image has class 4, test images have"];
    let told = |text: &str| lines.iter().all(|line| text.contains(line));
    let verified = samcore(&folder.0, "data verify data").well().stdout;
    assert!(told(&verified), "{verified}");
    assert_eq!(
        samcore(&folder.0, "data verify data --json").well().json()["missing_classes"],
        serde_json::json!(lines)
    );
    let written = samcore(&folder.0, "data noise data --rate 1 --seed 7 --out noisy").well().stdout;
    assert!(told(&written), "{written}");
    let labels = content(&folder.path("noisy"), "train-labels-idx1-ubyte");
    assert!(labels[8..].iter().all(|label| (1..=3).contains(label)));
    let line = format!("{} {NOISE} --epochs 1 --out run", COMMON.replace(" --quiet", ""));
    let trained = samcore(&folder.0, &line).well().stderr;
    assert!(told(&trained), "{trained}");

    relabel("train", &|_| 2);
    samcore(&folder.0, &format!("{COMMON} {NOISE} --out one"))
        .refused(65, "--label-noise: all training images have class 2: there is no other class");
    samcore(&folder.0, "data noise data --rate 0.5 --out one").refused(65, "data: all training images have class 2");
    assert!(!folder.path("one").exists());
}
