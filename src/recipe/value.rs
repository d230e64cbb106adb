//! Values of settings: their kinds and ranges, and how they are read from text and shown in it.

use super::Target;
use crate::error::{Error, Result, nearest};
use std::fmt;
use std::ops::{Bound, RangeBounds};

/// The value of a setting, free of its place in the recipe.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Switch(bool),
    Count(u64),
    Number(f64),
    Text(String),
    List(Vec<f64>),
    Names(Vec<String>),
}

/// Kind of a setting's values.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// true or false.
    Switch,
    /// A whole number from the first to the second, both included.
    Count(u64, u64),
    /// A finite number between two bounds, as it is and as the f32 that devices get.
    Number(Bound<f64>, Bound<f64>),
    /// Numbers between 0 and 1 in ascending order, possibly none.
    Shares,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// A device: one of [`Target::NAMES`], or `cuda:N`.
    Device,
    /// Words without spaces and commas, possibly none.
    Names,
    /// Such words with a number above 0 each, "fc=0.1", possibly none; [`rate_of`] takes one apart.
    Rates,
    /// Any text but an empty one.
    Text,
}

impl Kind {
    /// The value that `text` stands for on a command line.
    ///
    /// # Errors
    /// Usage, phrased to stand behind the setting's name: "must be a number above 0, not 'x'".
    pub fn parse(&self, text: &str) -> Result<Value> {
        let word = text.trim();
        let value = match self {
            Kind::Switch => word.parse().ok().map(Value::Switch),
            Kind::Count(..) => word.parse().ok().map(Value::Count),
            Kind::Number(..) => word.parse().ok().map(Value::Number),
            Kind::Shares if word.is_empty() => Some(Value::List(Vec::new())),
            Kind::Shares => word.split(',').map(|w| w.trim().parse().ok()).collect::<Option<_>>().map(Value::List),
            Kind::Names | Kind::Rates if word.is_empty() => Some(Value::Names(Vec::new())),
            Kind::Names | Kind::Rates => Some(Value::Names(word.split(',').map(|w| w.trim().to_string()).collect())),
            Kind::Choice(_) | Kind::Device | Kind::Text => Some(Value::Text(text.to_string())),
        };
        let value = value.filter(|v| self.admits(v));
        value.ok_or_else(|| self.refusal(&format!("'{text}'"), text))
    }

    /// Checks that `value` is of this kind and within its range.
    ///
    /// # Errors
    /// Usage, phrased to stand behind the setting's name.
    pub fn check(&self, value: &Value) -> Result<()> {
        let word = if let Value::Text(text) = value { text } else { "" };
        if self.admits(value) { Ok(()) } else { Err(self.refusal(&value.to_string(), word)) }
    }

    /// The error for `shown`; a name like `word` is suggested.
    pub(super) fn refusal(&self, shown: &str, word: &str) -> Error {
        let hint = match self {
            Kind::Choice(names) => nearest(word, names.iter().copied()),
            // The usual name.
            Kind::Device if word == "gpu" => Some("cuda"),
            // In "cuda:x" only the number is wrong.
            Kind::Device => nearest(word.split(':').next().unwrap_or_default(), Target::NAMES),
            _ => None,
        };
        let hint = hint.map_or(String::new(), |name| format!("; did you mean '{name}'?"));
        Error::usage(format!("must be {self}, not {shown}{hint}"))
    }

    fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (Kind::Switch, Value::Switch(_)) => true,
            (Kind::Count(min, max), Value::Count(v)) => (min..=max).contains(&v),
            (Kind::Number(low, high), Value::Number(v)) => {
                [*v, f64::from(*v as f32)].iter().all(|v| v.is_finite() && (*low, *high).contains(v))
            }
            (Kind::Shares, Value::List(v)) => {
                v.iter().all(|x| *x > 0.0 && *x < 1.0) && v.windows(2).all(|pair| pair[0] < pair[1])
            }
            (Kind::Names, Value::Names(v)) => v.iter().all(|n| is_word(n)),
            (Kind::Rates, Value::Names(v)) => v.iter().all(|n| is_word(n) && rate_of(n).is_some()),
            (Kind::Choice(names), Value::Text(v)) => names.contains(&v.as_str()),
            (Kind::Device, Value::Text(v)) => Target::parse(v).is_some(),
            (Kind::Text, Value::Text(v)) => !v.trim().is_empty(),
            _ => false,
        }
    }

    /// The word for such a value in usage lines.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Kind::Switch => "true|false",
            Kind::Count(..) => "N",
            Kind::Number(..) => "X",
            Kind::Shares => "X,X,…",
            Kind::Names => "NAME,…",
            Kind::Rates => "NAME=X",
            Kind::Choice(_) | Kind::Device | Kind::Text => "NAME",
        }
    }
}

/// Shows the allowed values in words: "a number from 0 to below 1".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Switch => f.write_str("true or false"),
            Kind::Count(min, max) => write!(f, "a whole number from {min} to {max}"),
            Kind::Number(Bound::Included(low), Bound::Unbounded) => write!(f, "a number of at least {low}"),
            Kind::Number(low, high) => {
                f.write_str("a number")?;
                match low {
                    Bound::Included(x) => write!(f, " from {x}")?,
                    Bound::Excluded(x) => write!(f, " above {x}")?,
                    Bound::Unbounded => {}
                }
                match high {
                    Bound::Included(x) => write!(f, " to {x}"),
                    Bound::Excluded(x) => write!(f, " to below {x}"),
                    Bound::Unbounded => Ok(()),
                }
            }
            Kind::Shares => f.write_str("ascending numbers between 0 and 1, such as 0.3,0.6,0.8"),
            Kind::Names => f.write_str("names with commas between them, such as conv1,bn1"),
            Kind::Rates => f.write_str("names with a number above 0 each, such as layer4=0.01,fc=0.1"),
            Kind::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Kind::Device => f.write_str("one of auto, cpu, cuda, cuda:N, emu"),
            Kind::Text => f.write_str("a text that is not empty"),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == ',')
}

/// Name and rate of "layer4=0.01"; None unless the name is there, and the rate above 0 and finite, as an f32 too.
pub fn rate_of(word: &str) -> Option<(&str, f64)> {
    let (name, rate) = word.rsplit_once('=')?;
    let rate: f64 = rate.parse().ok()?;
    let sound = [rate, f64::from(rate as f32)].iter().all(|r| r.is_finite() && *r > 0.0);
    (sound && !name.is_empty()).then_some((name, rate))
}

impl Value {
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Switch(v) => (*v).into(),
            Value::Count(v) => (*v).into(),
            Value::Number(v) => (*v).into(),
            Value::Text(v) => v.as_str().into(),
            Value::List(v) => v.as_slice().into(),
            Value::Names(v) => v.as_slice().into(),
        }
    }
}

