use super::idx_names::{USUAL, part};
use super::*;
use crate::data::load;
use crate::files::TestFolder;

/// Writes a set of small images whose training labels are all `label`, each file under the name that `name` gives it.
fn write(folder: &Path, label: u8, name: &dyn Fn(&str) -> String) {
    fs::create_dir_all(folder).unwrap();
    for (i, usual) in USUAL.iter().enumerate() {
        let (dims, values): (&[u32], Vec<u8>) =
            if i % 2 == 0 { (&[3, 2, 2], vec![9; 12]) } else { (&[3], vec![label; 3]) };
        let mut file = vec![0, 0, 8, dims.len() as u8];
        file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        file.extend(values);
        fs::write(folder.join(name(usual)), file).unwrap();
    }
}

fn usual(name: &str) -> String {
    name.to_string()
}

fn emnist(set: &'static str) -> impl Fn(&str) -> String {
    move |name| format!("emnist-{set}-{}", name.replace("t10k", "test"))
}

fn write_cifar(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in cifar::names(Format::Cifar10) {
        fs::write(folder.join(name), vec![1; 3073]).unwrap();
    }
}

fn touch(folder: &Path, names: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    names.iter().for_each(|name| fs::write(folder.join(name), "x").unwrap());
}

#[test]
fn idx_files_are_known_by_any_usual_name() {
    let cases = [
        ("train-images-idx3-ubyte", Some(("", 0, false))),
        ("train-labels.idx1-ubyte.gz", Some(("", 1, true))),
        ("t10k-images-idx3-ubyte.gz", Some(("", 2, true))),
        ("emnist-letters-test-labels-idx1-ubyte", Some(("emnist-letters", 3, false))),
        ("qmnist-train-labels-idx2-int.gz", Some(("qmnist", 1, true))),
        ("my_train_images_idx3_ubyte", Some(("my", 0, false))),
        ("train-images.png", None),
        ("train-images", None),
        ("train-images-idx3-ubyte.zip", None),
        ("images-idx3-ubyte", None),
        ("", None),
    ];
    for (name, expected) in cases {
        let found = part(name).map(|part| (part.prefix, part.place, part.packed));
        assert_eq!(found, expected.map(|(prefix, place, packed)| (prefix.to_string(), place, packed)), "{name}");
    }
}

