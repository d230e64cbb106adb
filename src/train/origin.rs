//! What a checkpoint says of the run that made it, beside the model and how far it had come: its settings.

use crate::error::{Error, Result};
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
}

impl Origin {
    /// Returns the origin of a run of `recipe`.
    pub fn of(recipe: &Recipe) -> Origin {
        // The number format decides results too, although a run may be resumed in another.
        let recorded = |s: &&Setting| s.section != RESUMABLE || s.name == "dtype";
        Origin { settings: Some(SETTINGS.iter().filter(recorded).map(|s| s.to_toml(recipe)).collect()) }
    }

    /// Returns what `metadata` says.
    pub fn read(metadata: &Metadata) -> Origin {
        Origin { settings: metadata.get(SETTINGS_KEY).cloned() }
    }

    /// Adds it to `metadata`.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.extend(self.settings.iter().map(|text| (SETTINGS_KEY.to_owned(), text.clone())));
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
            Origin::of(&recipe).write(&mut metadata);
            let read = Origin::read(&metadata).recipe("last.safetensors".as_ref()).unwrap().unwrap();
            let kept = s.section != RESUMABLE || s.name == "dtype";
            assert_eq!(s.get(&read) == s.get(&recipe), kept, "{}", s.name);
        }
        assert_eq!(Origin::read(&Metadata::new()).recipe("old.safetensors".as_ref()), Ok(None));
    }

    #[test]
    fn settings_of_a_later_version_are_named() {
        let origin = Origin { settings: Some("lr = 0.1\nwarp = 9\n".into()) };
        let e = origin.recipe("new.safetensors".as_ref()).unwrap_err().to_string();
        assert!(e.starts_with("the settings in new.safetensors line 2: unknown key 'warp'"), "{e}");
    }
}