/// As on a command line: reading it with the value's kind gives the same value.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Switch(v) => write!(f, "{v}"),
            Value::Count(v) => write!(f, "{v}"),
            Value::Number(v) => write!(f, "{v}"),
            Value::Text(v) => f.write_str(v),
            Value::Names(v) => f.write_str(&v.join(",")),
            Value::List(v) => f.write_str(&v.iter().map(f64::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_of_each_kind_are_refused_with_what_is_allowed() {
        let share = Kind::Number(Bound::Included(0.0), Bound::Excluded(1.0));
        let positive = Kind::Number(Bound::Excluded(0.0), Bound::Unbounded);
        let names = Kind::Choice(&["cosine", "step"]);
        for (kind, wrong, message) in [
            (Kind::Switch, "yes", "must be true or false, not 'yes'"),
            (Kind::Switch, "", "must be true or false, not ''"),
            (Kind::Count(1, 9), "0", "must be a whole number from 1 to 9, not '0'"),
            (Kind::Count(1, 9), "10", "must be a whole number from 1 to 9, not '10'"),
            (Kind::Count(1, 9), "-1", "must be a whole number from 1 to 9, not '-1'"),
            (Kind::Count(1, 9), "1.5", "must be a whole number from 1 to 9, not '1.5'"),
            (
                Kind::Count(1, 9),
                "99999999999999999999",
                "must be a whole number from 1 to 9, not '99999999999999999999'",
            ),
            (share, "1", "must be a number from 0 to below 1, not '1'"),
            (share, "-0.1", "must be a number from 0 to below 1, not '-0.1'"),
            (share, "NaN", "must be a number from 0 to below 1, not 'NaN'"),
            (positive, "0", "must be a number above 0, not '0'"),
            (positive, "inf", "must be a number above 0, not 'inf'"),
            // As f32 these are infinite, 0 and 1.
            (positive, "1e39", "must be a number above 0, not '1e39'"),
            (positive, "1e-50", "must be a number above 0, not '1e-50'"),
            (share, "0.999999999", "must be a number from 0 to below 1, not '0.999999999'"),
            (positive, "0,1", "must be a number above 0, not '0,1'"),
            (Kind::Shares, "0.6,0.3", "must be ascending numbers between 0 and 1, such as 0.3,0.6,0.8, not '0.6,0.3'"),
            (Kind::Shares, "0.5,1", "must be ascending numbers between 0 and 1, such as 0.3,0.6,0.8, not '0.5,1'"),
            (Kind::Shares, "0.5,", "must be ascending numbers between 0 and 1, such as 0.3,0.6,0.8, not '0.5,'"),
            (names, "cosin", "must be one of cosine, step, not 'cosin'; did you mean 'cosine'?"),
            (names, "exponential", "must be one of cosine, step, not 'exponential'"),
            (Kind::Names, "conv1,,bn1", "must be names with commas between them, such as conv1,bn1, not 'conv1,,bn1'"),
            (Kind::Rates, "fc", "must be names with a number above 0 each, such as layer4=0.01,fc=0.1, not 'fc'"),
            (
                Kind::Rates,
                "fc=0.1,=1",
                "must be names with a number above 0 each, such as layer4=0.01,fc=0.1, not 'fc=0.1,=1'",
            ),
            (
                Kind::Rates,
                "fc=1e-60",
                "must be names with a number above 0 each, such as layer4=0.01,fc=0.1, not 'fc=1e-60'",
            ),
            (Kind::Device, "gpu", "must be one of auto, cpu, cuda, cuda:N, emu, not 'gpu'; did you mean 'cuda'?"),
            (Kind::Device, "cuda:x", "must be one of auto, cpu, cuda, cuda:N, emu, not 'cuda:x'; did you mean 'cuda'?"),
            (Kind::Text, " ", "must be a text that is not empty, not ' '"),
        ] {
            assert_eq!(kind.parse(wrong).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn values_survive_being_shown_and_read() {
        let number = Kind::Number(Bound::Unbounded, Bound::Unbounded);
        for (kind, value) in [
            (Kind::Switch, Value::Switch(true)),
            (Kind::Count(0, u64::MAX), Value::Count(u64::MAX)),
            (number, Value::Number(0.1 + 0.2)),
            (number, Value::Number(-1e-300)),
            (number, Value::Number(f64::MIN_POSITIVE / 8.0)),
            (Kind::Shares, Value::List(vec![1.0 / 3.0, 2.0 / 3.0])),
            (Kind::Shares, Value::List(vec![])),
            (Kind::Names, Value::Names(vec!["block1.layer.0".into(), "fc".into()])),
            (Kind::Names, Value::Names(vec![])),
            (Kind::Rates, Value::Names(vec!["layer4.0=1e-3".into(), "fc=0.1".into()])),
            (Kind::Text, Value::Text("a folder/mit Ümlaut".into())),
        ] {
            assert_eq!(kind.parse(&value.to_string()), Ok(value));
        }
    }
}
