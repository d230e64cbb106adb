//! Some settings with their values: what a model's own recipe, a file or a command line says of a run.

use super::{Augmentation, PRESET, Recipe, SETTINGS, Setting, Value, setting};
use crate::error::Result;
use crate::optim::{self, OPTIMIZERS, OptimizerRow};

/// Values of some settings, one each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides(Vec<(&'static str, Value)>);

impl Overrides {
    /// Reads values as a command line has them, by the names of flags.
    ///
    /// # Errors
    /// Usage: no such setting, or a value that it cannot have; the message begins with the setting's name.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> Result<Overrides> {
        let mut overrides = Overrides::default();
        for (name, text) in texts {
            let s = setting(name)?;
            overrides.set(s.name, s.kind.parse(text).map_err(|e| e.context(name))?);
        }
        Ok(overrides)
    }

    /// Gives setting `name` this value instead of any earlier one.
    pub fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|o| o.0 == name) {
            Some(place) => place.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Returns the settings with those of `other` on top. If `other` has another preset of augmentation, the settings that the
    /// earlier preset gave are dropped.
    pub fn with(mut self, other: Overrides) -> Overrides {
        let preset = other.get("augment").filter(|value| **value != Value::Text(Augmentation::NAMES[0].into()));
        if preset.is_some() && preset != self.get("augment") {
            self.0.retain(|(name, _)| !PRESET.contains(name));
        }
        other.0.into_iter().for_each(|(name, value)| self.set(name, value));
        self
    }

    /// Returns an optimizer's defaults of its own settings, some of which may depend on what is `given` of the others.
    ///
    /// # Errors
    /// Usage: a row of the table with a value that its setting cannot have.
    pub fn of_optimizer(row: &OptimizerRow, given: &Overrides) -> Result<Overrides> {
        let parse = |pairs: &[(&str, &str)]| Overrides::parse(pairs).map_err(|e| e.context(row.name));
        let mut own = parse(row.recipe)?;
        for variant in row.variants {
            let value = setting(variant.setting)?.kind.parse(variant.value)?;
            if given.get(variant.setting).or(own.get(variant.setting)) == Some(&value) {
                own = own.with(parse(variant.recipe)?);
            }
        }
        Ok(own)
    }

    /// Returns what somebody chose of these settings, for runs of another optimizer than theirs. A file that samcore wrote
    /// lists every setting, so an optimizer's own setting at that optimizer's default was not chosen, and is left out.
    /// A shorter file was written by hand, and everything in it was chosen.
    ///
    /// # Errors
    /// Usage: no such optimizer.
    pub fn chosen(self) -> Result<Overrides> {
        if !self.are_whole() {
            return Ok(self);
        }
        let name = self.get("opt").map_or("sgd".to_owned(), Value::to_string);
        let row = optim::find(&name)?;
        let defaults = Recipe::default().with(&Overrides::of_optimizer(row, &self)?)?;
        let owned = |name: &str| OPTIMIZERS.iter().any(|row| row.settings.contains(&name));
        let unchosen = |s: &&Setting| owned(s.name) && self.get(s.name) == Some(&s.get(&defaults));
        let unchosen: Vec<&str> = SETTINGS.iter().filter(unchosen).map(|s| s.name).collect();
        Ok(self.without(&unchosen))
    }

    /// Checks whether these are nearly all settings, as a config.toml or compare.toml has them that samcore wrote itself.
    fn are_whole(&self) -> bool {
        // Other versions wrote some fewer or more.
        self.0.len() * 2 > SETTINGS.len()
    }

    /// Returns the settings but those with these names.
    pub fn without(mut self, names: &[&str]) -> Overrides {
        self.0.retain(|(name, _)| !names.contains(name));
        self
    }

    /// The value of setting `name`, if it is here.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|o| o.0 == name).map(|o| &o.1)
    }

    /// Names and values, in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.0.iter()
    }
}

