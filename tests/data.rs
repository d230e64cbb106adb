//! Promises of `samcore data`, made by the real program, and of training and evaluation on CIFAR's files.

mod common;

use common::{Done, Folder, files, samcore};
use serde_json::json;
use std::fs;
use std::path::Path;

/// The files of CIFAR-100 with `rows` images each; fine label r, coarse label 19 - r, and a picture of its own a row.
fn write_cifar100(folder: &Path, rows: u8) {
    fs::create_dir_all(folder).unwrap();
    for name in ["train.bin", "test.bin"] {
        let row = |r: u8| [19 - r, r].into_iter().chain((0..3072).map(move |i| (i / 8 * usize::from(r)) as u8));
        fs::write(folder.join(name), (0..rows).flat_map(row).collect::<Vec<u8>>()).unwrap();
    }
}

#[test]
fn known_sets_are_listed_with_size_place_and_origin() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = samcore(here, "data list").well().stdout;
    assert!(text.contains("fashion-mnist") && text.contains("download 30.9 MB; data/fashion-mnist\n"), "{text}");
    let list = samcore(here, "data list --json").well().json();
    for known in samcore::data::DATASETS {
        let row = list["data_sets"].as_array().unwrap().iter().find(|row| row["name"] == known.name).unwrap();
        assert_eq!(row["archives"][0]["sha256"], known.archives[0].id.sha256);
        assert!(text.contains(known.about));
    }
}

/// Runs the program in `folder` without this machine's own data sets; `home` is the user's folder.
fn away(folder: &Path, home: &Path, line: &str) -> Done {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = common::command(folder, &words);
    Done::of(command.env_remove("SAMCORE_DATA").env_remove("XDG_DATA_HOME").env("HOME", home).output().unwrap())
}