#[test]
fn a_set_is_found_in_the_folders_that_people_give() {
    type Make = fn(&Path);
    // The files, the path that is given, the folder where the set is found, and its name.
    let cases: &[(&str, Make, &str, &str, &str)] = &[
        ("its own folder", |f| write(&f.join("a"), 1, &usual), "a", "a", "a"),
        ("the parent", |f| write(&f.join("a/b"), 1, &usual), "a", "a/b", "b"),
        ("torchvision's root", |f| write(&f.join("a/MNIST/raw"), 1, &usual), "a", "a/MNIST/raw", "MNIST"),
        ("torchvision's folder", |f| write(&f.join("a/MNIST/raw"), 1, &usual), "a/MNIST", "a/MNIST/raw", "MNIST"),
        ("the parent of CIFAR", |f| write_cifar(&f.join("a/cifar-10-batches-bin")), "a", "a/cifar-10-batches-bin", ""),
        ("EMNIST", |f| write(&f.join("a"), 1, &emnist("letters")), "a", "a", "emnist-letters"),
        (
            "one EMNIST set of several",
            |f| {
                write(&f.join("a"), 1, &emnist("letters"));
                write(&f.join("a"), 2, &emnist("digits"));
            },
            "a/emnist-letters",
            "a",
            "emnist-letters",
        ),
        (
            "MNIST's own names beside others",
            |f| {
                write(&f.join("a"), 1, &usual);
                write(&f.join("a"), 2, &emnist("digits"));
            },
            "a",
            "a",
            "a",
        ),
        (
            "files of macOS",
            |f| {
                write(&f.join("a"), 1, &usual);
                touch(&f.join("a"), &["._train-images-idx3-ubyte", ".DS_Store"]);
            },
            "a",
            "a",
            "a",
        ),
        (
            "a folder for each file",
            |f| {
                write(&f.join("b"), 1, &usual);
                for name in USUAL {
                    fs::create_dir_all(f.join("a").join(name)).unwrap();
                    fs::rename(f.join("b").join(name), f.join("a").join(name).join(name)).unwrap();
                }
            },
            "a",
            "a",
            "a",
        ),
        (
            "two spellings alike",
            |f| {
                write(&f.join("a"), 1, &usual);
                write(&f.join("a"), 1, &|name| name.replace("-idx", ".idx"));
            },
            "a",
            "a",
            "a",
        ),
        (
            "a packed file left behind",
            |f| {
                write(&f.join("a/b"), 1, &usual);
                touch(&f.join("a"), &["train-images-idx3-ubyte.gz"]);
            },
            "a",
            "a/b",
            "b",
        ),
    ];
    for (what, make, given, folder, name) in cases {
        let root = TestFolder::new("layout");
        make(&root.0);
        let set = load(&root.0.join(given).to_string_lossy()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(set.folder, root.0.join(folder), "{what}");
        assert!(set.train.labels.iter().all(|label| *label == 1), "{what}");
        assert!(name.is_empty() || set.name == *name, "{what}: {}", set.name);
        assert!(!all(&root.0.join("a")).unwrap().is_empty(), "{what}");
    }
}

#[test]
fn a_folder_without_one_set_is_answered_by_what_it_holds() {
    type Make = fn(&Path);
    // The files, the path that is given, and the words of the message.
    let cases: &[(&str, Make, &str, &[&str])] = &[
        ("empty", |f| touch(&f.join("a"), &[]), "a", &["/a has no train-images-idx3-ubyte", "it is empty", "CIFAR"]),
        ("other files", |f| touch(&f.join("a"), &["notes.txt", "x"]), "a", &["it holds notes.txt, x"]),
        (
            "several",
            |f| {
                write(&f.join("a/b"), 1, &usual);
                write_cifar(&f.join("a/c"));
            },
            "a",
            &["holds several data sets; give one of ", "/a/b, ", "/a/c"],
        ),
        (
            "several EMNIST sets",
            |f| {
                write(&f.join("a"), 1, &emnist("letters"));
                write(&f.join("a"), 1, &emnist("digits"));
            },
            "a",
            &["/a/emnist-digits, ", "/a/emnist-letters"],
        ),
        (
            "two formats in one folder",
            |f| {
                write(&f.join("a"), 1, &usual);
                write_cifar(&f.join("a"));
            },
            "a",
            &["lie side by side", "data_batch_1.bin", "train-images-idx3-ubyte", "folder of its own"],
        ),
        (
            "a set with files missing",
            |f| {
                write(&f.join("a"), 1, &emnist("letters"));
                fs::remove_file(f.join("a/emnist-letters-test-labels-idx1-ubyte")).unwrap();
            },
            "a",
            &["/a has no emnist-letters-t10k-labels-idx1-ubyte", "it holds emnist-letters-train-images-idx3-ubyte"],
        ),
        (
            "spellings that differ",
            |f| {
                write(&f.join("a"), 1, &usual);
                write(&f.join("a"), 2, &|name| name.replace("-idx", ".idx"));
            },
            "a",
            &["train-labels-idx1-ubyte and ", "train-labels.idx1-ubyte are the same file by name", "remove one"],
        ),
        (
            "CIFAR in Python",
            |f| touch(&f.join("a/cifar-10-batches-py"), &["data_batch_1", "test_batch"]),
            "a",
            &["/a/cifar-10-batches-py holds the Python version of CIFAR", "samcore data fetch cifar-10"],
        ),
        (
            "CIFAR cut",
            |f| {
                write_cifar(&f.join("a"));
                fs::remove_file(f.join("a/data_batch_4.bin")).unwrap();
            },
            "a",
            &["/a has no data_batch_4.bin; it needs"],
        ),
        (
            "archives of a known set",
            |f| touch(&f.join("a"), &["cifar-10-binary.tar.gz"]),
            "a",
            &["the archives of cifar-10; samcore data fetch cifar-10 --out "],
        ),
        (
            "other archives",
            |f| touch(&f.join("a"), &["gzip.zip"]),
            "a",
            &["holds archives (gzip.zip); unpack them there"],
        ),
        ("NumPy", |f| touch(&f.join("a"), &["mnist.npz"]), "a", &["NumPy archives (mnist.npz)", "np.load", "'>u4'"]),
        ("tables", |f| touch(&f.join("a"), &["train.csv"]), "a", &["tables as text (train.csv)"]),
        (
            "images",
            |f| touch(&f.join("a/train/cat"), &["1.png", "2.png"]),
            "a",
            &["/a/train/cat holds image files (1.png, 2.png)", "PIL"],
        ),
        ("STL-10", |f| touch(&f.join("a"), &["train_X.bin", "train_y.bin"]), "a", &["STL-10's files"]),
        ("a file", |f| touch(&f.join("a"), &["x"]), "a/x", &["/a/x is a file; give the folder that holds it, ", "/a"]),
        (
            "a slip in a path",
            |f| write(&f.join("a/fashion"), 1, &usual),
            "a/fashon",
            &["did you mean '", "/a/fashion'"],
        ),
        (
            "a prefix with files missing",
            |f| touch(&f.join("a"), &["x-train-images-idx3-ubyte"]),
            "a/x",
            &["/a has no x-train-labels-idx1-ubyte, no x-t10k-images-idx3-ubyte"],
        ),
        ("no folder", |f| touch(f, &[]), "a/b", &["there is no data set and no folder '"]),
    ];
    for (what, make, given, says) in cases {
        let root = TestFolder::new("layout");
        make(&root.0);
        let Err(e) = load(&root.0.join(given).to_string_lossy()) else { panic!("{what}: was taken") };
        assert!([Kind::NoInput, Kind::Data].contains(&e.kind), "{what}: {e}");
        says.iter().for_each(|says| assert!(e.to_string().contains(says), "{what}: '{e}' does not say '{says}'"));
        assert!(!e.to_string().contains('\n'), "{what}: {e}");
        let verified = crate::data::verify::verify(&root.0.join(given).to_string_lossy());
        assert_eq!(verified.err().map(|e| e.to_string()), Some(e.to_string()), "{what}");
    }
}

#[test]
fn classes_have_the_names_of_emnists_mapping() {
    let root = TestFolder::new("mapping");
    write(&root.0, 2, &emnist("letters"));
    let names = |mapping: &str| {
        fs::write(root.0.join("emnist-letters-mapping.txt"), mapping).unwrap();
        load(&root.0.to_string_lossy()).unwrap().class_names
    };
    assert_eq!(names("1 65 97\n2 66 98\n3 67 99\n"), ["0", "A", "B"]);
    // A damaged one leaves the numbers.
    for mapping in ["", "1 x", "1 10", "1 65\n2 65", "1"] {
        assert_eq!(names(mapping)[0], "0");
        assert!(names(mapping)[2] == "2" || mapping.is_empty(), "{mapping}");
    }
}
