//! AutoAugment's operations and policy equal Pillow's on real images, byte for byte. `golden/README.md` describes the fixture;
//! the script that made it lies beside it.

use samcore::data;
use samcore::data::augment::{AutoAugment, CIFAR, Canvas, Operation, Strength};
use samcore::files::sha256_hex;
use serde_json::Value;

/// One set of the fixture: its entry, its images one after the other, and the length of each.
fn sets() -> Vec<(Value, Vec<u8>, usize)> {
    let notes: Value = serde_json::from_str(include_str!("golden/autoaugment.json")).unwrap();
    let mut content = &include_bytes!("golden/autoaugment.bin")[..];
    let mut sets = vec![];
    for entry in notes["sets"].as_array().unwrap() {
        let [count, c, side] = ["count", "c", "side"].map(|key| entry[key].as_u64().unwrap() as usize);
        let (images, rest) = content.split_at(count * c * side * side);
        sets.push((entry.clone(), images.to_vec(), c * side * side));
        content = rest;
    }
    assert!(content.is_empty());
    sets
}

fn canvas(set: &Value) -> (Canvas, usize) {
    let [c, side] = ["c", "side"].map(|key| set[key].as_u64().unwrap() as usize);
    let mut fill = [0; 4];
    for (to, from) in fill.iter_mut().zip(set["fill"].as_array().unwrap()) {
        *to = from.as_u64().unwrap() as u8;
    }
    (Canvas::new(c, side, side, fill), side)
}

#[test]
fn every_operation_makes_of_real_images_what_pillow_makes() {
    for (set, images, len) in sets() {
        let (mut canvas, side) = canvas(&set);
        let hashes = set["sha256"].as_object().unwrap();
        let (mut wrong, mut seen) = (vec![], 0);
        for (operation, name) in Operation::ALL.into_iter().zip(Operation::NAMES) {
            for (level, negative) in (0..10).flat_map(|level| [(level, false), (level, true)]) {
                let key = format!("{name} {}{level}", if negative { "-" } else { "" });
                let Some(expected) = hashes.get(&key) else { continue };
                let mut images = images.clone();
                for (i, image) in images.chunks_exact_mut(len).enumerate() {
                    let centre = [i * 7 % side, i * 11 % side];
                    canvas.apply(operation, &Strength { level, negative, centre }, image);
                }
                seen += 1;
                if expected.as_str() != Some(&sha256_hex(&images)) {
                    wrong.push(key);
                }
            }
        }
        assert_eq!(seen, 200, "five operations in two directions, ten in one, each of ten levels");
        assert!(wrong.is_empty(), "{}: {}", set["name"], wrong.join(", "));
    }
}

#[test]
fn the_policy_is_the_one_of_cifar() {
    // Counted in the authors' file policies.py.
    let count = |operation| CIFAR.iter().flatten().filter(|c| c.operation == operation).count();
    let counts: Vec<usize> = Operation::ALL.into_iter().map(count).collect();
    assert_eq!(counts, [4, 7, 4, 23, 3, 35, 6, 40, 24, 2, 6, 13, 13, 7, 3]);
    let choices = || CIFAR.iter().flatten();
    assert_eq!(choices().map(|c| c.tenths).sum::<u32>(), 902);
    assert_eq!(choices().map(|c| c.level).sum::<u32>(), 890);
    assert!(choices().all(|c| c.level < 10 && c.tenths < 10));
}

#[test]
fn what_becomes_of_an_image_depends_on_seed_epoch_and_its_number_alone() {
    let data = data::load("fashion-mnist").unwrap();
    let augmented = |seed: u64, epoch: u32, numbers: &mut dyn Iterator<Item = usize>| -> Vec<(usize, Vec<u8>)> {
        let mut augment = AutoAugment::new(&data, seed).unwrap();
        let image = |i: usize| {
            let mut image = data.train.image(i).to_vec();
            augment.apply(epoch, i as u32, &mut image);
            (i, image)
        };
        numbers.map(image).collect()
    };
    let forward = augmented(1, 2, &mut (0..200));
    let mut backward = augmented(1, 2, &mut (0..200).rev());
    backward.reverse();
    assert_eq!(forward, backward);
    let same = |other: &[(usize, Vec<u8>)]| forward.iter().zip(other).filter(|(a, b)| a == b).count();
    for other in [augmented(2, 2, &mut (0..200)), augmented(1, 3, &mut (0..200))] {
        assert!(same(&other) < 60, "{} of 200 images are as with another seed or epoch", same(&other));
    }
    let untouched = forward.iter().filter(|(i, image)| image == data.train.image(*i)).count();
    assert!((5..100).contains(&untouched), "{untouched} of 200 images are as they were");
}
