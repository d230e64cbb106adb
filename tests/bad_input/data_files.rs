//! Data files that are missing, cut, damaged or of something else.

use crate::common::{Folder, gzip, idx, write_cifar10, write_images};
use crate::{refused, samcore};
use std::fs;

type Spoil = fn(&[u8]) -> Vec<u8>;

/// The mistake, the file that is spoilt, how, and the words of the message beside the file's name. A spoilt file whose
/// name ends in .gz takes the place of the plain one.
type Row = (&'static str, &'static str, Spoil, &'static [&'static str]);

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";
const IMAGES_GZ: &str = "train-images-idx3-ubyte.gz";
const LABELS_GZ: &str = "train-labels-idx1-ubyte.gz";

/// Mistakes in a set of 40 images of 14 x 14 pixels.
const IDX: &[Row] = &[
    ("empty", IMAGES, |_| vec![], &["is empty; fetch it again"]),
    ("cut in its header", IMAGES, |b| b[..10].to_vec(), &["truncated: it ends at byte 10 of 16"]),
    ("cut in its data", IMAGES, |b| b[..1000].to_vec(), &["truncated: it ends at byte 1000 of 7856"]),
    ("over-long", LABELS, |b| [b, b"x"].concat(), &["too long: there is more after byte 48"]),
    (
        "wrong magic",
        IMAGES,
        |b| [b"\0\0\x09\x03", &b[4..]].concat(),
        &["byte 2", "signed bytes (type 09)", "only unsigned bytes"],
    ),
    ("labels in place of images", IMAGES, |_| idx(&[40], &[0; 40]), &["byte 0", "a file of labels, not of images"]),
    ("a pickle", IMAGES, |_| b"\x80\x04\x95\0\0\0\0".to_vec(), &["byte 0", "a Python pickle"]),
    ("counts that disagree", LABELS, |_| idx(&[39], &[0; 39]), &["40 images", "39 labels"]),
    ("images of 0 x 0", IMAGES, |_| idx(&[40, 0, 0], &[]), &["byte 8: the height is 0"]),
    ("images without width", IMAGES, |_| idx(&[40, 14, 0], &[]), &["byte 12: the width is 0"]),
    ("no images", IMAGES, |_| idx(&[0, 14, 14], &[]), &["byte 4: the number of items is 0"]),
    ("sizes that overflow", IMAGES, |_| idx(&[u32::MAX; 3], &[0]), &["byte 4", "more than this machine can address"]),
    ("sizes of a terabyte", IMAGES, |_| idx(&[1 << 20, 1 << 10, 1 << 10], &[0]), &["byte 17 of 1099511627792"]),
    ("halves of two sizes", IMAGES, |_| idx(&[40, 7, 7], &[0; 1960]), &["of 7x7", "of 14x14"]),
    ("gz: empty", IMAGES_GZ, |_| vec![], &["is empty"]),
    ("gz: cut", IMAGES_GZ, |b| gzip(b)[..200].to_vec(), &["packed byte 200: the gzip stream is cut off"]),
    ("gz: a byte damaged", IMAGES_GZ, |b| flipped(gzip(b), 100), &["packed byte", "damaged"]),
    ("gz: bytes behind the end", LABELS_GZ, |b| [gzip(b), vec![1; 9]].concat(), &["packed byte", "the file does not"]),
    ("gz: packed twice", LABELS_GZ, |b| gzip(&gzip(b)), &["(unpacked), byte 0", "packed twice", "gunzip"]),
    ("little-endian sizes", LABELS, |b| [&b[..4], &[40, 0, 0, 0], &b[8..]].concat(), &["byte 4", "little-endian (40)"]),
    ("gz: content cut", LABELS_GZ, |b| gzip(&b[..30]), &["(unpacked) is truncated: it ends at byte 30 of 48"]),
    ("gz: content over-long", LABELS_GZ, |b| gzip(&[b, b"x"].concat()), &["(unpacked) is too long", "byte 48"]),
    ("gz: a bomb", IMAGES_GZ, |b| gzip(&[b, &vec![0; 100 << 20]].concat()), &["there is more after byte 7856"]),
    ("gz: a promise", IMAGES_GZ, |_| gzip(&idx(&[1 << 20, 1 << 10, 1 << 10], &[0])), &["byte 4", "can hold"]),
];