#[test]
fn sets_are_looked_for_and_put_where_the_list_says() {
    let folder = Folder::new("data-list");
    let home = folder.path("home");
    let sets = home.join(".local/share/samcore");
    let list = |at: &Path| away(at, &home, "data list --json").well().json();
    // Nowhere else: into the user's own folder, where each later run looks.
    assert_eq!(list(&folder.0)["fetched_into"], sets.to_str().unwrap());
    let into = |at: &Path| away(at, &home, "data fetch cifar-10 --url http://127.0.0.1:1").stderr;
    assert!(into(&folder.0).contains(&format!("put it into {}, and run", sets.display())), "{}", into(&folder.0));
    let wanted = away(&folder.0, &home, "data verify cifar-10");
    for words in [
        &format!("looked in data/cifar-10-batches-bin, {}/cifar-10-batches-bin", sets.display())[..],
        "samcore data fetch cifar-10",
    ] {
        assert!(wanted.stderr.contains(words), "{}", wanted.stderr);
    }
    // Where ./data is there, that is the place.
    fs::create_dir_all(folder.path("data/cifar-10-batches-bin")).unwrap();
    assert_eq!(list(&folder.0)["fetched_into"], "data");
    // A folder with files missing is said to be so, by the list and by what reads the set.
    let wrong = "data/cifar-10-batches-bin has no data_batch_1.bin";
    let row = |name: &str| {
        let list = list(&folder.0);
        list["data_sets"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone()
    };
    assert!(row("cifar-10")["wrong"].as_str().unwrap().contains(wrong), "{}", row("cifar-10"));
    assert!(away(&folder.0, &home, "data list").well().stdout.contains(wrong));
    away(&folder.0, &home, "data verify cifar-10").refused(66, wrong);
    // A later folder with all files comes before an earlier one without.
    common::write_cifar10(&sets.join("cifar-10-batches-bin"), 2);
    assert_eq!(row("cifar-10")["folder"], sets.join("cifar-10-batches-bin").to_str().unwrap());
    // Sets without a name are listed as --data takes them.
    common::write_images(&sets.join("MNIST/raw"), 20, 10, 4);
    let others = list(&folder.0)["others"].as_array().unwrap().clone();
    assert!(others.contains(&json!(sets.join("MNIST/raw").to_str().unwrap())), "{others:?}");
    away(&folder.0, &home, &format!("data verify {}", sets.join("MNIST/raw").display())).well();
    let several = away(&folder.0, &home, &format!("data verify {}", sets.display()));
    several.refused(66, "holds several data sets; give one of ");
}

#[test]
fn verify_tells_sound_from_damaged_by_its_exit_code_and_a_table() {
    let folder = Folder::with_images("data-verify", 20, 10, 2);
    let done = samcore(&folder.0, "data verify data --json").well().json();
    assert_eq!((&done["sound"], &done["splits"][0]["images"]), (&json!(true), &json!(20)));
    assert_eq!(done["files"][1]["verdict"], "sound");
    let labels = folder.path("data/train-labels-idx1-ubyte");
    let sound = fs::read(&labels).unwrap();
    fs::write(&labels, &sound[..20]).unwrap();
    let done = samcore(&folder.0, "data verify data");
    assert_eq!(done.code, 65);
    assert!(done.stdout.contains("train-labels-idx1-ubyte") && done.stdout.contains("damaged"), "{}", done.stdout);
    assert!(done.stderr.contains("train-labels-idx1-ubyte is truncated: it ends at byte 20 of 28"), "{}", done.stderr);
    let done = samcore(&folder.0, "data verify data --json");
    assert_eq!((done.code, &done.json()["files"][1]["verdict"]), (65, &json!("damaged")));
    samcore(&folder.0, "data verify elsewhere").refused(66, "there is no data set and no folder 'elsewhere'");
}

#[test]
fn a_noisy_copy_is_the_same_for_the_same_seed_and_is_trained_on() {
    let folder = Folder::with_images("data-noise", 40, 10, 2);
    let noise = "data noise data --rate 0.5 --seed 3";
    let told = samcore(&folder.0, &format!("{noise} --out noisy")).well().stdout;
    assert!(told.contains("of 40 training labels are wrong in noisy"), "{told}");
    samcore(&folder.0, &format!("{noise} --out again")).well();
    assert!(files(&folder.path("noisy")) == files(&folder.path("again")));
    samcore(&folder.0, &format!("{noise} --out again")).refused(73, "again is there already; give --out a new folder");
    samcore(&folder.0, "train --data noisy --model cnn --batch 20 --epochs 1 --out run").well();
    // What a process that was killed has left is removed, and what a living one writes is not.
    let (dead, alive) = (format!(".x.{}.part", u32::MAX), format!(".x.{}.part", std::process::id()));
    for part in [&dead, &alive] {
        fs::create_dir(folder.path(part)).unwrap();
    }
    samcore(&folder.0, &format!("{noise} --out x")).well();
    assert_eq!((folder.path(&dead).exists(), folder.path(&alive).exists()), (!Path::new("/proc/self").exists(), true));
    fs::remove_dir_all(folder.path("x")).unwrap();
    samcore(&folder.0, "data noise data --rate 1.5 --out x").refused(2, "--rate must be a number above 0 to 1");
    samcore(&folder.0, "data noise data --rate 1 --labels coarse --out x")
        .refused(2, "--labels coarse is for CIFAR-100");
    assert!(!folder.path("x").exists());
}

#[test]
fn coarse_labels_are_trained_on_and_evaluated_without_being_named_again() {
    let folder = Folder::new("data-coarse");
    write_cifar100(&folder.path("cifar"), 10);
    samcore(&folder.0, "train --data cifar --labels coarse --model cnn --batch 5 --epochs 1 --cutout 8 --out run")
        .well();
    let scores = samcore(&folder.0, "eval run/last.safetensors --json").well().json();
    assert_eq!(scores["images"], 10);
    samcore(&folder.0, "eval run/last.safetensors --labels fine")
        .refused(65, "of 20 classes, cifar has 32x32x3 of 100");
}
