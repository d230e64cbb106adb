use super::*;
use crate::data::known::DATASETS;
use crate::data::{DataSet, load, load_as, load_folder, validation};
use crate::files::TestFolder;
use std::fs;

/// Writes a set of three rows a file: labels 0, 1, 2 (coarse 19, 18, 17), pixel i of row r of file f being f + r + i.
pub fn small_set(folder: &Path, format: Format) {
    for (f, name) in names(format).iter().enumerate() {
        let row = |r: usize| {
            let labels = if format == Format::Cifar100 { vec![19 - r as u8, r as u8] } else { vec![r as u8] };
            labels.into_iter().chain((0..PIXELS).map(move |i| (f + r + i) as u8))
        };
        fs::write(folder.join(name), (0..3).flat_map(row).collect::<Vec<u8>>()).unwrap();
    }
}

fn loaded(folder: &Path, labels: Labels) -> DataSet {
    load_as(&folder.to_string_lossy(), labels).unwrap()
}

#[test]
fn rows_become_images_and_labels_in_the_order_of_the_files() {
    let folder = TestFolder::new("cifar-10");
    small_set(&folder.0, Format::Cifar10);
    let set = loaded(&folder.0, Labels::Fine);
    assert_eq!((set.train.count, set.test.count, set.classes, set.format), (15, 3, 10, Format::Cifar10));
    assert_eq!((set.train.c, set.train.h, set.train.w), (3, 32, 32));
    assert_eq!(set.train.labels[..], [0, 1, 2].repeat(5));
    for (image, first) in [(0, 0), (2, 2), (3, 1), (14, 6)] {
        assert_eq!(set.train.image(image)[..3], [first, first + 1, first + 2], "image {image}");
        assert_eq!(set.train.image(image)[PIXELS - 1], (usize::from(first) + PIXELS - 1) as u8);
    }
    assert_eq!(set.test.image(0)[0], 5);
    // Its format alone gives it the names and constants of CIFAR-10, but not its name.
    assert_eq!((set.class_names[9].as_str(), set.mean[0], set.std[2]), ("truck", 0.4914, 0.2616));
    assert!(set.known.is_none() && set.name != "cifar-10");
    let (train, held_out) = validation(0, 0.2, set.train.count).unwrap();
    assert_eq!((train.len(), held_out.len()), (12, 3));

    let folder = TestFolder::new("cifar-100");
    small_set(&folder.0, Format::Cifar100);
    let (fine, coarse) = (loaded(&folder.0, Labels::Fine), loaded(&folder.0, Labels::Coarse));
    assert_eq!((fine.train.count, fine.classes, &fine.train.labels[..]), (3, 100, &[0, 1, 2][..]));
    assert_eq!((fine.class_names[1].as_str(), fine.class_names.len()), ("aquarium_fish", 100));
    assert_eq!((coarse.classes, &coarse.train.labels[..]), (20, &[19, 18, 17][..]));
    assert_eq!((coarse.class_names[19].as_str(), coarse.class_names.len()), ("vehicles_2", 20));
    assert!(fine.train.images[..] == coarse.train.images[..] && fine.test.image(0)[0] == 1);
    let labels_for = |classes| crate::data::labels_for(&folder.0.to_string_lossy(), classes).unwrap();
    assert_eq!((labels_for(20), labels_for(100), labels_for(10)), (Labels::Coarse, Labels::Fine, Labels::Fine));
}