/// Mistakes in files of 2 images each.
const CIFAR: &[Row] = &[
    ("empty", "data_batch_3.bin", |_| vec![], &["is empty"]),
    ("cut", "data_batch_1.bin", |b| b[..5000].to_vec(), &["ends at byte 5000, 1927 bytes into row 1"]),
    ("over-long", "test_batch.bin", |b| [b, b"x"].concat(), &["ends at byte 6147, 1 bytes into row 2"]),
    (
        "label out of range",
        "data_batch_5.bin",
        |b| with(b, 3073, 10),
        &["byte 3073: the label of row 1 is 10", "0 to 9"],
    ),
    ("a pickle", "data_batch_2.bin", |b| [b"\x80\x02", &b[2..]].concat(), &["byte 0", "a Python pickle"]),
    ("a zip archive", "test_batch.bin", |b| [b"PK\x03\x04", &b[4..]].concat(), &["byte 0", "a zip archive"]),
    ("a gzip file", "test_batch.bin", gzip, &["it looks like a gzip file"]),
];

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0xff;
    bytes
}

fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    bytes
}

#[test]
fn damaged_data_files_are_named_with_the_byte_by_training_and_by_verify() {
    type Sound = fn(&Folder);
    let idx: Sound = |folder| write_images(&folder.path("bad"), 40, 20, 2);
    let cifar: Sound = |folder| write_cifar10(&folder.path("bad"), 2);
    for (rows, sound) in [(IDX, idx), (CIFAR, cifar)] {
        let folder = Folder::new("bad-data");
        for (what, file, spoil, words) in rows {
            let _ = fs::remove_dir_all(folder.path("bad"));
            sound(&folder);
            let plain = folder.path("bad").join(file.trim_end_matches(".gz"));
            let content = fs::read(&plain).unwrap();
            fs::remove_file(plain).unwrap();
            fs::write(folder.path("bad").join(file), spoil(&content)).unwrap();
            let words = [&[*file], *words].concat();
            refused(&folder, what, "train --data bad --model cnn --batch 4 --out run", 65, &words);
            refused(&folder, what, "data verify bad", 65, &words);
        }
    }
}

#[test]
fn what_is_missing_or_is_no_data_set_is_named() {
    let folder = Folder::with_images("bad-set", 40, 20, 2);
    write_images(&folder.path("labels-missing"), 40, 20, 2);
    fs::remove_file(folder.path("labels-missing/t10k-labels-idx1-ubyte")).unwrap();
    write_cifar10(&folder.path("batch-missing"), 2);
    fs::remove_file(folder.path("batch-missing/data_batch_4.bin")).unwrap();
    fs::create_dir_all(folder.path("pickles")).unwrap();
    fs::write(folder.path("pickles/data_batch_1"), b"\x80\x02").unwrap();
    fs::create_dir_all(folder.path("pipe/train-images-idx3-ubyte")).unwrap();
    fs::create_dir(folder.path("empty")).unwrap();
    for (what, data, code, words) in [
        (
            "missing folder",
            "nowhere",
            66,
            &["no data set and no folder 'nowhere'", "known data sets: fashion-mnist"][..],
        ),
        ("a slip", "fashion-mnsit", 66, &["did you mean 'fashion-mnist'?"]),
        (
            "a set that was not fetched",
            "cifar-10",
            66,
            &["data set cifar-10 is not there", "samcore data fetch cifar-10"],
        ),
        ("empty folder", "empty", 66, &["empty has no train-images-idx3-ubyte"]),
        ("missing labels", "labels-missing", 66, &["labels-missing has no t10k-labels-idx1-ubyte"]),
        ("missing batch", "batch-missing", 66, &["batch-missing has no data_batch_4.bin"]),
        ("a file for a folder", "data/train-images-idx3-ubyte", 66, &["is a file; give the folder that holds it"]),
        (
            "a path below a file",
            "data/train-images-idx3-ubyte/x",
            66,
            &["cannot read folder data/train-images-idx3-ubyte/x"],
        ),
        ("a folder for a file", "pipe", 66, &["pipe has no train-labels-idx1-ubyte"]),
        ("CIFAR's Python version", "pickles", 65, &["pickles", "samcore data fetch cifar-10"]),
    ] {
        refused(&folder, what, &format!("train --data {data} --model cnn --batch 4 --out run"), code, words);
        refused(&folder, what, &format!("data verify {data}"), code, words);
        refused(&folder, what, &format!("data noise {data} --rate 0.5 --out noisy"), code, words);
    }
    refused(
        &folder,
        "coarse labels of a set that has none",
        "train --data data --labels coarse --model cnn --out run",
        2,
        &["--labels coarse is for CIFAR-100"],
    );
}

