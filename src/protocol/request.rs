//! The request of a comparison, and compare.toml, which holds it.

use crate::error::{Error, Kind, Result};
use crate::files::{MAX_SETTINGS, read_text};
use crate::optim::{self, OptimizerRow};
use crate::recipe::{Overrides, RESUMABLE, Recipe, SETTINGS, Setting, setting};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Budget that all optimizers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Gradients of a batch: whoever takes one a step gets twice the epochs of who takes two.
    EqualGradients,
    EqualEpochs,
}

impl Budget {
    pub const ALL: [Budget; 2] = [Budget::EqualGradients, Budget::EqualEpochs];
    /// Names as --budget and compare.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["equal-gradients", "equal-epochs"];

    pub fn name(self) -> &'static str {
        Budget::NAMES[self as usize]
    }

    /// # Errors
    /// Usage: there is none of that name.
    pub fn of(name: &str) -> Result<Budget> {
        let found = Budget::ALL.into_iter().find(|b| b.name() == name);
        found.ok_or_else(|| crate::error::unknown("budget", name, &Budget::NAMES))
    }
}

/// A comparison as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Settings of all runs. `opt` and `seed` are each run's own; `epochs` are those of the optimizer with the dearest
    /// step.
    pub recipe: Recipe,
    /// Names of the settings that somebody gave, in the order of the table. Of the others, each optimizer has its own.
    pub given: Vec<&'static str>,
    /// By name; differences are to the first.
    pub optimizers: Vec<String>,
    pub seeds: Vec<u64>,
    pub budget: Budget,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            recipe: Recipe::default(),
            given: vec![],
            optimizers: vec!["sgd".into(), "sam".into()],
            seeds: vec![0, 1, 2],
            budget: Budget::EqualGradients,
        }
    }
}

/// Settings of a recipe that a comparison gives to each run by itself.
pub const OWN: [&str; 2] = ["opt", "seed"];
/// Largest number of seeds, against a slip of the keyboard.
const MOST_SEEDS: u64 = 1000;

