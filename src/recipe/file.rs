//! config.toml: flat keys, one for each setting, with the sections of the help text as comments.

use super::{Kind, Overrides, Recipe, SETTINGS, Setting, Value};
use crate::error::{Error, Result, nearest};
use crate::files::{MAX_SETTINGS, read_text};
use std::fmt::Write;
use std::path::Path;
use toml::de::{DeTable, DeValue};

impl Recipe {
    /// Reads a file as [`Recipe::to_toml`] writes it. Keys that are missing keep their defaults.
    ///
    /// # Errors
    /// NoInput: the file cannot be read. Data: as for [`Recipe::from_toml`].
    pub fn read(path: &Path) -> Result<Recipe> {
        Recipe::default().with(&Overrides::read(path)?)
    }

    /// The recipe in `text`; `origin` is what messages call it.
    ///
    /// # Errors
    /// Data: not TOML, an unknown key, a value of the wrong type or out of range; with the line.
    pub fn from_toml(text: &str, origin: &str) -> Result<Recipe> {
        Recipe::default().with(&Overrides::from_toml(text, origin)?)
    }

    /// Every setting with its value. [`Recipe::from_toml`] gives an equal recipe, to the last bit of each number.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for s in SETTINGS {
            if s.section != section {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}# {}", if section.is_empty() { "" } else { "\n" }, s.section);
                section = s.section;
            }
            text += &s.to_toml(self);
        }
        text
    }
}

impl Setting {
    /// Returns its line of config.toml: `lr = 0.1`.
    pub fn to_toml(&self, recipe: &Recipe) -> String {
        format!("{} = {}\n", self.key(), toml_value(&self.get(recipe)))
    }
}

impl Overrides {
    /// The settings that a file gives.
    ///
    /// # Errors
    /// NoInput: the file cannot be read. Data: as for [`Recipe::from_toml`].
    pub fn read(path: &Path) -> Result<Overrides> {
        Overrides::from_toml(&read_text(path, MAX_SETTINGS)?, &path.display().to_string())
    }

    /// The settings in `text`; `origin` is what messages call it.
    ///
    /// # Errors
    /// Data: as for [`Recipe::from_toml`].
    pub fn from_toml(text: &str, origin: &str) -> Result<Overrides> {
        let at = |byte: usize| format!("{origin} line {}", 1 + text[..byte].matches('\n').count());
        let table = DeTable::parse(text).map_err(|e| {
            let start = e.span().map_or(text.len(), |s| s.start.min(text.len()));
            Error::data(format!("{}: {}", at(start), e.message().trim_end().replace('\n', ", ")))
        })?;
        let mut overrides = Overrides::default();
        // The parser's table is sorted by key; the first mistake of the file is the one to report.
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            let place = at(key.span().start);
            let Some(setting) = SETTINGS.iter().find(|s| s.key() == name) else {
                return Err(unknown_key(name, value.get_ref()).context(place));
            };
            let value = read_value(setting.kind, value.get_ref(), &text[value.span()]);
            overrides.set(setting.name, value.map_err(|e| Error::data(format!("{place}: {name} {e}")))?);
        }
        Ok(overrides)
    }
}

fn unknown_key(name: &str, value: &DeValue<'_>) -> Error {
    if value.is_table() {
        return Error::data(format!("'{name}' is a section; settings stand outside of any, as in lr = 0.1"));
    }
    let keys: Vec<String> = SETTINGS.iter().map(Setting::key).collect();
    let hint = match nearest(name, keys.iter().map(String::as_str)) {
        Some(key) => format!("did you mean '{key}'?"),
        None => "'samcore train --help' lists all settings".to_string(),
    };
    Error::data(format!("unknown key '{name}'; {hint}"))
}

/// A key's value as one of `kind`, or what it must be. `source` is how the file spells it.
fn read_value(kind: Kind, value: &DeValue<'_>, source: &str) -> Result<Value> {
    let read = match (kind, value) {
        (Kind::Switch, DeValue::Boolean(v)) => Some(Value::Switch(*v)),
        (Kind::Count(..), DeValue::Integer(v)) => u64::from_str_radix(v.as_str(), v.radix()).ok().map(Value::Count),
        (Kind::Number(..), _) => number(value).map(Value::Number),
        (Kind::Shares, DeValue::Array(v)) => {
            v.iter().map(|x| number(x.get_ref())).collect::<Option<_>>().map(Value::List)
        }
        (Kind::Names | Kind::Rates, DeValue::Array(v)) => {
            v.iter().map(|x| Some(x.get_ref().as_str()?.to_string())).collect::<Option<_>>().map(Value::Names)
        }
        (Kind::Choice(_) | Kind::Device | Kind::Text, DeValue::String(v)) => Some(Value::Text(v.to_string())),
        _ => None,
    };
    let word = value.as_str().unwrap_or_default();
    read.filter(|value| kind.check(value).is_ok()).ok_or_else(|| kind.refusal(source, word))
}

