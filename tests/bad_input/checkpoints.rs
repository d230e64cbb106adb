//! Checkpoints that are damaged, hostile, or of something else.

use crate::common::{Folder, write_images};
use crate::{refused, samcore};
use samcore::data;
use samcore::error::Result;
use samcore::graph::{Graph, Var};
use samcore::models::{Model, Spec};
use samcore::nn;
use samcore::recipe::Recipe;
use samcore::safetensors::{self, Metadata, Tensor};
use samcore::train::checkpoint::signed;
use samcore::train::{Session, Where};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// The mistake, the function that spoils a sound file's bytes at a path, and the words of the message.
type Row = (&'static str, fn(&Path, &[u8]), &'static [&'static str]);

const DAMAGED: &str = "its SHA-256 does not match its content; it is damaged";
const NO_SAFETENSORS: &str = "is not a sound safetensors file";
const PICKLE: &str = "a Python pickle; if torch.save wrote it, convert it with python -c";
const ZIP: &str = "a zip archive (torch.save and numpy.savez write these)";
const CANNOT_BE: &str = "which cannot be";

const ROWS: &[Row] = &[
    ("empty", |p, _| put(p, b""), &[NO_SAFETENSORS, "0 bytes are too few"]),
    ("cut in its header", |p, b| put(p, &b[..500]), &[NO_SAFETENSORS, "bytes 0 to 7"]),
    ("cut in its data", |p, b| put(p, &b[..b.len() - 7]), &[NO_SAFETENSORS, "is it truncated?"]),
    ("over-long", |p, b| put(p, &[b, b"x"].concat()), &[NO_SAFETENSORS, "belong to no tensor"]),
    ("a bit flipped in the length", |p, b| flip(p, b, 1), &[NO_SAFETENSORS]),
    ("a bit flipped in the header", |p, b| flip(p, b, 9), &[NO_SAFETENSORS, "byte 9"]),
    ("a bit flipped in the middle", |p, b| flip(p, b, b.len() / 2), &[DAMAGED]),
    ("a bit flipped at the end", |p, b| flip(p, b, b.len() - 1), &[DAMAGED]),
    ("a header that claims 100 MB", |p, b| claim(p, b, None), &["a header of 104857600 bytes", "bytes 0 to 7"]),
    ("a header of 100 MB", |p, b| claim(p, b, Some(101 << 20)), &["a header of 104857600 bytes", "at most 16777216"]),
    ("a header of 2^64 bytes", |p, b| put(p, &[&[0xff; 8], &b[8..]].concat()), &["18446744073709551615 bytes"]),
    ("of a future version", |p, _| edit(p, "format_version", "2"), &["it has format version 2", "up to 1; update it"]),
    ("of no version", |p, _| rewrite(p, |m, _| m.clear()), &["it has no format version"]),
    (
        "of a damaged version key",
        |p, b| misname(p, b),
        &["its metadata has lost 'samcore.format_version'; it is damaged"],
    ),
    ("torch.save", |p, b| put(p, &[b"PK\x03\x04\0\0\x08\x08", &b[8..]].concat()), &[ZIP]),
    ("an old torch.save", |p, b| put(p, &[b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46", &b[8..]].concat()), &[PICKLE]),
    ("a NumPy array", |p, _| put(p, b"\x93NUMPY\x01\0v\0{'descr': '<f4'}"), &[NO_SAFETENSORS, "a NumPy array"]),
    (
        "a text",
        |p, _| put(p, b"epoch,step\n1,2\n"),
        &[NO_SAFETENSORS, "it is a text", "last.safetensors of its folder"],
    ),
    ("of images of 0 x 14", |p, _| edit(p, "height", "0"), &["0x14x1 images", CANNOT_BE]),
    ("of 10^18 classes", |p, _| edit(p, "classes", "1000000000000000000"), &[CANNOT_BE]),
    ("of no deviation", |p, _| edit(p, "std", "0 1 1 1"), &[CANNOT_BE]),
    ("of a step that is no number", |p, _| edit(p, "step", "many"), &["its metadata has 'many' for 'samcore.step'"]),
];

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, bytes: &[u8], at: usize) {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 4;
    put(path, &bytes);
}

/// Changes a letter in the key of the version.
fn misname(path: &Path, bytes: &[u8]) {
    let key = b"samcore.format_version";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at + 9] ^= 1;
    put(path, &bytes);
}

/// A header that says that it has 100 MB, in a file of `len` bytes, mostly holes; of the sound file's length by default.
fn claim(path: &Path, bytes: &[u8], len: Option<u64>) {
    put(path, bytes);
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&(100u64 << 20).to_le_bytes()).unwrap();
    file.set_len(len.unwrap_or(bytes.len() as u64)).unwrap();
}

/// Changes metadata and tensors of the file behind the SHA-256, as someone who knows it would.
fn rewrite(path: &Path, change: impl Fn(&mut Metadata, &mut Vec<Tensor>)) {
    let mut contents = safetensors::read(path).unwrap();
    change(&mut contents.metadata, &mut contents.tensors);
    let metadata =
        if contents.metadata.is_empty() { contents.metadata } else { signed(&contents.metadata, &contents.tensors) };
    safetensors::write(path, &contents.tensors, &metadata).unwrap();
}

fn edit(path: &Path, key: &str, value: &str) {
    rewrite(path, |metadata, _| assert!(metadata.insert(format!("samcore.{key}"), value.into()).is_some(), "{key}"));
}

const RUN: &str = "train --data data --model cnn --batch 16 --epochs 2 --lr 0.05";

#[test]
fn damaged_checkpoints_are_refused_and_keep_no_run_from_going_on() {
    let folder = Folder::with_images("bad-checkpoint", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --steps 3 --out run")).well();
    let last = folder.path("run/last.safetensors");
    let sound = fs::read(&last).unwrap();
    for (what, make, words) in ROWS {
        fs::write(&last, &sound).unwrap();
        make(&last, &sound);
        let words = [&["run/last.safetensors"], *words].concat();
        refused(&folder, what, "eval run/last.safetensors", 65, &words);
        refused(&folder, what, "train --resume run", 65, &words);
        if what.contains("bit flipped") || what.contains("key") {
            refused(&folder, what, &format!("{RUN} --init run/last.safetensors --out new"), 65, &words);
        }
    }
    fs::write(&last, &sound).unwrap();
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    let resumed = "train --resume run";
    fs::write(folder.path("run/config.toml"), config.replace("lr = 0.05", "lr = -1")).unwrap();
    refused(&folder, "a config that was edited", resumed, 65, &["run/config.toml line", "lr must be a number above 0"]);
    fs::write(folder.path("run/config.toml"), config).unwrap();
    let steps = fs::read(folder.path("run/steps.jsonl")).unwrap();
    fs::write(folder.path("run/steps.jsonl"), "{\"step\":1}\nx\n").unwrap();
    refused(&folder, "records that were edited", resumed, 65, &["run/steps.jsonl line 2 is not a record"]);
    fs::write(folder.path("run/steps.jsonl"), steps).unwrap();
    refused(&folder, "another batch", "train --resume run --batch 8", 2, &["--batch cannot change on --resume"]);

    // None of this has kept the run from going on.
    samcore(&folder.0, "train --resume run").well();
    samcore(&folder.0, &format!("{RUN} --out unbroken")).well();
    assert!(fs::read(&last).unwrap() == fs::read(folder.path("unbroken/last.safetensors")).unwrap());
}

/// Two layers, a model that the table does not have.
fn perceptron(g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
    let h = nn::linear(g, x, "hidden", 16)?;
    let h = nn::relu(g, h, "relu")?;
    nn::linear(g, h, "out", spec.classes)
}

#[test]
fn checkpoints_of_other_models_and_images_are_refused_by_name() {
    let folder = Folder::with_images("other-checkpoint", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --steps 0 --out run")).well();
    let last = folder.path("run/last.safetensors");
    let sound = fs::read(&last).unwrap();

    samcore(&folder.0, "train --data data --model resnet20 --batch 16 --steps 0 --out resnet").well();
    fs::copy(folder.path("resnet/last.safetensors"), &last).unwrap();
    let words = ["run/config.toml has model = \"cnn\", but run/last.safetensors was made with model = \"resnet20\""];
    refused(&folder, "another model", "train --resume run", 65, &words);
    // As a version wrote it that did not record settings.
    rewrite(&last, |metadata, _| assert!(metadata.remove("samcore.settings").is_some()));
    let words = ["run/last.safetensors is of resnet20 on 14x14x1 images", "but the run is of cnn"];
    refused(&folder, "another model", "train --resume run", 65, &words);
    edit(&last, "model", "cnn");
    let words = ["run/last.safetensors", "tensor 'conv1.weight'", "model"];
    refused(&folder, "tensors of another model", "train --resume run", 65, &words);
    refused(&folder, "tensors of another model", "eval run/last.safetensors", 65, &words);
    // As large as a model can be, for which the file has nothing.
    edit(&last, "model", "wrn-1000-1000");
    refused(&folder, "a model beyond all bounds", "eval run/last.safetensors", 65, &["run/last.safetensors"]);
    fs::write(&last, &sound).unwrap();
    rewrite(&last, |_, tensors| tensors.retain(|t| t.name != "fc2.bias"));
    refused(&folder, "a tensor missing", "train --resume run", 65, &["tensor 'fc2.bias' is missing"]);
    fs::write(&last, &sound).unwrap();
    rewrite(&last, |_, tensors| tensors.retain(|t| t.name != "optimizer.momentum.fc2.bias"));
    refused(
        &folder,
        "momentum missing",
        "train --resume run",
        65,
        &["tensor 'optimizer.momentum.fc2.bias' is missing"],
    );

    let recipe = Recipe { batch: 16, epochs: 1, lr: 0.05, ..Recipe::default() };
    let model = Model::new("perceptron", "two layers", perceptron);
    let images = data::load(folder.path("data").to_str().unwrap()).unwrap();
    let place = Where { out: Some(folder.path("own")), steps: Some(0), quiet: true, ..Where::default() };
    Session::with_model(&model, images, recipe, &place).unwrap().run().unwrap();
    refused(
        &folder,
        "an unknown model",
        "eval own/last.safetensors",
        65,
        &["own/last.safetensors: unknown model 'perceptron'"],
    );
    refused(&folder, "an unknown model", "train --resume own", 2, &["unknown model 'perceptron'"]);

    write_images(&folder.path("large"), 40, 20, 1);
    samcore(&folder.0, &format!("{} --steps 0 --out large-run", RUN.replace("--data data", "--data large"))).well();
    fs::copy(folder.path("large-run/last.safetensors"), &last).unwrap();
    let words = ["the run is of cnn on 14x14x1 images of 10 classes of data"];
    refused(&folder, "other images", "train --resume run", 65, &words);
    let words = ["run/last.safetensors is for 28x28x1 images of 10 classes, data has 14x14x1 of 10"];
    refused(&folder, "other images", "eval run/last.safetensors --data data", 65, &words);
    let labels = folder.path("data/t10k-labels-idx1-ubyte");
    let mut more = fs::read(&labels).unwrap();
    more[8] = 11;
    fs::write(&labels, more).unwrap();
    fs::write(&last, &sound).unwrap();
    refused(
        &folder,
        "a label the model lacks",
        "eval run/last.safetensors",
        65,
        &["of 10 classes, data has 14x14x1 of 12"],
    );

    fs::remove_dir_all(folder.path("data")).unwrap();
    let words = ["the data of run/last.safetensors, unless --data gives others", "no folder 'data'"];
    refused(&folder, "data that are gone", "eval run/last.safetensors", 66, &words);
    refused(&folder, "no file", "eval run/lost.safetensors", 66, &["cannot read run/lost.safetensors"]);
    refused(&folder, "no run's folder", "eval .", 66, &["is a folder without best.safetensors or last.safetensors"]);
    refused(&folder, "no run", "train --resume nowhere", 66, &["nowhere is not the folder of a run"]);
}

#[test]
fn a_run_without_its_checkpoint_is_not_begun_anew_by_itself() {
    let folder = Folder::with_images("lost-checkpoint", 40, 20, 2);
    samcore(&folder.0, &format!("{RUN} --steps 3 --out run")).well();
    fs::remove_file(folder.path("run/last.safetensors")).unwrap();
    let words = ["run has no checkpoint to resume, although the run has done steps", "--config run/config.toml"];
    refused(&folder, "the checkpoint is gone", "train --resume run", 66, &words);
}
