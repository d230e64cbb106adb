use super::*;
use crate::error::Kind;
use crate::files::TestFolder;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

fn idx(dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(bytes);
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Ten training and four test images of 2x3 pixels in three classes.
fn small_set(folder: &Path) {
    let pixels: Vec<u8> = (0..60).map(|i| (i * 4) as u8).collect();
    fs::write(folder.join(TRAIN_IMAGES), idx(&[10, 2, 3], &pixels)).unwrap();
    fs::write(folder.join(TRAIN_LABELS), idx(&[10], &[0, 1, 2, 0, 1, 2, 0, 1, 2, 0])).unwrap();
    fs::write(folder.join(TEST_IMAGES), idx(&[4, 2, 3], &pixels[..24])).unwrap();
    fs::write(folder.join(TEST_LABELS), idx(&[4], &[2, 1, 0, 0])).unwrap();
}

fn pack(folder: &Path, name: &str, as_name: &str) {
    let bytes = fs::read(folder.join(name)).unwrap();
    fs::write(folder.join(as_name), gzip(&bytes)).unwrap();
    fs::remove_file(folder.join(name)).unwrap();
}

#[test]
fn fashion_mnist_loads_by_name_and_by_folder() {
    let set = load("fashion-mnist").unwrap();
    for set in [&set, &load(&set.folder.to_string_lossy()).unwrap()] {
        assert_eq!((set.name.as_str(), set.train.count, set.test.count), ("fashion-mnist", 60_000, 10_000));
        assert_eq!((set.train.c, set.train.h, set.train.w, set.classes), (1, 28, 28, 10));
        assert_eq!((set.mean[0], set.std[0], set.known.is_some()), (0.2860, 0.3530, true));
        let bytes = set.train.bytes();
        assert_eq!((bytes.images.len(), bytes.labels.len(), bytes.image_len), (47_040_000, 60_000, 784));
        // The first training image is an ankle boot, and every class has 6,000 training images.
        assert_eq!(set.class_names[usize::from(set.train.labels[0])], "Ankle boot");
        assert!((0..10).all(|class| set.train.labels.iter().filter(|l| **l == class).count() == 6000));
    }
    // The table's constants are those of the images.
    let (mean, std) = mean_std(&set.train);
    assert!((mean[0] - 0.2860).abs() < 1e-4 && (std[0] - 0.3530).abs() < 1e-4, "{mean:?} {std:?}");

    // Unpacked, it is recognised by its contents.
    let folder = TestFolder::new("unpacked");
    for (split, images, labels) in [(&set.train, TRAIN_IMAGES, TRAIN_LABELS), (&set.test, TEST_IMAGES, TEST_LABELS)] {
        fs::write(folder.0.join(images), split.images.whole_file()).unwrap();
        fs::write(folder.0.join(labels), split.labels.whole_file()).unwrap();
    }
    let known = Known::by_name("fashion-mnist");
    let unpacked = load_folder(&folder.0, known).unwrap();
    assert!(unpacked.train.images[..] == set.train.images[..] && unpacked.mean == set.mean);
    assert!(load_folder(&folder.0, None).unwrap().known.is_some());

    // One changed pixel makes it another data set: refused under the name, taken as a folder.
    let mut pixels = set.test.images.whole_file().to_vec();
    pixels[5000] ^= 1;
    fs::write(folder.0.join(TEST_IMAGES), pixels).unwrap();
    let e = load_folder(&folder.0, known).err().unwrap();
    assert!(e.kind == Kind::Data && e.to_string().contains("SHA-256") && e.to_string().contains(TEST_IMAGES), "{e}");
    assert!(load_folder(&folder.0, None).unwrap().known.is_none());
}

#[test]
fn any_folder_of_idx_files_loads_in_every_spelling() {
    let spellings = [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte.gz"),
    ];
    for (images, labels) in spellings {
        let folder = TestFolder::new("spelling");
        small_set(&folder.0);
        for (plain, name) in [(TRAIN_IMAGES, images), (TRAIN_LABELS, labels)] {
            match name.ends_with(".gz") {
                true => pack(&folder.0, plain, name),
                false => fs::rename(folder.0.join(plain), folder.0.join(name)).unwrap(),
            }
        }
        let set = load(&folder.0.to_string_lossy()).unwrap();
        assert_eq!((set.train.count, set.test.count, set.train.h, set.train.w, set.classes), (10, 4, 2, 3, 3));
        assert_eq!(set.train.image(1), [24, 28, 32, 36, 40, 44]);
        assert_eq!(set.class_names, ["0", "1", "2"]);
        // 0, 4, ..., 236: mean 118, variance 16 (60^2 - 1) / 12.
        assert!((set.mean[0] - 118.0 / 255.0).abs() < 1e-6, "{:?}", set.mean);
        assert!((set.std[0] - (16.0f32 * 3599.0 / 12.0).sqrt() / 255.0).abs() < 1e-6, "{:?}", set.std);
        assert_eq!((&set.mean[1..], &set.std[1..]), (&[0.0; 3][..], &[1.0; 3][..]));
    }
}

#[test]
fn constant_images_and_the_largest_label_are_fine() {
    let folder = TestFolder::new("constant");
    small_set(&folder.0);
    fs::write(folder.0.join(TRAIN_IMAGES), idx(&[10, 2, 3], &[9; 60])).unwrap();
    fs::write(folder.0.join(TEST_LABELS), idx(&[4], &[0, 0, 0, 255])).unwrap();
    let set = load_folder(&folder.0, None).unwrap();
    assert_eq!((set.classes, set.std[0]), (256, 1.0));
}

/// Every way to spoil one file, and what the message must say. The file named is the one that is spoilt.
#[test]
fn a_bad_file_is_one_clear_error() {
    type Spoil = fn(&[u8]) -> Vec<u8>;
    let cases: &[(&str, &str, Spoil, &str)] = &[
        ("empty", TRAIN_IMAGES, |_| vec![], "is empty"),
        ("one byte", TRAIN_IMAGES, |_| vec![0], "truncated: it ends at byte 1 of 16"),
        ("half a header", TRAIN_IMAGES, |b| b[..10].to_vec(), "truncated: it ends at byte 10 of 16"),
        ("header only", TRAIN_LABELS, |b| b[..8].to_vec(), "truncated: it ends at byte 8 of 18"),
        ("last byte lost", TRAIN_IMAGES, |b| b[..75].to_vec(), "truncated: it ends at byte 75 of 76"),
        ("a byte too many", TRAIN_IMAGES, |b| [b, &[0]].concat(), "too long: there is more after byte 76"),
        (
            "labels for images",
            TRAIN_IMAGES,
            |_| idx(&[3], &[1, 2, 3]),
            "byte 0: it begins 00 00 08 01; this is a file of labels, not of images",
        ),
        ("images for labels", TEST_LABELS, |_| idx(&[1, 1, 1], &[1]), "a file of images, not of labels"),
        (
            "four dimensions",
            TRAIN_IMAGES,
            |_| idx(&[1, 1, 1, 1], &[1]),
            "byte 3: this file has 4 dimensions (1x1x1x1), not 3",
        ),
        ("floats", TRAIN_IMAGES, |_| typed(13, &[1, 1, 1], &[0; 4]), "byte 2: its pixels are 32-bit floats (type 0d)"),
        (
            "labels of floats",
            TRAIN_LABELS,
            |_| typed(14, &[1], &[0; 8]),
            "byte 2: its labels are 64-bit floats (type 0e)",
        ),
        (
            "rows of pixels",
            TRAIN_IMAGES,
            |_| idx(&[10, 6], &[0; 60]),
            "byte 3: this file has 2 dimensions (10x6), not 3",
        ),
        (
            "a table of labels",
            TRAIN_LABELS,
            |_| idx(&[10, 3], &[0; 30]),
            "byte 3: this file has 2 dimensions (10x3), not 1",
        ),
        ("an unknown type", TRAIN_LABELS, |_| typed(7, &[1], &[0]), "it begins 00 00 07 01, not 00 00 08 01"),
        ("little-endian sizes", TRAIN_IMAGES, |b| little(b, 3), "byte 4: its sizes are little-endian (10x2x3)"),
        ("little-endian labels", TRAIN_LABELS, |b| little(b, 1), "byte 4: its sizes are little-endian (10)"),
        ("little-endian throughout", TRAIN_IMAGES, |_| vec![3, 8, 0, 0, 1, 0, 0, 0], "its numbers are little-endian"),
        (
            "a label too large",
            TRAIN_LABELS,
            |_| typed(11, &[2], &[0, 9, 1, 44]),
            "byte 10: the label of image 1 is 300",
        ),
        ("a label below 0", TRAIN_LABELS, |_| typed(9, &[2], &[255, 0]), "byte 8: the label of image 0 is -1"),
        ("a Git LFS pointer", TRAIN_IMAGES, |_| b"version https://git-lfs".to_vec(), "run 'git lfs pull'"),
        ("pickle", TRAIN_IMAGES, |_| b"\x80\x04\x95\x00\x00".to_vec(), "looks like a Python pickle"),
        ("zip", TRAIN_IMAGES, |_| b"PK\x03\x04\x14\x00\x00".to_vec(), "looks like a zip archive"),
        ("web page", TRAIN_IMAGES, |_| b"<!DOCTYPE html>".to_vec(), "looks like a web page"),
        ("nonsense", TRAIN_LABELS, |_| b"hello".to_vec(), "it begins 68 65 6c 6c, not 00 00 08 01"),
        ("no images", TRAIN_IMAGES, |_| idx(&[0, 28, 28], &[]), "byte 4: the number of items is 0"),
        ("no rows", TRAIN_IMAGES, |_| idx(&[10, 0, 3], &[]), "byte 8: the height is 0"),
        ("no columns", TRAIN_IMAGES, |_| idx(&[10, 2, 0], &[]), "byte 12: the width is 0"),
        ("no labels", TEST_LABELS, |_| idx(&[0], &[]), "byte 4: the number of items is 0"),
        ("sizes overflow", TRAIN_IMAGES, |_| idx(&[u32::MAX; 3], &[1]), "more than this machine can address"),
        ("sizes of a terabyte", TRAIN_IMAGES, |_| idx(&[1 << 20, 1 << 10, 1 << 10], &[1]), "byte 17 of 1099511627792"),
        ("count disagrees", TRAIN_LABELS, |_| idx(&[9], &[0; 9]), "10 images but"),
        ("other image size", TEST_IMAGES, |_| idx(&[4, 3, 2], &[0; 24]), "of 3x2; both splits need one size"),
    ];
    for (case, file, spoil, says) in cases {
        let folder = TestFolder::new("bad");
        small_set(&folder.0);
        let path = folder.0.join(file);
        fs::write(&path, spoil(&fs::read(&path).unwrap())).unwrap();
        refused(case, &folder.0, Kind::Data, &[file, says]);
    }

    let packed_cases: &[(&str, &str, Spoil, &str)] = &[
        ("gz of 1 byte", TRAIN_LABELS, |b| gzip(b)[..1].to_vec(), "byte 0: not an IDX file: it begins 1f"),
        ("gz cut in its header", TRAIN_LABELS, |b| gzip(b)[..7].to_vec(), "cut off"),
        ("gz cut in its data", TRAIN_IMAGES, |b| gzip(b)[..40].to_vec(), "packed byte 40: the gzip stream is cut off"),
        ("gz cut in its checksum", TRAIN_IMAGES, |b| gzip(b)[..gzip(b).len() - 3].to_vec(), "cut off"),
        ("gz damaged", TRAIN_IMAGES, |b| flip(gzip(b), 12), "damaged"),
        ("gz checksum wrong", TRAIN_IMAGES, |b| flip_back(gzip(b), 6), "damaged"),
        ("gz then garbage", TRAIN_IMAGES, |b| [gzip(b), b"??".to_vec()].concat(), "the gzip stream ends here"),
        ("gz, zeros, gz", TRAIN_LABELS, |b| [gzip(b), vec![0; 9], gzip(b)].concat(), "the gzip stream ends here"),
        ("a second member cut", TRAIN_LABELS, |b| [gzip(b), gzip(b)[..9].to_vec()].concat(), "cut off"),
        ("a second member too much", TRAIN_LABELS, |b| [gzip(b), gzip(b"x")].concat(), "(unpacked) is too long"),
        ("gz of little-endian sizes", TRAIN_IMAGES, |b| gzip(&little(b, 3)), "its sizes are little-endian (10x2x3)"),
        ("gz of little-endian labels", TRAIN_LABELS, |b| gzip(&little(b, 1)), "its sizes are little-endian (10)"),
        ("gz of too little", TRAIN_IMAGES, |b| gzip(&b[..70]), "(unpacked) is truncated: it ends at byte 70 of 76"),
        ("gz of nothing", TRAIN_IMAGES, |_| gzip(&[]), "(unpacked) is truncated: it ends at byte 0 of 16"),
        ("gz of too much", TRAIN_LABELS, |b| gzip(&[b, &[0; 5]].concat()), "(unpacked) is too long"),
        ("gzip bomb", TRAIN_IMAGES, |b| gzip(&[b, &vec![0; 50_000_000]].concat()), "there is more after byte 76"),
        ("gz that promises a terabyte", TRAIN_IMAGES, |_| gzip(&idx(&[1 << 20, 1 << 10, 1 << 10], &[0])), "can hold"),
        ("gz of gz", TRAIN_IMAGES, |b| gzip(&gzip(b)), "it was packed twice; unpack it once with gunzip"),
    ];
    for (case, file, spoil, says) in packed_cases {
        let folder = TestFolder::new("bad-gz");
        small_set(&folder.0);
        let plain = folder.0.join(file);
        fs::write(folder.0.join(format!("{file}.gz")), spoil(&fs::read(&plain).unwrap())).unwrap();
        fs::remove_file(&plain).unwrap();
        refused(case, &folder.0, Kind::Data, &[file, ".gz", says]);
    }
}

/// A sound file as it is with little-endian sizes.
fn little(file: &[u8], rank: usize) -> Vec<u8> {
    let mut bytes = file.to_vec();
    bytes[4..4 + 4 * rank].chunks_exact_mut(4).for_each(<[u8]>::reverse);
    bytes
}

/// An IDX file of elements of any type.
fn typed(code: u8, dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = idx(dims, bytes);
    file[2] = code;
    file
}

/// Sound files of unusual making, which give the same labels or images as the usual one.
#[test]
fn labels_of_any_integers_and_gzip_files_of_any_making_are_read() {
    type Make = fn(&[u8]) -> Vec<u8>;
    let cases: &[(&str, &str, Make)] = &[
        ("signed bytes", TRAIN_LABELS, |b| typed(9, &[10], &b[8..])),
        ("16 bits", TRAIN_LABELS, |b| typed(11, &[10], &spread(b, 2, 1))),
        ("32 bits", TRAIN_LABELS, |b| typed(12, &[10], &spread(b, 4, 1))),
        ("a column", TRAIN_LABELS, |b| idx(&[10, 1], &b[8..])),
        ("QMNIST's table", TRAIN_LABELS, |b| typed(12, &[10, 8], &spread(b, 4, 8))),
        ("gzip, whatever the name", TRAIN_IMAGES, gzip),
        ("two members", TRAIN_IMAGES, |b| [gzip(&b[..30]), gzip(&b[30..])].concat()),
        ("many members, some empty", TRAIN_IMAGES, |b| {
            [b.chunks(7).flat_map(gzip).collect(), gzip(&[]), gzip(&[])].concat()
        }),
        ("zeros at the end", TRAIN_IMAGES, |b| [gzip(b), vec![0; 1 << 17]].concat()),
    ];
    let sound = TestFolder::new("usual");
    small_set(&sound.0);
    let expected = load_folder(&sound.0, None).unwrap();
    for (case, file, make) in cases {
        for ending in ["", ".gz"] {
            let folder = TestFolder::new("unusual");
            small_set(&folder.0);
            let plain = folder.0.join(file);
            let made = make(&fs::read(&plain).unwrap());
            fs::remove_file(&plain).unwrap();
            fs::write(folder.0.join(format!("{file}{ending}")), made).unwrap();
            let set = load_folder(&folder.0, None).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(set.train.labels.whole_file(), expected.train.labels.whole_file(), "{case}");
            assert_eq!(set.train.images.whole_file(), expected.train.images.whole_file(), "{case}");
        }
    }
}

/// Labels as big-endian integers of `size` bytes, each the first of `columns`; the others hold 77.
fn spread(labels: &[u8], size: usize, columns: usize) -> Vec<u8> {
    let number = |v: u8| [vec![0; size - 1], vec![v]].concat();
    labels[8..].iter().flat_map(|v| [number(*v), number(77).repeat(columns - 1)].concat()).collect()
}

fn flip(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0xFF;
    bytes
}

fn flip_back(bytes: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = bytes.len() - from_end;
    flip(bytes, at)
}

fn refused(case: &str, folder: &Path, kind: Kind, says: &[&str]) {
    let e = load(&folder.to_string_lossy()).err().unwrap_or_else(|| panic!("{case}: was taken"));
    assert_eq!(e.kind, kind, "{case}: {e}");
    for part in says {
        assert!(e.to_string().contains(part), "{case}: '{e}' does not say '{part}'");
    }
    assert!(!e.to_string().contains('\n'), "{case}: {e}");
}

#[test]
fn what_is_missing_is_named() {
    for name in [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS] {
        let folder = TestFolder::new("missing");
        small_set(&folder.0);
        fs::remove_file(folder.0.join(name)).unwrap();
        refused("missing file", &folder.0, Kind::NoInput, &[&folder.0.to_string_lossy(), name]);
        fs::create_dir(folder.0.join(name)).unwrap();
        refused("a folder for a file", &folder.0, Kind::NoInput, &[name, "not a file"]);
    }
    let folder = TestFolder::new("absent");
    refused("missing folder", &folder.0.join("none"), Kind::NoInput, &["no data set and no folder", "fashion-mnist"]);
    small_set(&folder.0);
    refused("a file for a folder", &folder.0.join(TRAIN_IMAGES), Kind::NoInput, &["is a file"]);
    refused("a slip", Path::new("fashon-mnist"), Kind::NoInput, &["did you mean 'fashion-mnist'?"]);

    let known = Known::by_name("fashion-mnist").unwrap();
    let e = known.find(&[folder.0.join("a"), folder.0.join("b")]).unwrap_err();
    assert!(e.kind == Kind::NoInput && e.to_string().contains("SAMCORE_DATA"), "{e}");
    fs::create_dir_all(folder.0.join("b/fashion-mnist")).unwrap();
    assert!(known.find(&[folder.0.join("a"), folder.0.join("b")]).unwrap().ends_with("b/fashion-mnist"));
}

#[test]
fn validation_splits_every_image_once_by_seed_alone() {
    for (fraction, count, held) in [(0.1, 60_000, 6_000), (0.5, 2, 1), (0.25, 10, 3), (0.999, 1000, 999)] {
        let (train, val) = validation(3, fraction, count).unwrap();
        assert_eq!(val.len(), held, "{fraction} of {count}");
        assert!(train.is_sorted() && val.is_sorted());
        let mut all = [train.clone(), val.clone()].concat();
        all.sort_unstable();
        assert!(all.iter().enumerate().all(|(i, v)| i == *v as usize) && all.len() == count);
        assert_eq!(validation(3, fraction, count).unwrap(), (train, val));
    }
    assert_ne!(validation(1, 0.1, 1000).unwrap(), validation(2, 0.1, 1000).unwrap());
    for (fraction, count) in
        [(0.0, 100), (1.0, 100), (-0.1, 100), (0.001, 100), (f64::NAN, 9), (f64::INFINITY, 9), (0.5, 0)]
    {
        assert_eq!(validation(0, fraction, count).unwrap_err().kind, Kind::Usage, "{fraction} of {count}");
    }
}