#[test]
fn a_bad_file_is_one_clear_error() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let cases: &[(&str, Format, &str, Spoil, &str)] = &[
        ("empty", Format::Cifar10, "data_batch_3.bin", |_| vec![], "is empty"),
        (
            "one byte",
            Format::Cifar10,
            "test_batch.bin",
            |_| vec![1],
            "ends at byte 1, 1 bytes into row 0 (rows have 3073)",
        ),
        (
            "last byte lost",
            Format::Cifar10,
            "data_batch_1.bin",
            |b| b[..9218].to_vec(),
            "truncated or too long: it ends at byte 9218, 3072 bytes into row 2",
        ),
        (
            "a byte too many",
            Format::Cifar100,
            "test.bin",
            |b| [b, vec![0]].concat(),
            "truncated or too long: it ends at byte 9223, 1 bytes into row 3 (rows have 3074)",
        ),
        (
            "label of 10",
            Format::Cifar10,
            "data_batch_5.bin",
            |b| changed(b, 3073, 10),
            "byte 3073: the label of row 1 is 10; labels go from 0 to 9",
        ),
        (
            "coarse label of 20",
            Format::Cifar100,
            "train.bin",
            |b| changed(b, 6148, 20),
            "byte 6148: the label of row 2 is 20; labels go from 0 to 19",
        ),
        (
            "fine label of 100",
            Format::Cifar100,
            "train.bin",
            |b| changed(b, 1, 100),
            "byte 1: the label of row 0 is 100; labels go from 0 to 99",
        ),
        ("gzip", Format::Cifar10, "test_batch.bin", |_| b"\x1f\x8b\x08\0".to_vec(), "looks like a gzip file"),
        ("pickle", Format::Cifar10, "test_batch.bin", |_| [0x80, 2].repeat(3073), "looks like a Python pickle"),
        ("web page", Format::Cifar100, "test.bin", |_| b"<!DOCTYPE html>".to_vec(), "looks like a web page"),
    ];
    for (case, format, name, spoil, says) in cases {
        let folder = TestFolder::new("bad-cifar");
        small_set(&folder.0, *format);
        let path = folder.0.join(name);
        fs::write(&path, spoil(fs::read(&path).unwrap())).unwrap();
        let e = load(&folder.0.to_string_lossy()).err().unwrap_or_else(|| panic!("{case}: was taken"));
        assert_eq!(e.kind, Kind::Data, "{case}: {e}");
        assert!(e.to_string().contains(says) && e.to_string().contains(name), "{case}: {e}");
    }
}

fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

#[test]
fn what_is_missing_or_of_another_kind_is_named() {
    let refused = |folder: &Path, labels: Labels, kind: Kind, says: &str| {
        let e = load_as(&folder.to_string_lossy(), labels).err().unwrap();
        assert!(e.kind == kind && e.to_string().contains(says), "{e}");
    };
    let folder = TestFolder::new("missing");
    small_set(&folder.0, Format::Cifar10);
    refused(&folder.0, Labels::Coarse, Kind::Usage, "--labels coarse is for CIFAR-100");
    fs::remove_file(folder.0.join("data_batch_4.bin")).unwrap();
    refused(&folder.0, Labels::Fine, Kind::NoInput, "has no data_batch_4.bin; it needs data_batch_1.bin");
    fs::create_dir(folder.0.join("data_batch_4.bin")).unwrap();
    refused(&folder.0, Labels::Fine, Kind::NoInput, "data_batch_4.bin: it is not a file");

    for pickled in [&["data_batch_1", "test_batch"][..], &["train", "test", "meta"]] {
        let folder = TestFolder::new("pickled");
        pickled.iter().for_each(|name| fs::write(folder.0.join(name), b"\x80\x02").unwrap());
        refused(&folder.0, Labels::Fine, Kind::Data, "get the binary version: samcore data fetch cifar-10");
    }

    let folder = TestFolder::new("parent");
    fs::create_dir(folder.0.join("cifar-100-binary")).unwrap();
    refused(&folder.0, Labels::Fine, Kind::NoInput, "cifar-100-binary");
    // Under its name it must be the original.
    small_set(&folder.0.join("cifar-100-binary"), Format::Cifar100);
    let known = DATASETS.iter().find(|known| known.name == "cifar-100");
    let e = load_folder(&folder.0.join("cifar-100-binary"), known).err().unwrap();
    assert!(e.kind == Kind::Data && e.to_string().contains("9222 bytes instead of 153700000"), "{e}");
}

#[test]
fn the_table_agrees_with_the_formats() {
    for known in DATASETS {
        let (classes, coarse) = match known.format {
            Format::Idx => (10, 0),
            Format::Cifar10 => (10, 0),
            Format::Cifar100 => (100, 20),
        };
        assert_eq!((known.class_names.len(), known.coarse_names.len()), (classes, coarse), "{}", known.name);
        let files: Vec<&str> = known.files.iter().map(|file| file.name).collect();
        if known.format != Format::Idx {
            assert_eq!(files, names(known.format));
            let row = (label_classes(known.format).len() + PIXELS) as u64;
            let rows = |files: &[crate::data::known::KnownFile]| files.iter().map(|f| f.id.len).sum::<u64>();
            let n = known.format.training_files();
            assert_eq!((rows(&known.files[..n]), rows(&known.files[n..])), (50_000 * row, 10_000 * row));
        }
        let hashes = known.files.iter().map(|f| f.id.sha256).chain(known.archives.iter().map(|a| a.id.sha256));
        assert!(hashes.clone().all(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
