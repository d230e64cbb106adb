//! Two results side by side: what `samcore bench --json` wrote earlier, and what was measured now, by name.

use super::limits::{COPY, FMA};
use crate::error::{Error, Result};
use crate::files::{looks_like, read_bytes};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Figures that are compared: the key of the spread in a result, its unit, and true if more is faster.
const FIGURES: [(&str, &str, bool); 4] =
    [("images_per_s", "images/s", true), ("ms", "ms", false), ("gflops", "GFLOP/s", true), ("gb_per_s", "GB/s", true)];

/// Largest file that is read: a run of everything writes 60 kB.
const LARGEST: u64 = 8 << 20;

/// The figure of one result.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub name: String,
    /// Finite and above 0.
    pub median: f64,
    pub unit: &'static str,
    more_is_faster: bool,
}

impl Figure {
    /// Reads one result.
    ///
    /// # Errors
    /// Data: what is missing, phrased to stand behind the place of the line.
    pub fn of(result: &Value) -> Result<Figure> {
        let wrong = |what: &str| Err(Error::data(what));
        let Some(entries) = result.as_object() else { return wrong("this is not a JSON object") };
        let name = match entries.get("name").and_then(Value::as_str) {
            Some(name) if !name.trim().is_empty() => name.to_owned(),
            _ => return wrong("there is no \"name\""),
        };
        let found = FIGURES.iter().find_map(|f| Some((f, entries.get(f.0)?.as_object()?)));
        let Some(((key, unit, more_is_faster), spread)) = found else {
            let keys = FIGURES.map(|f| format!("\"{}\"", f.0)).join(", ");
            return wrong(&format!("{name:?} has none of {keys} with its median"));
        };
        match spread.get("median").and_then(Value::as_f64) {
            Some(median) if median > 0.0 && median.is_finite() => {
                Ok(Figure { name, median, unit, more_is_faster: *more_is_faster })
            }
            _ => wrong(&format!("\"{key}\" of {name:?} has no \"median\" above 0")),
        }
    }
}

/// Reads the file that `--json` wrote.
///
/// # Errors
/// NoInput: it cannot be read. Data: it is no such result; the message names file and line.
pub fn read(path: &Path) -> Result<Vec<Figure>> {
    parse(&read_bytes(path, LARGEST)?).map_err(|e| e.context(path.display()))
}

/// Reads lines of JSON, each a result with a name of its own; empty lines are skipped.
///
/// # Errors
/// Data: "line 3: …", what is wrong with the first line that is no result.
pub fn parse(bytes: &[u8]) -> Result<Vec<Figure>> {
    const WANTED: &str = "a result of 'samcore bench --json' is wanted";
    if let Some(what) = looks_like(bytes) {
        return Err(Error::data(format!("line 1: this is {what}; {WANTED}")));
    }
    let mut figures: Vec<Figure> = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let number = i + 1;
        let wrong = |what: String| Error::data(format!("line {number}: {what}; {WANTED}"));
        if line.trim_ascii().is_empty() {
            continue;
        }
        // serde_json counts lines itself; here the column alone says something.
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| wrong(format!("no whole JSON value in the line (column {})", e.column())))?;
        let figure = Figure::of(&value).map_err(|e| wrong(e.to_string()))?;
        if let Some(first) = lines.insert(figure.name.clone(), number) {
            return Err(wrong(format!("{:?} is in line {first} already", figure.name)));
        }
        figures.push(figure);
    }
    if figures.is_empty() {
        return Err(Error::data(format!("line 1: there is no result; {WANTED}")));
    }
    Ok(figures)
}

/// One name in both results.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub name: String,
    pub unit: &'static str,
    pub then: f64,
    pub now: f64,
    /// Speed now over speed then: above 1 is faster now, whatever the unit.
    pub speed: f64,
}

/// Names that two results share, and names that one of them lacks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub pairs: Vec<Pair>,
    /// In the earlier result only, or with another unit there.
    pub missing: Vec<String>,
    pub new: Vec<String>,
}

impl Comparison {
    /// In the order of `now`, then of `then`.
    pub fn of(then: &[Figure], now: &[Figure]) -> Comparison {
        let earlier: HashMap<&str, &Figure> = then.iter().map(|f| (&f.name[..], f)).collect();
        let mut comparison = Comparison::default();
        for f in now {
            match earlier.get(&f.name[..]).filter(|e| e.unit == f.unit) {
                Some(e) => {
                    let speed = if f.more_is_faster { f.median / e.median } else { e.median / f.median };
                    let (name, unit) = (f.name.clone(), f.unit);
                    comparison.pairs.push(Pair { name, unit, then: e.median, now: f.median, speed });
                }
                None => comparison.new.push(f.name.clone()),
            }
        }
        let matched: HashSet<&str> = comparison.pairs.iter().map(|p| &p.name[..]).collect();
        let missing = then.iter().filter(|f| !matched.contains(&f.name[..]));
        comparison.missing = missing.map(|f| f.name.clone()).collect();
        comparison
    }

