//! Targets of data sets: CIFAR's files, archives out of the network, records of noise.

use super::gzip;
use samcore::data::fetch::unpack;
use samcore::data::known::{Identity, KnownFile};
use samcore::data::noise::Record;
use samcore::data::{self, Format, Known, Labels};
use samcore::files::sha256_hex;
use std::fs;
use std::path::Path;

const PIXELS: usize = 3072;

/// Returns `rows` rows of `labels` label bytes and an image each.
pub fn cifar_rows(labels: usize, rows: usize) -> Vec<u8> {
    let row = |r: usize| std::iter::repeat_n(r as u8, labels).chain((0..PIXELS).map(move |i| (i * (r + 1)) as u8));
    (0..rows).flat_map(row).collect()
}

pub fn parse_cifar10(path: &Path, bytes: &[u8]) -> bool {
    let others = ["data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    parse_cifar(path, bytes, &others.map(|name| format!("{name}.bin")), 1)
}

pub fn parse_cifar100(path: &Path, bytes: &[u8]) -> bool {
    parse_cifar(path, bytes, &["test.bin".to_owned()], 2)
}

fn parse_cifar(path: &Path, bytes: &[u8], others: &[String], labels: usize) -> bool {
    let folder = path.parent().unwrap();
    for name in others {
        if !folder.join(name).exists() {
            fs::write(folder.join(name), cifar_rows(labels, 1)).unwrap();
        }
    }
    let all = if labels == 2 { &[Labels::Fine, Labels::Coarse][..] } else { &[Labels::Fine] };
    for which in all {
        let Ok(set) = data::load_as(folder.to_str().unwrap(), *which) else { return false };
        // All files but that of the test images are of training images.
        assert_eq!(set.train.count, bytes.len() / (labels + PIXELS) + others.len() - 1);
        assert!(set.train.labels.iter().all(|label| usize::from(*label) < set.classes));
        set.train.image(set.train.count - 1);
    }
    true
}

const FIRST: &str = "the first file";
const SECOND: &str = "another";

/// A set of two small files, of which an archive is fetched.
const SET: Known = Known {
    name: "set",
    about: "",
    folder: "set",
    format: Format::Cifar100,
    class_names: &[],
    coarse_names: &[],
    mean: [0.0; 4],
    std: [1.0; 4],
    files: &[
        KnownFile {
            name: "train.bin",
            id: Identity { len: 14, sha256: "e7939f0b60ab303a2a6e28784cf5c5811b98dfd7e5cab7ab2a0fb9c4b38e50cb" },
        },
        KnownFile {
            name: "test.bin",
            id: Identity { len: 7, sha256: "ae448ac86c4e8e4dec645729708ef41873ae79c6dff84eff73360989487f08e5" },
        },
    ],
    urls: &[],
    archives: &[],
};

/// A tar archive with both files, and one with other things among them.
pub fn archives() -> Vec<Vec<u8>> {
    let archive = |members: &[(&str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let (first, second) = (("set/train.bin", FIRST), ("set/test.bin", SECOND));
    vec![archive(&[first, second]), archive(&[("set/readme.html", "<p>"), second, ("other/train.bin", "x"), first])]
}

/// Unpacks the archive; what comes out of it are the originals, or nothing was taken.
pub fn parse_archive(path: &Path, _: &[u8]) -> bool {
    let folder = path.parent().unwrap();
    let to = folder.join("unpacked");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let taken = unpack::tar_gz(&SET, path, &to, &[0, 1]).is_ok();
    let mut complete = 0;
    for entry in fs::read_dir(&to).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let file = SET.files.iter().find(|file| file.name == name).expect("no file but those of the set");
        let content = fs::read(entry.path()).unwrap();
        assert!(entry.file_type().unwrap().is_file() && content.len() as u64 <= file.id.len);
        complete += usize::from(sha256_hex(&content) == file.id.sha256);
    }
    assert!(!taken || complete == fs::read_dir(&to).unwrap().count(), "what was taken is the original");
    let beside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let ours = ["unpacked", "archive.tar", "archive.tar.gz", "log"];
    beside.for_each(|name| assert!(ours.contains(&&name[..]), "{name} was unpacked beside the folder"));
    taken && complete == SET.files.len()
}

/// Damage behind gzip's checksum.
pub fn pack_and_parse_archive(path: &Path, bytes: &[u8]) -> bool {
    let packed = path.with_extension("tar.gz");
    fs::write(&packed, gzip(bytes)).unwrap();
    parse_archive(&packed, bytes)
}

pub fn noise_records() -> Vec<Vec<u8>> {
    let record = |labels: &str, indices: &str, original: &str| {
        let counts = r#""rate":0.5,"seed":3,"convention":"symmetric","classes":10,"images":6,"drawn":3"#;
        format!(r#"{{"source":"x","labels":"{labels}",{counts},"indices":{indices},"original":{original}}}"#).into()
    };
    vec![record("fine", "[0,2,5]", "[9,3,255]"), record("coarse", "[1]", "[19]")]
}

/// As a set with noisy labels is verified.
pub fn parse_noise_record(path: &Path, _: &[u8]) -> bool {
    let Ok(Some(record)) = Record::read(path.parent().unwrap()) else { return false };
    for (format, labels) in [(Format::Idx, 0), (Format::Cifar10, 1), (Format::Cifar100, 2)] {
        let content = if labels == 0 { vec![1; 14] } else { cifar_rows(labels, 6) };
        for first in [0, 3] {
            let mut restored = content.clone();
            assert_eq!(record.undo(format, first, &mut restored), 6);
            let pixels = content.iter().zip(&restored).filter(|(a, b)| a != b).count();
            assert!(pixels <= 6, "labels alone change");
        }
    }
    true
}
