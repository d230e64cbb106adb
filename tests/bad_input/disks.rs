//! Disks that are full or read-only, and folders that are in use.

use crate::common::{Folder, files};
use crate::{answered, refused, samcore};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system of its own in memory, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one with these options at `path`; none where that is not allowed, which only root is.
    fn mount(path: &Path, options: &str) -> Option<Tmpfs> {
        fs::create_dir_all(path).unwrap();
        if !mount(&["-t", "tmpfs", "-o", options, "tmpfs", path.to_str().unwrap()]) {
            println!("skipped: cannot mount a tmpfs");
            return None;
        }
        Some(Tmpfs(path.into()))
    }

    fn change(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}"), self.0.to_str().unwrap()]), "{options}");
    }

    /// Takes all space that is left, in a file that is named.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        // Page by page at the end, or a part of a write would be refused as a whole.
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
    }
}

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

const RUN: &str = "train --data data --model cnn --batch 8 --epochs 2 --lr 0.05 --checkpoint-steps 2";
const FULL: &str = "No space left on device";

#[test]
fn a_full_disk_leaves_the_last_good_checkpoint_and_the_run_goes_on_where_there_is_space() {
    let folder = Folder::with_images("full", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    let unbroken = fs::read(folder.path("unbroken/last.safetensors")).unwrap();
    let kilobytes = |bytes: usize| bytes / 1024 + 64;

    // Enough for one checkpoint, too little for the next beside it.
    let size = format!("size={}k", kilobytes(unbroken.len() * 3 / 2));
    let Some(disk) = Tmpfs::mount(&folder.path("small"), &size) else { return };
    let line = format!("{RUN} --quiet --out small/run");
    let words = [FULL, "cannot write small/run/last.safetensors"];
    answered(&samcore(&folder.0, &line), "too small a disk", &line, 74, &words);
    let names: Vec<String> = files(&folder.path("small/run")).into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
    samcore(&folder.0, "eval small/run/last.safetensors").well();
    let again = samcore(&folder.0, "train --resume small/run --quiet");
    answered(&again, "still too small", "train --resume small/run", 74, &words);
    samcore(&folder.0, "eval small/run/last.safetensors").well();
    disk.change("size=64m");
    samcore(&folder.0, "train --resume small/run --quiet").well();
    assert!(fs::read(folder.path("small/run/last.safetensors")).unwrap() == unbroken, "the bits of an unbroken run");

    // Full behind a checkpoint, by something else.
    samcore(&folder.0, &format!("{RUN} --quiet --steps 4 --out small/late")).well();
    let sound = fs::read(folder.path("small/late/last.safetensors")).unwrap();
    let filler = disk.fill();
    let resumed = samcore(&folder.0, "train --resume small/late --quiet");
    answered(&resumed, "a full disk", "train --resume small/late", 74, &[FULL, "cannot write small/late/"]);
    assert!(fs::read(folder.path("small/late/last.safetensors")).unwrap() == sound, "the checkpoint is as it was");
    // A disk without a page for a folder, or one without a block for its first file.
    let begun = format!("{RUN} --quiet --out small/new");
    answered(&samcore(&folder.0, &begun), "a full disk", &begun, 74, &[FULL, "small/new"]);
    let noise = "data noise data --rate 0.5 --out small/noisy";
    answered(&samcore(&folder.0, noise), "a full disk", noise, 74, &[FULL, "small"]);
    assert!(!folder.path("small/noisy").exists());
    answered(
        &samcore(&folder.0, "man --out small/man"),
        "a full disk",
        "man --out small/man",
        74,
        &[FULL, "small/man"],
    );
    fs::remove_file(filler).unwrap();
    samcore(&folder.0, "train --resume small/late --quiet").well();
    assert!(fs::read(folder.path("small/late/last.safetensors")).unwrap() == unbroken, "the bits of an unbroken run");
    samcore(&folder.0, &begun).well();
    samcore(&folder.0, noise).well();
}

/// The system would end the process at the first byte beyond the limit.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_a_full_disk() {
    let folder = Folder::with_images("ulimit", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    samcore(&folder.0, &format!("{RUN} --quiet --steps 4 --out run")).well();
    let sound = fs::read(folder.path("run/last.safetensors")).unwrap();
    for (line, place) in [
        // The epoch ends at the next step, and the best weights are written first.
        ("train --resume run --quiet".to_string(), "run/best.safetensors"),
        (format!("{RUN} --quiet --out new"), "new/last.safetensors"),
    ] {
        let limited = format!("ulimit -f 64; exec {} {line}", env!("CARGO_BIN_EXE_samcore"));
        let output = Command::new("sh").args(["-c", &limited]).current_dir(&folder.0).output().unwrap();
        let words = ["File too large", &format!("cannot write {place}")];
        answered(&crate::common::Done::of(output), "a limit", &line, 74, &words);
    }
    assert!(fs::read(folder.path("run/last.safetensors")).unwrap() == sound, "the checkpoint is as it was");
    samcore(&folder.0, "train --resume run --quiet").well();
    let unbroken = fs::read(folder.path("unbroken/last.safetensors")).unwrap();
    assert!(fs::read(folder.path("run/last.safetensors")).unwrap() == unbroken, "the bits of an unbroken run");
}

#[test]
fn a_read_only_folder_is_named_and_nothing_is_written() {
    let folder = Folder::with_images("read-only", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --steps 2 --out run")).well();
    let Some(disk) = Tmpfs::mount(&folder.path("disk"), "size=16m") else { return };
    fs::create_dir(folder.path("disk/run")).unwrap();
    for (name, content) in files(&folder.path("run")) {
        fs::write(folder.path("disk/run").join(name), content).unwrap();
    }
    disk.change("ro");
    let why = "Read-only file system";
    for (what, line, words) in [
        ("a new run", &format!("{RUN} --out disk/new")[..], [why, "cannot create folder disk/new"]),
        ("a run that goes on", "train --resume disk/run", [why, "cannot create lock file disk/run/.lock"]),
        ("noise", "data noise data --rate 0.5 --out disk/noisy", [why, "disk"]),
        ("pages", "man --out disk", [why, "cannot write disk/samcore.1"]),
        ("a download", "data fetch cifar-10 --url http://127.0.0.1:1 --out disk", [why, "disk/cifar-10-binary.tar.gz"]),
    ] {
        refused(&folder, what, line, 73, &words);
    }
    // A command that only reads needs no permission to write.
    samcore(&folder.0, "eval disk/run/last.safetensors").well();
}

#[test]
fn a_folder_that_another_process_writes_to_is_left_alone() {
    let folder = Folder::with_images("in-use", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --steps 2 --out run")).well();
    let compared = "compare --data data --model cnn --batch 20 --epochs 1 --lr 0.01 --seeds 1 --out cmp";
    samcore(&folder.0, compared).well();
    // The program locks this file for as long as it writes.
    let lock = |path: &str| {
        let file = File::options().write(true).open(folder.path(path)).unwrap();
        file.lock().unwrap();
        file
    };
    let held = [lock("run/.lock"), lock("cmp/.lock")];
    for (what, line, place) in [
        ("a new run", &format!("{RUN} --out run")[..], "run"),
        ("a run that goes on", "train --resume run", "run"),
        ("a comparison", &format!("{compared} --quiet")[..], "cmp"),
        ("a comparison that goes on", "compare --resume cmp --quiet", "cmp"),
    ] {
        let message = format!("{place} is in use by another samcore process; wait for its end");
        refused(&folder, what, line, 73, &[&message]);
    }
    // Dropping would not do: a process that another test is just starting may still have the file.
    held.iter().for_each(|file| file.unlock().unwrap());
    samcore(&folder.0, "train --resume run").well();
    samcore(&folder.0, "compare --resume cmp").well();
}