    /// Returns how much faster the machine itself is now, by its multiply-add and copy limits, where both results have them.
    pub fn drift(&self) -> Option<(f64, f64)> {
        let speed = |name: &str| self.pairs.iter().find(|p| p.name == name).map(|p| p.speed);
        Some((speed(FMA)?, speed(COPY)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;
    use crate::rng::{Draws, stream};

    fn figure(name: &str, key: &str, median: f64) -> Figure {
        Figure::of(&serde_json::json!({"name": name, key: {"median": median}})).unwrap()
    }

    #[test]
    fn ratios_are_of_speeds_and_names_in_one_result_alone_are_listed() {
        let then = [figure("a", "ms", 2.0), figure("b", "images_per_s", 100.0), figure("old", "ms", 1.0)];
        let now = [figure("b", "images_per_s", 150.0), figure("a", "ms", 4.0), figure("new", "gflops", 1.0)];
        let comparison = Comparison::of(&then, &now);
        let speeds: Vec<_> = comparison.pairs.iter().map(|p| (&p.name[..], p.speed)).collect();
        assert_eq!(speeds, [("b", 1.5), ("a", 0.5)]);
        assert_eq!((comparison.missing, comparison.new), (vec!["old".to_string()], vec!["new".to_string()]));
    }

    #[test]
    fn a_result_that_is_written_can_be_read_and_the_machines_drift_told() {
        let now = Limits::example();
        let then = Limits { fma: now.fma.times(0.5), copy: now.copy.times(2.0), ..now.clone() };
        let text: String = then.to_json().iter().map(|line| format!("{line}\n")).collect();
        let then = parse(text.as_bytes()).unwrap();
        let now: Vec<Figure> = now.to_json().iter().map(|line| Figure::of(line).unwrap()).collect();
        assert_eq!(Comparison::of(&then, &now).drift(), Some((2.0, 0.5)));
        assert_eq!(Comparison::of(&[], &now).drift(), None);
    }

    #[test]
    fn whatever_is_no_result_gets_one_message_with_its_line() {
        let good = r#"{"name": "a", "ms": {"median": 1.5}}"#;
        let deep = "[".repeat(100_000);
        for (text, message) in [
            ("", "line 1: there is no result"),
            ("\n \n", "line 1: there is no result"),
            ("{", "line 1: no whole JSON value in the line (column 1)"),
            (&format!("{good}\n\n{{\"name\": }}"), "line 3: no whole JSON value in the line (column 10)"),
            (&format!("{good}\n{good}"), "line 2: \"a\" is in line 1 already"),
            (&format!("{good} {good}"), "line 1: no whole JSON value"),
            (&deep, "line 1: no whole JSON value"),
            ("[1]", "line 1: this is not a JSON object"),
            (r#"{"ms": {"median": 1}}"#, "line 1: there is no \"name\""),
            (r#"{"name": 7, "ms": {"median": 1}}"#, "line 1: there is no \"name\""),
            (r#"{"name": "x\u0000", "ms": 3}"#, "line 1: \"x\\0\" has none of \"images_per_s\", \"ms\""),
            (r#"{"name": "x", "ms": {}}"#, "line 1: \"ms\" of \"x\" has no \"median\" above 0"),
            (r#"{"name": "x", "ms": {"median": -1}}"#, "\"median\" above 0"),
            (r#"{"name": "x", "ms": {"median": 1e999}}"#, "line 1: no whole JSON value"),
            (r#"{"name": "x", "ms": {"median": "1"}}"#, "\"median\" above 0"),
            ("\u{1f}\u{8b}", "line 1: no whole JSON value"),
            ("PK\u{3}\u{4}", "line 1: this is a zip archive"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("line "), "{error}");
            assert!(error.to_string().contains(message), "{text:.80}: {error}");
            assert_eq!((error.exit_code(), error.to_string().lines().count()), (65, 1), "{error}");
        }
        assert!(parse(&[b'{', 0xff, 0xfe]).is_err());
    }

    #[test]
    fn no_damage_to_a_result_breaks_the_reader() {
        let text: String = Limits::example().to_json().iter().map(|line| format!("{line}\n")).collect();
        let mut draws = Draws::new(1, stream("damage"), 0, 0);
        for _ in 0..2000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..1 + draws.below(4) {
                let at = draws.below(bytes.len() as u32) as usize;
                match draws.below(3) {
                    0 => bytes[at] = draws.below(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"{}[]\":,\n-e9"[draws.below(11) as usize]),
                }
            }
            if let Err(e) = parse(&bytes) {
                assert!(e.to_string().starts_with("line ") && e.to_string().lines().count() == 1, "{e}");
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_or_far_too_large_is_named() {
        let folder = crate::files::TestFolder::new("bench");
        let (missing, large) = (folder.0.join("missing.json"), folder.0.join("large.json"));
        std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&missing).unwrap_err().exit_code(), 66);
        let error = read(&large).unwrap_err().to_string();
        assert!(error.contains("large.json is 1099511627776 bytes long"), "{error}");
        // A folder can be opened, but not read.
        assert!(read(&folder.0).unwrap_err().to_string().contains(&folder.0.display().to_string()));
    }
}
