//! One target of libFuzzer: the row of the table of targets that has this binary's name.

#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = env!("CARGO_BIN_NAME");
    TARGETS.iter().find(|target| target.name == name).expect("a row of TARGETS has the binary's name")
});

/// The file that each case is written to, in memory where there is such a place.
static CASE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = root.join(format!("samcore-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder.join(TARGET.file)
});

/// Puts the sound files into the first folder of the command line, which is the corpus, if it is empty.
fn seed_corpus() {
    let Some(corpus) = std::env::args().skip(1).map(PathBuf::from).find(|path| path.is_dir()) else { return };
    if fs::read_dir(&corpus).unwrap().next().is_none() {
        for (number, bytes) in (TARGET.seeds)().iter().enumerate() {
            fs::write(corpus.join(format!("seed-{number}")), bytes).unwrap();
        }
    }
}

fuzz_target!(init: seed_corpus(), |bytes: &[u8]| {
    fs::write(&*CASE, bytes).unwrap();
    (TARGET.parse)(&CASE, bytes);
});