#[test]
fn a_noise_record_that_is_damaged_or_far_too_large_is_refused() {
    let folder = Folder::with_images("bad-noise", 40, 20, 2);
    samcore(&folder.0, "data noise data --rate 0.5 --out noisy").well();
    samcore(&folder.0, "data verify noisy").well();
    let record = folder.path("noisy/noise.json");
    let sound = fs::read_to_string(&record).unwrap();
    for text in ["", "{", "[]", &sound[..sound.len() / 2], &sound.replace("\"original\":[", "\"original\":[3,")] {
        fs::write(&record, text).unwrap();
        let words = ["noisy/noise.json is not what 'samcore data noise' writes"];
        refused(&folder, text, "data verify noisy", 65, &words);
    }
    fs::File::create(&record).unwrap().set_len(1 << 32).unwrap();
    refused(&folder, "4 GiB of zeros", "data verify noisy", 65, &["noisy/noise.json is 4294967296 bytes long"]);
}

#[test]
fn fetching_names_what_is_wrong_and_replaces_nothing() {
    let folder = Folder::new("bad-fetch");
    fs::create_dir_all(folder.path("data")).unwrap();
    // Nothing listens on port 1, so that a connection is refused at once, as without a network.
    refused(
        &folder,
        "no network",
        "data fetch cifar-100 --url http://127.0.0.1:1/mirror",
        69,
        &[
            "cannot fetch http://127.0.0.1:1/mirror/cifar-100-binary.tar.gz",
            "without a network, get cifar-100-binary.tar.gz (",
            " bytes, SHA-256 ",
            "put it into data",
        ],
    );
    refused(&folder, "unknown set", "data fetch cifar10", 2, &["did you mean 'cifar-10'?"]);
    refused(&folder, "an address that is none", "data fetch cifar-10 --url x", 2, &["--url must begin with http://"]);
    let archive = folder.path("data/cifar-100-binary.tar.gz");
    fs::write(&archive, "cut").unwrap();
    let words = ["data/cifar-100-binary.tar.gz is not the original", "it has 3 bytes instead of", "move it away"];
    refused(&folder, "an archive that is another file", "data fetch cifar-100", 65, &words);
    fs::create_dir_all(folder.path("data/cifar-10-batches-bin")).unwrap();
    fs::write(folder.path("data/cifar-10-batches-bin/test_batch.bin"), "cut").unwrap();
    let words = ["test_batch.bin is there, but not the original", "fetch replaces no files"];
    refused(&folder, "a file that is another", "data fetch cifar-10", 65, &words);
    let words = ["cannot", "data/cifar-100-binary.tar.gz/x"];
    refused(&folder, "a folder below a file", "data fetch cifar-10 --out data/cifar-100-binary.tar.gz/x", 73, &words);
}
