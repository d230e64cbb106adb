use super::*;
use crate::data::cifar::tests::small_set;
use crate::data::verify::verify;
use crate::data::{load, load_folder};
use crate::files::TestFolder;

const TEN: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

fn noise(rate: f64) -> Noise {
    Noise { rate, seed: 3, all_classes: false, labels: Labels::Fine }
}

#[test]
fn draws_are_keyed_by_image_and_follow_their_convention() {
    let labels: Vec<u8> = (0..50_000).map(|i| (i % 10) as u8).collect();
    for (all_classes, wrong) in [(false, 0.4), (true, 0.36)] {
        let noise = Noise { all_classes, ..noise(0.4) };
        let new: Vec<u8> =
            labels.iter().zip(0..).map(|(label, i)| noise.draw(i, *label, &TEN).unwrap_or(*label)).collect();
        let changed = labels.iter().zip(&new).filter(|(old, new)| old != new).count();
        // Four standard deviations of a binomial count.
        assert!((changed as f64 - 50_000.0 * wrong).abs() < 440.0, "{changed}");
        // Every class goes to every other one, and equally often.
        for class in 0..100u8 {
            let (old, to) = (class / 10, class % 10);
            let count = labels.iter().zip(&new).filter(|(a, b)| (**a, **b) == (old, to)).count() as f64;
            let expected = if old == to { 5000.0 * (1.0 - wrong) } else { 5000.0 * wrong / 9.0 };
            assert!((count - expected).abs() < 4.5 * expected.sqrt(), "{old} to {to}: {count}, not {expected}");
        }
        // The same image is drawn the same whatever comes before it; another seed draws others.
        assert_eq!(noise.draw(49_999, 9, &TEN).unwrap_or(9), new[49_999]);
        let other = Noise { seed: 4, ..noise };
        assert!((0..50).any(|i| other.draw(i, 0, &TEN) != noise.draw(i, 0, &TEN)));
    }
    assert!((0..1000).all(|i| noise(1.0).draw(i, 5, &TEN).is_some_and(|new| new != 5)));
    assert!((0..1000).all(|i| noise(1.0).draw(i, 0, &TEN[..2]) == Some(1)));
}

/// Images 0 to 9, of classes 0 to 9, at rate 1 and seed 3; worked out by hand from Philox's words.
const SYMMETRIC: [u8; 10] = [8, 2, 7, 4, 6, 2, 5, 0, 5, 1];
const ALL: [u8; 10] = [8, 2, 6, 3, 5, 3, 5, 0, 6, 1];

/// The draws of sets whose classes all occur are what they have always been; classes without images get none.
#[test]
fn only_classes_that_occur_are_drawn() {
    let ten: Vec<u8> = (0..30).map(|i| i % 10).collect();
    let symmetric = noise(1.0).labels(&ten).unwrap();
    assert_eq!(symmetric[..10], SYMMETRIC);
    let all = Noise { all_classes: true, ..noise(1.0) };
    assert_eq!(all.labels(&ten).unwrap()[..10], ALL);
    // The same classes under other names: the same draws.
    let gaps: Vec<u8> = ten.iter().map(|label| 20 * label + 3).collect();
    for noise in [noise(1.0), all] {
        let renamed: Vec<u8> = noise.labels(&ten).unwrap().iter().map(|label| 20 * label + 3).collect();
        assert_eq!(noise.labels(&gaps).unwrap(), renamed);
        let e = noise.labels(&[7; 30]).unwrap_err();
        assert_eq!(e.to_string(), "all training images have class 7: there is no other class for wrong labels");
    }
    assert!(symmetric.iter().zip(&ten).all(|(new, old)| new != old));
}

