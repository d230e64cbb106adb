use super::*;
use crate::data::cifar::tests::small_set;
use crate::data::verify::verify;
use crate::data::{load, load_folder};
use crate::files::TestFolder;

fn noise(rate: f64) -> Noise {
    Noise { rate, seed: 3, all_classes: false, labels: Labels::Fine }
}

#[test]
fn draws_are_keyed_by_image_and_follow_their_convention() {
    let labels: Vec<u8> = (0..50_000).map(|i| (i % 10) as u8).collect();
    for (all_classes, wrong) in [(false, 0.4), (true, 0.36)] {
        let noise = Noise { all_classes, ..noise(0.4) };
        let new: Vec<u8> =
            labels.iter().zip(0..).map(|(label, i)| noise.draw(i, *label, 10).unwrap_or(*label)).collect();
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
        assert_eq!(noise.draw(49_999, 9, 10).unwrap_or(9), new[49_999]);
        let other = Noise { seed: 4, ..noise };
        assert!((0..50).any(|i| other.draw(i, 0, 10) != noise.draw(i, 0, 10)));
    }
    assert!((0..1000).all(|i| noise(1.0).draw(i, 5, 10).is_some_and(|new| new != 5)));
    assert!((0..1000).all(|i| noise(1.0).draw(i, 0, 2) == Some(1)));
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
        "the original files of fashion-mnist, but for labels; training labels are noisy, as noise.json tells"
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
