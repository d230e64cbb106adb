//! Helpers of the tests of the real program: running it, folders of their own, and a small data set.

// Each test program uses a part of this.
#![allow(dead_code)]

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// End of a process.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Checks that it ended well; shows its stderr otherwise.
    #[track_caller]
    pub fn well(self) -> Done {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Checks that it ended with `code` and one line on stderr that contains `message`.
    #[track_caller]
    pub fn refused(self, code: i32, message: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        let line = self.stderr.lines().last().unwrap_or_default();
        assert!(line.starts_with("samcore: ") && line.contains(message), "{}", self.stderr);
    }

    /// The one JSON value that stdout consists of.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// The program, ready to run in `folder`.
pub fn command<A: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samcore"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs the program in `folder` on the words of `line`.
pub fn samcore(folder: &Path, line: &str) -> Done {
    Done::of(command(folder, &line.split_whitespace().collect::<Vec<_>>()).output().unwrap())
}

/// Starts the program in `folder` on the words of `line`.
pub fn start(folder: &Path, line: &str) -> Child {
    let mut command = command(folder, &line.split_whitespace().collect::<Vec<_>>());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `ready`, a minute at most.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !ready() {
        assert!(begin.elapsed() < Duration::from_secs(60), "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends `signal` (INT, TERM) as a shell does.
pub fn send(signal: &str, to: &Child) {
    let told = Command::new("sh").args(["-c", &format!("kill -{signal} {}", to.id())]).stderr(Stdio::null()).status();
    told.unwrap();
}

/// A folder for one test, removed at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("samcore-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// The same with a data set in `data`: the first images of Fashion-MNIST; of each, every `stride`-th pixel.
    pub fn with_images(name: &str, train: usize, test: usize, stride: usize) -> Folder {
        let folder = Folder::new(name);
        write_images(&folder.0.join("data"), train, test, stride);
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes four IDX files to `folder`: the first images of Fashion-MNIST; of each, every `stride`-th pixel.
pub fn write_images(folder: &Path, train: usize, test: usize, stride: usize) {
    fs::create_dir_all(folder).unwrap();
    for (split, count) in [("train", train), ("t10k", test)] {
        let pixels = unpack(&format!("{split}-images-idx3-ubyte"), 16, count * 784);
        let taken = |i: &usize| (i / 28 % 28).is_multiple_of(stride) && (i % 28).is_multiple_of(stride);
        let side = 28usize.div_ceil(stride) as u32;
        let images: Vec<u8> = (0..pixels.len()).filter(taken).map(|i| pixels[i]).collect();
        fs::write(folder.join(format!("{split}-images-idx3-ubyte")), idx(&[count as u32, side, side], &images))
            .unwrap();
        let labels = unpack(&format!("{split}-labels-idx1-ubyte"), 8, count);
        fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), idx(&[count as u32], &labels)).unwrap();
    }
}

/// Writes the files of CIFAR-10 with `rows` images each: image r has label r and a picture of its own.
pub fn write_cifar10(folder: &Path, rows: u8) {
    fs::create_dir_all(folder).unwrap();
    let row = |r: u8| std::iter::once(r).chain((0..3072).map(move |i| (i / 8 * (usize::from(r) + 1)) as u8));
    let content: Vec<u8> = (0..rows).flat_map(row).collect();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(folder.join(format!("{name}.bin")), &content).unwrap();
    }
}

/// An IDX file of unsigned bytes.
pub fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let dims_bytes = dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, 8, dims.len() as u8].into_iter().chain(dims_bytes).chain(values.iter().copied()).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `count` bytes of a file of Fashion-MNIST, behind its header.
fn unpack(name: &str, header: usize, count: usize) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist").join(format!("{name}.gz"));
    let mut bytes = vec![0; header + count];
    GzDecoder::new(File::open(path).unwrap()).read_exact(&mut bytes).unwrap();
    bytes.split_off(header)
}

/// Column `name` of the metrics.csv of the run in `folder`, as written.
#[track_caller]
pub fn metrics(folder: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join("metrics.csv")).unwrap();
    let mut rows = text.lines().map(|line| line.split(',').map(str::to_string).collect::<Vec<_>>());
    let at = rows.next().unwrap().iter().position(|title| title == name).unwrap();
    rows.map(|row| row[at].clone()).collect()
}

/// Steps that the steps.jsonl of the run in `folder` tells of; 0 while there is none.
pub fn steps_told(folder: &Path) -> usize {
    fs::read_to_string(folder.join("steps.jsonl")).unwrap_or_default().lines().count()
}

/// Names of everything in `folder`, in order.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

/// Every file in `folder` by name, with its content.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> =
        entries.map(|p| (p.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&p).unwrap())).collect();
    files.sort();
    files
}