/// A real number, which may be written without a point.
fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(v) => v.as_str().parse().ok(),
        DeValue::Integer(v) if v.radix() == 10 => v.as_str().parse().ok(),
        _ => None,
    }
}

fn toml_value(value: &Value) -> String {
    match value {
        Value::Switch(v) => v.to_string(),
        Value::Count(v) => v.to_string(),
        // The debug form is the shortest that reads back exactly, and always has the point or exponent TOML asks for.
        Value::Number(v) => format!("{v:?}"),
        Value::List(v) => format!("{v:?}"),
        Value::Names(v) => format!("[{}]", v.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
        Value::Text(v) => quoted(v),
    }
}

/// A string of TOML. JSON's escapes are TOML's too, but TOML forbids a bare delete character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::super::tests::other_value;
    use super::*;

    #[test]
    fn each_setting_survives_writing_and_reading() {
        for s in SETTINGS {
            let mut recipe = Recipe::default();
            s.set(&mut recipe, other_value(s)).unwrap();
            let text = recipe.to_toml();
            assert_eq!(Recipe::from_toml(&text, "config.toml"), Ok(recipe), "{}", s.name);
        }
        assert_eq!(Recipe::from_toml("", "empty"), Ok(Recipe::default()));
    }

    #[test]
    fn written_files_list_every_setting_once_below_its_section() {
        let text = Recipe::default().to_toml();
        assert!(text.starts_with("# Data\ndata = \"fashion-mnist\"\nval_fraction = 0.0\n"), "{text}");
        assert!(
            text.contains("\n\n# Learning rate\nlr = 0.1\nhead_lr = 0.0\ngroup_lr = []\nschedule = \"cosine\"\n"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| line.contains(" = ")).count(), SETTINGS.len());
    }

    #[test]
    fn hand_written_files_may_omit_points_and_mix_spellings() {
        let recipe = Recipe::from_toml("seed = 0x10\nrho = 0 # off\nlr = 1_0e-2\nmilestones = [0.5]\n", "f").unwrap();
        assert_eq!((recipe.seed, recipe.rho, recipe.lr, recipe.milestones), (16, 0.0, 0.1, vec![0.5]));
    }

    #[test]
    fn mistakes_are_reported_with_file_line_key_and_what_is_allowed() {
        for (text, message) in [
            ("lr = 0.1\n\nrho = -0.1\n", "f line 3: rho must be a number of at least 0, not -0.1"),
            ("rho = nan", "f line 1: rho must be a number of at least 0, not nan"),
            ("lr = \"0.1\"", "f line 1: lr must be a number above 0, not \"0.1\""),
            ("lr = 0", "f line 1: lr must be a number above 0, not 0"),
            ("lr = 1e999", "f line 1: lr must be a number above 0, not 1e999"),
            ("momentum = 1", "f line 1: momentum must be a number from 0 to below 1, not 1"),
            ("batch = 0", "f line 1: batch must be a whole number from 1 to 4294967295, not 0"),
            ("batch = -5", "f line 1: batch must be a whole number from 1 to 4294967295, not -5"),
            ("batch = 1.0", "f line 1: batch must be a whole number from 1 to 4294967295, not 1.0"),
            ("flip = 1", "f line 1: flip must be true or false, not 1"),
            (
                "schedule = \"cosin\"",
                "f line 1: schedule must be one of cosine, step, constant, one-cycle, not \"cosin\"; did you mean 'cosine'?",
            ),
            (
                "milestones = [0.6, 0.3]",
                "f line 1: milestones must be ascending numbers between 0 and 1, such as 0.3,0.6,0.8, not [0.6, 0.3]",
            ),
            (
                "milestones = 0.5",
                "f line 1: milestones must be ascending numbers between 0 and 1, such as 0.3,0.6,0.8, not 0.5",
            ),
            ("data = \"\"", "f line 1: data must be a text that is not empty, not \"\""),
            (
                "seed = 9223372036854775808",
                "f line 1: seed must be a whole number from 0 to 9223372036854775807, not 9223372036854775808",
            ),
            ("\nweigth_decay = 1", "f line 2: unknown key 'weigth_decay'; did you mean 'weight_decay'?"),
            ("weight-decay = 1", "f line 1: unknown key 'weight-decay'; did you mean 'weight_decay'?"),
            ("zzz = 1", "f line 1: unknown key 'zzz'; 'samcore train --help' lists all settings"),
            ("# x\n[train]\nlr = 1", "f line 2: 'train' is a section; settings stand outside of any, as in lr = 0.1"),
            ("zzz = 1\nbatch = 0", "f line 1: unknown key 'zzz'; 'samcore train --help' lists all settings"),
            ("seed = 1\nseed = 2", "f line 2: duplicate key"),
        ] {
            let error = Recipe::from_toml(text, "f").unwrap_err();
            assert_eq!((error.to_string(), error.exit_code()), (message.to_string(), 65), "{text}");
        }
        let broken = Recipe::from_toml("seed = 1\nlr = = 2", "f").unwrap_err().to_string();
        assert!(broken.starts_with("f line 2: "), "{broken}");
    }
}
