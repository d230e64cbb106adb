//! Classes with and without images. Labels of IDX files count from 0, so labels 1 to 26, as EMNIST's letters have them, make
//! 27 classes of which the first is empty.

/// Most classes that a line lists.
const SHOWN: usize = 8;

/// Returns the classes that occur among `labels`, ascending.
pub fn occurring(labels: &[u8]) -> Vec<u8> {
    let mut there = [false; 256];
    labels.iter().for_each(|label| there[usize::from(*label)] = true);
    (0..=u8::MAX).filter(|class| there[usize::from(*class)]).collect()
}

/// Returns how many of `labels` each of `classes` classes has.
pub fn counts(classes: usize, labels: impl Iterator<Item = u8>) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in labels {
        if let Some(count) = counts.get_mut(usize::from(label)) {
            *count += 1;
        }
    }
    counts
}

/// Returns a line that names the classes without any image, and one that names those of test images alone. `train` and
/// `test` count the images of each class, `names` are the classes'.
pub fn missing(train: &[usize], test: &[usize], names: &[String]) -> Vec<String> {
    let listed = |chosen: &dyn Fn(usize, usize) -> bool| {
        let counts = train.iter().zip(test).zip(names);
        let all: Vec<&str> = counts.filter(|((a, b), _)| chosen(**a, **b)).map(|(_, name)| name.as_str()).collect();
        let more = all.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let class = if all.len() == 1 { "class" } else { "classes" };
        let shown = all.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        (!all.is_empty()).then(|| format!("{class} {shown}{more}"))
    };
    let none = listed(&|a, b| a == 0 && b == 0).map(|list| format!("no image has {list} (of {} classes)", names.len()));
    let test_only =
        listed(&|a, b| a == 0 && b > 0).map(|list| format!("no training image has {list}, test images have"));
    none.into_iter().chain(test_only).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_classes_and_those_of_test_images_alone_are_named() {
        let names: Vec<String> = (0..27).map(|i| i.to_string()).collect();
        let labels = |from: u8, to: u8| counts(27, from..=to);
        assert!(missing(&labels(0, 26), &labels(0, 26), &names).is_empty());
        assert_eq!(missing(&labels(1, 26), &labels(1, 26), &names), ["no image has class 0 (of 27 classes)"]);
        assert_eq!(
            missing(&labels(1, 24), &labels(1, 26), &names),
            ["no image has class 0 (of 27 classes)", "no training image has classes 25, 26, test images have"]
        );
        assert_eq!(
            missing(&labels(0, 15), &labels(0, 0), &names),
            ["no image has classes 16, 17, 18, 19, 20, 21, 22, 23 and 3 more (of 27 classes)"]
        );
        assert_eq!((occurring(&[3, 1, 3]), counts(3, [1, 1, 9].into_iter())), (vec![1, 3], vec![0, 2, 0]));
    }
}