/// Optimizers as --opt has them: `sgd,sam`.
pub fn parse_optimizers(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Seeds as --seeds has them: `3` is 0, 1, 2; with a comma, `3,5,8` or `7,`, it is the seeds themselves.
///
/// # Errors
/// Usage, phrased to stand behind the flag's name.
pub fn parse_seeds(text: &str) -> Result<Vec<u64>> {
    let refusal = || {
        let allowed = format!("a number of seeds from 1 to {MOST_SEEDS}, or seeds with a comma, such as 3,5,8");
        Error::usage(format!("must be {allowed}, not '{text}'"))
    };
    let number = |word: &str| word.trim().parse::<u64>().map_err(|_| refusal());
    match text.trim().strip_suffix(',').unwrap_or(text) {
        list if text.contains(',') => list.split(',').map(number).collect(),
        count => match number(count)? {
            n @ 1..=MOST_SEEDS => Ok((0..n).collect()),
            _ => Err(refusal()),
        },
    }
}

impl Request {
    /// Reads a compare.toml or a run's config.toml, whose `opt` and `seed` then say nothing. Returned are the request and the
    /// settings of runs in the file, without defaults for the rest.
    ///
    /// # Errors
    /// NoInput: the file cannot be read. Data: as for [`Request::from_toml`].
    pub fn read(path: &Path) -> Result<(Request, Overrides)> {
        Request::from_toml(&read_text(path, MAX_SETTINGS)?, &path.display().to_string())
    }

    /// The request in `text`, with its settings as `read` returns them; `origin` is what messages call it.
    ///
    /// # Errors
    /// Data: not TOML, an unknown key, a value of the wrong type or out of range; with the line.
    pub fn from_toml(text: &str, origin: &str) -> Result<(Request, Overrides)> {
        let mut request = Request::default();
        let (rest, given) = request.take_own(text, origin)?;
        let in_file = |e: Error| Error::data(format!("{origin}: {e}"));
        let settings = Overrides::from_toml(&rest, origin)?;
        // Before compare.toml said what was given, a value at its default counted as not given: its runs rest on that.
        let settings = if given.is_none() { settings.chosen().map_err(in_file)? } else { settings };
        request.recipe = Recipe::default().with(&settings)?;
        request.give(|name| given.as_ref().map_or(settings.get(name).is_some(), |given| given.contains(&name)));
        request.validate().map_err(in_file)?;
        Ok((request, settings))
    }

    /// Notes as given the settings of runs that `are` given, by name.
    pub fn give(&mut self, are: impl Fn(&'static str) -> bool) {
        self.given = SETTINGS.iter().map(|s| s.name).filter(|name| !OWN.contains(name) && are(name)).collect();
    }

    /// Returns the recipe of an optimizer's runs: what was given, and below it the optimizer's own defaults.
    ///
    /// # Errors
    /// Usage: a value that its setting cannot have.
    pub fn recipe_of(&self, row: &OptimizerRow) -> Result<Recipe> {
        let mut given = Overrides::default();
        for name in &self.given {
            given.set(name, setting(name)?.get(&self.recipe));
        }
        let own = Overrides::of_optimizer(row, &given)?;
        Recipe { opt: row.name.into(), ..self.recipe.clone() }.with(&own)?.with(&given)
    }

    /// Takes what is not a setting of a run out of `text`. Returns the rest, and the names of the settings that `given` lists.
    fn take_own(&mut self, text: &str, origin: &str) -> Result<(String, Option<Vec<&'static str>>)> {
        // The reader of settings reports a text that is not TOML at all.
        let Ok(table) = DeTable::parse(text) else { return Ok((text.to_owned(), None)) };
        let mut given = None;
        // Keys that are not a recipe's are blanked out, so that the recipe's reader still counts the file's lines.
        let mut rest = text.as_bytes().to_vec();
        for (key, value) in table.get_ref() {
            let line = 1 + text[..key.span().start].matches('\n').count();
            let wrong = |what: &str| {
                let source = &text[value.span()];
                Error::data(format!("{origin} line {line}: {} must be {what}, not {source}", key.get_ref()))
            };
            match (&**key.get_ref(), value.get_ref()) {
                ("opt", DeValue::Array(names)) => {
                    let names = names.iter().map(|n| n.get_ref().as_str().map(str::to_owned)).collect::<Option<_>>();
                    self.optimizers = names.ok_or_else(|| wrong("names of optimizers, such as [\"sgd\", \"sam\"]"))?;
                }
                ("seeds", DeValue::Array(seeds)) => {
                    let seed =
                        |v: &DeValue<'_>| v.as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
                    let seeds = seeds.iter().map(|s| seed(s.get_ref())).collect::<Option<_>>();
                    self.seeds = seeds.ok_or_else(|| wrong("whole numbers, such as [0, 1, 2]"))?;
                }
                ("seeds", _) => return Err(wrong("a list, such as [0, 1, 2]")),
                ("given", DeValue::Array(keys)) => {
                    let name = |key: &str| SETTINGS.iter().find(|s| s.key() == key).map(|s| s.name);
                    let names = keys.iter().map(|key| name(key.get_ref().as_str()?)).collect::<Option<Vec<_>>>();
                    given = Some(names.ok_or_else(|| wrong("keys of settings, such as [\"rho\"]"))?);
                }
                ("given", _) => return Err(wrong("keys of settings, such as [\"rho\"]")),
                ("budget", value) => {
                    let budget = Budget::of(value.as_str().unwrap_or_default());
                    self.budget = budget.map_err(|_| wrong(&format!("one of {}", Budget::NAMES.join(", "))))?;
                }
                _ => continue,
            }
            for byte in &mut rest[key.span().start..value.span().end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        // Whole characters have been replaced, so this is text still.
        Ok((String::from_utf8_lossy(&rest).into_owned(), given))
    }

    /// compare.toml: what is the comparison's own, then the settings of all runs.
    pub fn to_toml(&self) -> String {
        let own = |line: &&str| OWN.iter().any(|key| line.starts_with(&format!("{key} = ")));
        let settings = self.recipe.to_toml();
        let settings: String = settings.lines().filter(|line| !own(line)).flat_map(|line| [line, "\n"]).collect();
        let Request { optimizers, seeds, budget, .. } = self;
        let names = serde_json::Value::from(optimizers.as_slice());
        let budget = budget.name();
        let given: Vec<String> = SETTINGS.iter().filter(|s| self.given.contains(&s.name)).map(Setting::key).collect();
        format!(
            "# Comparison\nopt = {names}\nseeds = {seeds:?}\nbudget = \"{budget}\"\n\
             # Settings that were given; of the others, each optimizer has its own defaults.\ngiven = {given:?}\n\n{settings}"
        )
    }

    /// # Errors
    /// Usage: an unknown optimizer, one or a seed named twice, none at all, or a setting out of its range.
    pub fn validate(&self) -> Result<()> {
        for name in &self.optimizers {
            optim::find(name)?;
        }
        let twice = |flag: &str, value: &dyn std::fmt::Display| {
            Err(Error::usage(format!("--{flag} names {value} twice; once is enough")))
        };
        for (i, name) in self.optimizers.iter().enumerate() {
            if self.optimizers[..i].contains(name) {
                return twice("opt", name);
            }
        }
        for (i, seed) in self.seeds.iter().enumerate() {
            if self.seeds[..i].contains(seed) {
                return twice("seeds", seed);
            }
            let probe = Recipe { seed: *seed, ..self.recipe.clone() };
            probe.validate()?;
        }
        if self.optimizers.is_empty() || self.seeds.is_empty() {
            return Err(Error::usage("a comparison needs at least one optimizer and one seed"));
        }
        Ok(())
    }

    /// The first thing in which `self` and `other` ask for different results: a flag, and its value in each. Settings are those
    /// that the runs of each optimizer have.
    ///
    /// # Errors
    /// As for [`Request::recipe_of`].
    pub fn difference(&self, other: &Request) -> Result<Option<[String; 3]>> {
        let join = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let own = [
            ("opt", self.optimizers.join(","), other.optimizers.join(",")),
            ("seeds", join(&self.seeds), join(&other.seeds)),
            ("budget", self.budget.name().into(), other.budget.name().into()),
        ];
        if let Some((flag, a, b)) = own.into_iter().find(|(_, a, b)| a != b) {
            return Ok(Some([flag.into(), a, b]));
        }
        for name in &self.optimizers {
            let row = optim::find(name)?;
            let (a, b) = (self.recipe_of(row)?, other.recipe_of(row)?);
            // Data may move: their content is compared with that of each run.
            if let Some(s) = course().find(|s| s.name != "data" && s.get(&a) != s.get(&b)) {
                return Ok(Some([s.name.into(), s.get(&a).to_string(), s.get(&b).to_string()]));
            }
        }
        Ok(None)
    }

    /// Checks that `self`, asked of the folder `path`, is the request that the comparison there began with.
    ///
    /// # Errors
    /// Of `kind`: the difference.
    pub fn check_same(&self, begun: &Request, path: &Path, kind: Kind) -> Result<()> {
        let Some([flag, before, now]) = begun.difference(self)? else { return Ok(()) };
        let folder = path.display();
        let advice = format!("give another folder, or resume it with 'samcore compare --resume {folder}'");
        Err(Error::new(kind, format!("{folder} holds a comparison with --{flag} {before}, not {now}; {advice}")))
    }
}

/// The settings that decide the course of all runs alike.
pub fn course() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|s| s.section != RESUMABLE && !OWN.contains(&s.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::other_value;

    fn read(text: &str) -> Request {
        Request::from_toml(text, "f").unwrap().0
    }

    /// The value of `name` that runs of `opt` have.
    fn value_of(request: &Request, opt: &str, name: &str) -> String {
        setting(name).unwrap().get(&request.recipe_of(optim::find(opt).unwrap()).unwrap()).to_string()
    }

    #[test]
    fn a_value_that_is_given_counts_though_it_is_the_default() {
        let rho = |request: &Request| ["asam", "sam"].map(|opt| value_of(request, opt, "rho"));
        let plain = Request { optimizers: vec!["asam".into(), "sam".into()], ..Request::default() };
        assert_eq!(rho(&plain), ["0.5", "0.05"]);
        let given = Request { given: vec!["rho"], ..plain.clone() };
        assert_eq!(rho(&given), ["0.05", "0.05"]);
        // compare.toml keeps it, and so does a file that somebody wrote.
        assert_eq!(rho(&read(&given.to_toml())), ["0.05", "0.05"]);
        assert_eq!(rho(&read("opt = [\"asam\"]\nrho = 0.05")), ["0.05", "0.05"]);
        assert_eq!(plain.difference(&given), Ok(Some(["rho".into(), "0.5".into(), "0.05".into()])));
        // The default size of a corruption is that of its norm.
        for (text, eps) in [("", "0.0002"), ("corruption_p = \"2\"", "0.05"), ("corruption_eps = 0.2", "0.2")] {
            assert_eq!(value_of(&read(text), "corruption", "corruption-eps"), eps, "{text}");
        }
    }

    #[test]
    fn a_file_of_before_given_was_kept_means_what_it_meant() {
        let asked = Recipe { lr: 0.3, eta: 0.2, ..Recipe::default() };
        let file = Request { recipe: asked.clone(), optimizers: vec!["asam".into()], ..Request::default() }.to_toml();
        let old: String = file.lines().filter(|line| !line.starts_with("given =")).flat_map(|l| [l, "\n"]).collect();
        let read = read(&old);
        assert_eq!((value_of(&read, "asam", "rho"), value_of(&read, "asam", "eta")), ("0.5".into(), "0.2".into()));
        assert_eq!((value_of(&read, "corruption", "corruption-p"), &read.recipe), ("inf".into(), &asked));
        // So it is with a run's config: nobody gave its optimizer's defaults.
        let run = Recipe { opt: "msam".into(), rho: 0.3, lr: 0.3, ..Recipe::default() };
        let request = Request::from_toml(&run.to_toml(), "f").unwrap().0;
        let rho = |opt| value_of(&request, opt, "rho");
        assert_eq!([rho("msam"), rho("sam"), rho("asam")], ["0.3", "0.05", "0.5"]);
    }

    #[test]
    fn a_request_survives_writing_and_reading_and_each_difference_is_named() {
        let plain = Request::default();
        assert_eq!(read(&plain.to_toml()), plain);
        for s in course() {
            let mut other = Request { given: vec![s.name], ..plain.clone() };
            s.set(&mut other.recipe, other_value(s)).unwrap();
            assert_eq!(read(&other.to_toml()), other, "{}", s.name);
            let named = plain.difference(&other).unwrap().map(|[flag, ..]| flag);
            assert_eq!(named.as_deref(), (s.name != "data").then_some(s.name));
        }
        let seeds = Request { seeds: vec![4, 0], ..plain.clone() };
        assert_eq!(plain.difference(&seeds).unwrap(), Some(["seeds".into(), "0,1,2".into(), "4,0".into()]));
        let turned = Request { optimizers: vec!["sam".into(), "sgd".into()], ..plain.clone() };
        assert_eq!(plain.difference(&turned).unwrap(), Some(["opt".into(), "sgd,sam".into(), "sam,sgd".into()]));
        let epochs = Request { budget: Budget::EqualEpochs, ..plain.clone() };
        assert_eq!(read(&epochs.to_toml()), epochs);
        // Settings of the machine change no result, and each run has its own optimizer and seed.
        let recipe = Recipe { threads: 7, checkpoint_steps: 3, opt: "sam".into(), seed: 9, ..Recipe::default() };
        assert_eq!(plain.difference(&Request { recipe, ..plain.clone() }), Ok(None));
    }

    #[test]
    fn a_runs_config_and_an_empty_file_are_requests_too() {
        let run = Recipe { lr: 0.3, opt: "sam".into(), seed: 5, ..Recipe::default() };
        let request = read(&run.to_toml());
        assert_eq!(request.recipe, run);
        assert!(request.given.contains(&"lr") && !request.given.contains(&"rho"), "{:?}", request.given);
        assert_eq!(read(""), Request::default());
    }

    #[test]
    fn mistakes_are_reported_with_file_and_line() {
        for (text, message) in [
            ("seeds = 3", "f line 1: seeds must be a list, such as [0, 1, 2], not 3"),
            ("\nseeds = [0, -1]", "f line 2: seeds must be whole numbers, such as [0, 1, 2], not [0, -1]"),
            ("seeds = []", "f: a comparison needs at least one optimizer and one seed"),
            ("seeds = [1, 1]", "f: --seeds names 1 twice; once is enough"),
            ("opt = [\"sgd\", 2]", "f line 1: opt must be names of optimizers, such as [\"sgd\", \"sam\"], not"),
            ("opt = [\"sgd\", \"sdg\"]", "f: unknown optimizer 'sdg'; did you mean 'sgd'?"),
            ("given = 1", "f line 1: given must be keys of settings, such as [\"rho\"], not 1"),
            ("given = [\"roh\"]", "f line 1: given must be keys of settings, such as [\"rho\"], not [\"roh\"]"),
            ("budget = 1", "f line 1: budget must be one of equal-gradients, equal-epochs, not 1"),
            ("opt = [\"ä\",\n\"sam\"]\nlr = 0", "f line 3: lr must be a number above 0, not 0"),
            ("seeds = [\n0]\nbatsh = 0", "f line 3: unknown key 'batsh'; did you mean 'batch'?"),
            ("lr = = 1", "f line 1: "),
        ] {
            let e = Request::from_toml(text, "f").unwrap_err();
            assert!(e.kind == Kind::Data && e.to_string().starts_with(message), "{text}: {e}");
        }
    }

    #[test]
    fn seeds_in_a_file_may_be_spelt_in_every_way_of_toml() {
        let request = read("seeds = [0x10, 0b11, 1_0]");
        assert_eq!(request.seeds, [16, 3, 10]);
    }

    #[test]
    fn a_number_of_seeds_or_the_seeds_themselves() {
        for (text, seeds) in [("3", vec![0, 1, 2]), ("3,5, 8", vec![3, 5, 8]), ("7,", vec![7]), (" 1 ", vec![0])] {
            assert_eq!(parse_seeds(text), Ok(seeds), "{text}");
        }
        for wrong in ["0", "-1", "1.5", "", ",", "1,,2", "x", "1001"] {
            let e = parse_seeds(wrong).unwrap_err().to_string();
            assert!(e.starts_with("must be a number of seeds") && e.ends_with(&format!("not '{wrong}'")), "{e}");
        }
    }
}
