//! Origin of a checkpoint: the settings of the run that made it, and the SHA-256 of its data.

use crate::data::DataSet;
use crate::error::{Error, Result};
use crate::files::{in_threads, sha256_hex};
use crate::recipe::{Overrides, RESUMABLE, Recipe, SETTINGS, Setting};
use crate::safetensors::Metadata;
use std::path::Path;

/// Key of the settings, as lines of config.toml.
const SETTINGS_KEY: &str = "samcore.settings";

/// The run behind a checkpoint. Checkpoints of older versions say nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// The settings that decide the run's results, as lines of config.toml; those of the machine are left out.
    pub settings: Option<String>,
    pub content: Option<Content>,
}

/// SHA-256 of what a run trains and is tested on: pixels and labels as it has them, so noise and predictions among the labels
/// are included. Data are identified by it wherever they lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content([String; PARTS.len()]);

/// The parts of the data: metadata key, and name in messages.
const PARTS: [(&str, &str); 4] = [
    ("samcore.train_images_sha256", "training images"),
    ("samcore.train_labels_sha256", "training labels"),
    ("samcore.test_images_sha256", "test images"),
    ("samcore.test_labels_sha256", "test labels"),
];
/// Place of the training labels in [`PARTS`].
const TRAIN_LABELS: usize = 1;

impl Content {
    /// Returns the hashes of `data`: 55 MB of Fashion-MNIST, a thread for each part.
    pub fn of(data: &DataSet) -> Content {
        let parts = [&data.train.images, &data.train.labels, &data.test.images, &data.test.labels];
        let mut hashes = in_threads(&[0, 1, 2, 3], |i: usize| sha256_hex(parts[i])).into_iter();
        Content(PARTS.map(|_| hashes.next().unwrap_or_default()))
    }

    /// Returns the same with other training labels.
    pub fn with_train_labels(&self, labels: &[u8]) -> Content {
        let mut parts = self.0.clone();
        parts[TRAIN_LABELS] = sha256_hex(labels);
        Content(parts)
    }

    /// Returns the names of the parts in which `other` differs: "training labels".
    pub fn differences(&self, other: &Content) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0).zip(PARTS);
        pairs.filter(|((a, b), _)| a != b).map(|(_, (_, name))| name).collect()
    }

    /// Returns the same, leaving out training labels, which noise and predictions change.
    pub fn differences_but_train_labels(&self, other: &Content) -> Vec<&'static str> {
        let differences = self.differences(other).into_iter();
        differences.filter(|name| *name != PARTS[TRAIN_LABELS].1).collect()
    }
}

impl Origin {
    /// Returns the origin of a run of `recipe` on data with this content.
    pub fn of(recipe: &Recipe, content: Option<&Content>) -> Origin {
        // The number format decides results too, although a run may be resumed in another.
        let recorded = |s: &&Setting| s.section != RESUMABLE || s.name == "dtype";
        let settings = SETTINGS.iter().filter(recorded).map(|s| s.to_toml(recipe)).collect();
        Origin { settings: Some(settings), content: content.cloned() }
    }

    /// Returns what `metadata` says.
    pub fn read(metadata: &Metadata) -> Origin {
        let parts: Vec<String> = PARTS.iter().filter_map(|(key, _)| metadata.get(*key).cloned()).collect();
        Origin { settings: metadata.get(SETTINGS_KEY).cloned(), content: parts.try_into().ok().map(Content) }
    }

    /// Adds it to `metadata`.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.extend(self.settings.iter().map(|text| (SETTINGS_KEY.to_owned(), text.clone())));
        let parts = self.content.iter().flat_map(|content| PARTS.iter().zip(&content.0));
        metadata.extend(parts.map(|((key, _), hash)| ((*key).to_owned(), hash.clone())));
    }

    /// Returns the settings, if the checkpoint at `path` has them; those of the machine are not among them.
    ///
    /// # Errors
    /// Data: a setting that this version does not know, or with a value that it cannot have.
    pub fn overrides(&self, path: &Path) -> Result<Option<Overrides>> {
        let read = |text: &String| Overrides::from_toml(text, &format!("the settings in {}", path.display()));
        self.settings.as_ref().map(read).transpose()
    }

    /// Returns the recipe of the run, if the checkpoint at `path` has its settings; those of the machine have their defaults.
    ///
    /// # Errors
    /// Data: as for `overrides`.
    pub fn recipe(&self, path: &Path) -> Result<Option<Recipe>> {
        let with = |own: Overrides| Recipe::default().with(&own).map_err(|e| Error::data(e.to_string()));
        self.overrides(path)?.map(with).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::other_value;

    #[test]
    fn every_setting_that_decides_results_survives_in_the_metadata() {
        for s in SETTINGS {
            let mut recipe = Recipe::default();
            s.set(&mut recipe, other_value(s)).unwrap();
            let mut metadata = Metadata::new();
            Origin::of(&recipe, None).write(&mut metadata);
            let read = Origin::read(&metadata).recipe("last.safetensors".as_ref()).unwrap().unwrap();
            let kept = s.section != RESUMABLE || s.name == "dtype";
            assert_eq!(s.get(&read) == s.get(&recipe), kept, "{}", s.name);
        }
        assert_eq!(Origin::read(&Metadata::new()).recipe("old.safetensors".as_ref()), Ok(None));
    }

    #[test]
    fn settings_of_a_later_version_are_named() {
        let origin = Origin { settings: Some("lr = 0.1\nwarp = 9\n".into()), content: None };
        let e = origin.recipe("new.safetensors".as_ref()).unwrap_err().to_string();
        assert!(e.starts_with("the settings in new.safetensors line 2: unknown key 'warp'"), "{e}");
    }
}