#[test]
fn a_noisy_copy_loads_and_tells_what_was_changed() {
    for format in [Format::Cifar10, Format::Cifar100] {
        let folder = TestFolder::new("noisy");
        let (clean, noisy) = (folder.0.join("clean"), folder.0.join("new/noisy"));
        fs::create_dir(&clean).unwrap();
        small_set(&clean, format);
        let written = noise(0.7).write(&clean.to_string_lossy(), &noisy).unwrap();
        let (before, after) = (load_folder(&clean, None).unwrap(), load_folder(&noisy, None).unwrap());
        assert!(before.train.images[..] == after.train.images[..] && before.test.labels[..] == after.test.labels[..]);
        let record: serde_json::Value = serde_json::from_slice(&fs::read(noisy.join(NOISE_FILE)).unwrap()).unwrap();
        let mut restored = after.train.labels.to_vec();
        let (indices, original) = (record["indices"].as_array().unwrap(), record["original"].as_array().unwrap());
        assert!(indices.len() == written.changed && written.changed > 0 && written.images == before.train.count);
        for (i, label) in indices.iter().zip(original) {
            restored[i.as_u64().unwrap() as usize] = label.as_u64().unwrap() as u8;
        }
        assert_eq!(restored, before.train.labels[..]);
        let (mut first, record_file) = (0, Record::read(&noisy).unwrap().unwrap());
        for path in crate::data::layout::find(&clean).unwrap().files.iter().take(format.training_files()) {
            let mut content = fs::read(noisy.join(path.file_name().unwrap())).unwrap();
            first += record_file.undo(format, first, &mut content);
            assert!(content == fs::read(path).unwrap());
        }
        assert_eq!(first, before.train.count);
        assert_eq!((&record["rate"], &record["convention"]), (&json!(0.7), &json!("symmetric")));
        // Coarse labels of CIFAR-100 stay right when the fine ones are drawn.
        if format == Format::Cifar100 {
            let coarse = |path: &Path| load_as(&path.to_string_lossy(), Labels::Coarse).unwrap().train.labels.to_vec();
            assert_eq!(coarse(&clean), coarse(&noisy));
        }
        let e = noise(0.7).write(&clean.to_string_lossy(), &noisy).unwrap_err();
        assert!(e.kind == Kind::CantCreate && e.to_string().contains("noisy is there already"), "{e}");
        assert_eq!(fs::read_dir(folder.0.join("new")).unwrap().count(), 1, "a stray file");
    }
}

#[test]
fn noisy_fashion_mnist_keeps_its_constants_and_is_verified_as_such() {
    let folder = TestFolder::new("noisy-fashion");
    let noisy = folder.0.join("noisy");
    let written = noise(0.2).write("fashion-mnist", &noisy).unwrap();
    assert!((written.changed as f64 - 12_000.0).abs() < 400.0 && written.changed == written.drawn, "{written:?}");
    let (clean, set) = (load("fashion-mnist").unwrap(), load(&noisy.to_string_lossy()).unwrap());
    assert!(set.known.is_none() && set.mean == clean.mean && set.class_names == clean.class_names);
    assert!(set.test.labels[..] == clean.test.labels[..]);
    let conclusion = |place: &Path| verify(&place.to_string_lossy()).unwrap().conclusion;
    assert_eq!(
        conclusion(&noisy).unwrap(),
        "the original files of fashion-mnist, but for labels; training labels are noisy, as noise.json says"
    );
    // A label that the record does not explain, and a file that is no record.
    let labels = noisy.join("train-labels-idx1-ubyte");
    let sound = fs::read(&labels).unwrap();
    let right = set.train.labels.iter().zip(clean.train.labels.iter()).position(|(a, b)| a == b).unwrap();
    let mut other = sound.clone();
    other[8 + right] = (other[8 + right] + 1) % 10;
    fs::write(&labels, other).unwrap();
    assert!(conclusion(&noisy).unwrap_err().to_string().contains("but not train-labels-idx1-ubyte"));
    fs::write(&labels, sound).unwrap();
    let record = fs::read(noisy.join(NOISE_FILE)).unwrap();
    for wrong in [&record[..record.len() / 2], b"{}", b"{\"labels\": \"fine\", \"indices\": [1], \"original\": []}"] {
        fs::write(noisy.join(NOISE_FILE), wrong).unwrap();
        let e = verify(&noisy.to_string_lossy()).err().unwrap();
        assert!(e.kind == Kind::Data && e.to_string().contains("noise.json is not what"), "{e}");
    }
    // Without its record it would be a damaged set.
    fs::remove_file(noisy.join(NOISE_FILE)).unwrap();
    let e = conclusion(&noisy).unwrap_err();
    let says = "3 of 4 files are those of fashion-mnist, but not train-labels-idx1-ubyte";
    assert!(e.kind == Kind::Data && e.to_string().contains(says), "{e}");

    let report = verify("fashion-mnist").unwrap();
    assert_eq!(report.conclusion.unwrap(), "the original files of fashion-mnist");
    assert!(report.halves[1].counts.iter().all(|count| *count == 1000) && report.known.is_some());
    // A file that is cut off.
    let images = noisy.join("t10k-images-idx3-ubyte.gz");
    fs::write(noisy.join("t10k-images-idx3-ubyte"), &clean.test.images.whole_file()[..7000]).unwrap();
    fs::remove_file(images).unwrap();
    assert!(conclusion(&noisy).unwrap_err().to_string().contains("truncated: it ends at byte 7000"));
}