impl Recipe {
    /// The defaults, with what is better for one optimizer in their place.
    ///
    /// # Errors
    /// Usage: a row of the table with a value that its setting cannot have.
    pub fn of_optimizer(row: &OptimizerRow) -> Result<Recipe> {
        let own = Overrides::of_optimizer(row, &Overrides::default())?;
        Recipe { opt: row.name.into(), ..Recipe::default() }.with(&own)
    }

    /// The recipe with these values in place of its own.
    ///
    /// # Errors
    /// Usage: a value that its setting cannot have.
    pub fn with(mut self, overrides: &Overrides) -> Result<Recipe> {
        for (name, value) in overrides.iter() {
            setting(name)?.set(&mut self, value.clone()).map_err(|e| e.context(name))?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_setting_counts_and_others_stay() {
        let first = Overrides::parse(&[("lr", "0.5"), ("flip", "false"), ("lr", "0.25")]).unwrap();
        let second = Overrides::parse(&[("milestones", "0.5,0.75"), ("flip", "true")]).unwrap();
        let recipe = Recipe::default().with(&first.with(second)).unwrap();
        assert_eq!(recipe, Recipe { lr: 0.25, milestones: vec![0.5, 0.75], ..Recipe::default() });
    }

    #[test]
    fn another_preset_of_augmentation_takes_the_place_of_what_the_one_before_gave() {
        let parse = |texts: &[(&str, &str)]| Overrides::parse(texts).unwrap();
        let config = || parse(&[("lr", "0.5"), ("augment", "aa"), ("crop", "4"), ("autoaugment", "true")]);
        let basic = parse(&[("augment", "basic"), ("flip", "false")]);
        let expected = parse(&[("lr", "0.5"), ("augment", "basic"), ("flip", "false")]);
        assert_eq!(config().with(basic), expected);
        for same in ["aa", "own"] {
            let with = config().with(parse(&[("augment", same)]));
            assert_eq!(with.get("crop"), config().get("crop"), "{same}");
        }
    }

    #[test]
    fn wrong_names_and_values_are_told() {
        for (name, text, message) in [
            ("weight_decay", "0", "unknown setting 'weight_decay'; did you mean 'weight-decay'?"),
            ("lr", "0", "lr: must be a number above 0, not '0'"),
        ] {
            assert_eq!(Overrides::parse(&[(name, text)]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn every_models_recipe_consists_of_settings_that_make_a_valid_run() {
        for row in crate::models::MODELS {
            let own = Overrides::parse(row.recipe.iter().copied().flatten()).unwrap();
            Recipe::default().with(&own).unwrap().validate().unwrap();
            assert!(own.iter().all(|(name, _)| !["data", "model", "opt", "seed"].contains(name)), "{}", row.name);
        }
    }

    #[test]
    fn every_optimizers_recipe_consists_of_its_own_settings_and_makes_a_valid_run() {
        for row in crate::optim::OPTIMIZERS {
            Recipe::of_optimizer(row).unwrap().validate().unwrap();
            assert!(row.recipe.iter().all(|(name, _)| row.settings.contains(name)), "{}", row.name);
            for variant in row.variants {
                let names = variant.recipe.iter().map(|(name, _)| *name).chain([variant.setting]);
                assert!(names.into_iter().all(|name| row.settings.contains(&name)), "{}", row.name);
                let given = Overrides::parse(&[(variant.setting, variant.value)]).unwrap();
                let own = Overrides::of_optimizer(row, &given).unwrap();
                Recipe::default().with(&own).unwrap().with(&given).unwrap().validate().unwrap();
            }
        }
    }

    #[test]
    fn a_corruptions_default_size_is_that_of_its_norm() {
        let row = crate::optim::find("corruption").unwrap();
        for (given, eps) in [(&[][..], 2e-4), (&[("corruption-p", "inf")], 2e-4), (&[("corruption-p", "2")], 0.05)] {
            let own = Overrides::of_optimizer(row, &Overrides::parse(given).unwrap()).unwrap();
            assert_eq!(Recipe::default().with(&own).unwrap().corruption_eps, eps, "{given:?}");
        }
    }
}
