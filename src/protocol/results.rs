//! Results of the runs of a plan, read from their folders: results.json, and the numbers of tables.

use super::plan::{Plan, Share};
use super::request::course;
use super::statistics::{CONFIDENCE, Estimate};
use crate::error::{Error, Result};
use crate::files::{MAX_JSON, read_bytes};
use crate::train::divergence::Divergence;
use crate::train::records::{LOSS_KIND, Metrics};
use crate::train::stall;
use serde_json::{Map, json};
use std::path::Path;

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub metrics: Metrics,
    /// Its env.json; null where that is lost.
    pub environment: serde_json::Value,
}

/// Most epochs in a row whose rows may be lost.
const MOST_LOST: usize = 1 << 16;

impl Outcome {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// NoInput, Data: its metrics.csv is missing or damaged.
    pub fn read(folder: &Path) -> Result<Outcome> {
        let path = folder.join("metrics.csv");
        let metrics = Metrics::read(&path)?;
        if metrics.rows.is_empty() || metrics.column("test_accuracy").is_none() {
            let advice = format!("move {} away, and the run is made again", folder.display());
            return Err(Error::data(format!("{} has no test_accuracy of any epoch; {advice}", path.display())));
        }
        let environment = read_bytes(&folder.join("env.json"), MAX_JSON).ok();
        let environment = environment.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Outcome { metrics, environment })
    }

    /// A run of results.json; None if its epochs are no table of numbers.
    fn from_json(run: &serde_json::Value) -> Option<Outcome> {
        let columns = run["epochs"].as_object()?;
        let cells = |values: &serde_json::Value| -> Option<Vec<Option<f64>>> {
            Some(values.as_array()?.iter().map(serde_json::Value::as_f64).collect())
        };
        let values: Vec<Vec<Option<f64>>> = columns.values().map(cells).collect::<Option<_>>()?;
        let length = values.first()?.len();
        if values.iter().any(|column| column.len() != length) {
            return None;
        }
        let rows = (0..length).map(|row| values.iter().map(|column| column[row]).collect()).collect();
        let metrics = Metrics { columns: columns.keys().cloned().collect(), rows };
        Some(Outcome { metrics, environment: run["environment"].clone() })
    }

    /// The values below `column`, those of epoch 1 first; NaN where there is none, as for an epoch whose row is lost.
    pub fn column(&self, column: &str) -> Vec<f64> {
        let mut values = Vec::new();
        let epochs = self.metrics.column("epoch").unwrap_or_default();
        for (epoch, cell) in epochs.into_iter().zip(self.metrics.column(column).unwrap_or_default()) {
            let place = epoch.unwrap_or(0.0) as usize;
            // A file that names an epoch far behind its rows must not take memory for all between.
            values.resize(place.clamp(values.len() + 1, values.len() + MOST_LOST) - 1, f64::NAN);
            values.push(cell.unwrap_or(f64::NAN));
        }
        values
    }

    /// The value of the last epoch.
    pub fn last(&self, column: &str) -> Option<f64> {
        self.column(column).last().copied().filter(|v| v.is_finite())
    }

    /// The best epoch, from 1, as training picks it: the first with the highest validation, else test accuracy.
    pub fn best_epoch(&self) -> Option<usize> {
        let validation = self.column("val_accuracy");
        let accuracy = if validation.is_empty() { self.column("test_accuracy") } else { validation };
        let better = |best: Option<(usize, f64)>, (i, a): (usize, f64)| match best {
            Some((_, most)) if most >= a => best,
            _ => Some((i + 1, a)),
        };
        let told = accuracy.into_iter().enumerate().filter(|(_, a)| a.is_finite());
        told.fold(None, better).map(|(epoch, _)| epoch)
    }

    /// Test accuracy of the best epoch.
    fn best(&self) -> Option<f64> {
        self.column("test_accuracy").get(self.best_epoch()? - 1).copied().filter(|v| v.is_finite())
    }
}

/// A number that each run has.
pub struct Measure {
    /// In results.json.
    pub key: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    /// True if its paired differences are shown.
    pub paired: bool,
    pub of: fn(&Outcome) -> Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A share, shown in percent.
    Share,
    Loss,
    Seconds,
}

const fn measure(
    key: &'static str,
    title: &'static str,
    unit: Unit,
    paired: bool,
    of: fn(&Outcome) -> Option<f64>,
) -> Measure {
    Measure { key, title, unit, paired, of }
}

/// Measures of the last epoch, but for the best and the sum of seconds.
#[rustfmt::skip]
pub const MEASURES: &[Measure] = &[
    measure("test_accuracy", "test accuracy", Unit::Share, true, |o| o.last("test_accuracy")),
    measure("best_epoch_test_accuracy", "best epoch", Unit::Share, true, Outcome::best),
    measure("test_loss", "test loss", Unit::Loss, true, |o| o.last("test_loss")),
    measure("train_accuracy", "train accuracy", Unit::Share, true, |o| o.last("train_accuracy")),
    measure("train_loss", "train loss", Unit::Loss, true, |o| o.last("train_loss")),
    measure("seconds", "seconds a run", Unit::Seconds, false, |o| {
        Some(o.column("seconds").iter().sum()).filter(|sum: &f64| sum.is_finite())
    }),
];

/// The results of a plan, as far as its runs are done.
pub struct Results<'a> {
    pub plan: &'a Plan,
    /// One for each run of the plan; `None` of a run that is not done.
    pub outcomes: Vec<Option<Outcome>>,
    /// One for each run of the plan; `None` of a run that has not diverged.
    pub diverged: Vec<Option<Divergence>>,
}

impl Results<'_> {
    /// None yet.
    pub fn new(plan: &Plan) -> Results<'_> {
        Results { plan, outcomes: vec![None; plan.runs.len()], diverged: vec![None; plan.runs.len()] }
    }

    /// Takes run `i` of the plan, whose folder lies in `folder`.
    ///
    /// # Errors
    /// As for [`Outcome::read`].
    pub fn add(&mut self, i: usize, folder: &Path) -> Result<()> {
        self.outcomes[i] = Some(Outcome::read(&folder.join(&self.plan.runs[i].name))?);
        Ok(())
    }

    /// Reads what [`Results::to_json`] wrote of the runs of `plan`, so that reports can be made without their folders.
    ///
    /// # Errors
    /// Data: not such an object.
    pub fn from_json<'a>(plan: &'a Plan, json: &serde_json::Value) -> Result<Results<'a>> {
        let runs = json["runs"].as_array().ok_or_else(|| Error::data("there is no list of runs"))?;
        let outcome = |run: &super::Run| {
            let found = runs.iter().find(|entry| entry["folder"] == run.name.as_str() && entry["done"] == true)?;
            Some(
                Outcome::from_json(found)
                    .ok_or_else(|| Error::data(format!("the epochs of {} are no table", run.name))),
            )
        };
        let outcomes = plan.runs.iter().map(|run| outcome(run).transpose()).collect::<Result<_>>()?;
        let diverged = |run: &super::Run| {
            let found = runs.iter().find(|entry| entry["folder"] == run.name.as_str())?;
            Divergence::from_json(&found["diverged"])
        };
        Ok(Results { plan, outcomes, diverged: plan.runs.iter().map(diverged).collect() })
    }

    pub fn done(&self) -> usize {
        self.outcomes.iter().flatten().count()
    }

    /// Seed and outcome of the finished runs of share `share`, in the order of the request's seeds.
    pub fn of(&self, share: usize) -> impl Iterator<Item = (u64, &Outcome)> {
        let runs = self.plan.runs.iter().zip(&self.outcomes).filter(move |(run, _)| run.share == share);
        runs.filter_map(|(run, outcome)| Some((run.recipe.seed, outcome.as_ref()?)))
    }

    /// Seed and divergence of the diverged runs of share `share`, in the order of the request's seeds.
    pub fn diverged_of(&self, share: usize) -> impl Iterator<Item = (u64, &Divergence)> {
        let runs = self.plan.runs.iter().zip(&self.diverged).filter(move |(run, _)| run.share == share);
        runs.filter_map(|(run, divergence)| Some((run.recipe.seed, divergence.as_ref()?)))
    }

    /// Returns for each optimizer with diverged runs how many seeds are left, and where the others diverged: "sam: 2 of 3 seeds;
    /// seed 1 diverged in step 17 of 96".
    pub fn divergences(&self) -> Vec<String> {
        let (plan, seeds) = (self.plan, self.plan.request.seeds.len());
        let of = |(i, share): (usize, &Share)| {
            let each =
                |(seed, d): (u64, &Divergence)| format!("seed {seed} diverged in step {} of {}", d.step, d.total);
            let each: Vec<String> = self.diverged_of(i).map(each).collect();
            let (name, done) = (share.optimizer.name, self.of(i).count());
            (!each.is_empty()).then(|| format!("{name}: {done} of {seeds} seeds; {}", each.join(", ")))
        };
        plan.shares.iter().enumerate().filter_map(of).collect()
    }

    /// Returns the seeds of share `share` whose run ended with the training loss and accuracy of guessing.
    pub fn at_chance(&self, share: usize) -> Vec<u64> {
        let plan = self.plan;
        let recipe = plan.runs.iter().find(|run| run.share == share).map(|run| &run.recipe);
        let Some(recipe) = recipe.filter(|recipe| stall::comparable(recipe)) else { return vec![] };
        let images = (plan.steps_per_epoch * recipe.batch as u64) as f64;
        let guesses = |outcome: &Outcome| {
            let [loss, accuracy] =
                ["train_loss", "train_accuracy"].map(|column| outcome.last(column).unwrap_or(f64::NAN));
            stall::at_chance(loss, accuracy, plan.data.classes, images)
        };
        self.of(share).filter(|(_, outcome)| guesses(outcome)).map(|(seed, _)| seed).collect()
    }

    /// Returns for each optimizer with runs at chance how many they are, and their seeds: "sam: 1 of 3 seeds at chance (seed 2)".
    pub fn stalls(&self) -> Vec<String> {
        let of = |(i, share): (usize, &Share)| {
            let seeds: Vec<String> = self.at_chance(i).iter().map(u64::to_string).collect();
            let (name, done) = (share.optimizer.name, self.of(i).count());
            let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
            let told = || format!("{name}: {} of {done} seeds at chance ({noun} {})", seeds.len(), seeds.join(", "));
            (!seeds.is_empty()).then(told)
        };
        self.plan.shares.iter().enumerate().filter_map(of).collect()
    }

    /// `measure` over the seeds of share `share`.
    pub fn estimate(&self, share: usize, measure: &Measure) -> Option<Estimate> {
        Estimate::of(&self.of(share).filter_map(|(_, outcome)| (measure.of)(outcome)).collect::<Vec<_>>())
    }

    /// `measure` of share `share` less that of share `from`, over the seeds that both have.
    pub fn difference(&self, share: usize, from: usize, measure: &Measure) -> Option<Estimate> {
        let pairs = self.of(share).filter_map(|(seed, outcome)| {
            let (_, other) = self.of(from).find(|(other, _)| *other == seed)?;
            Some((measure.of)(outcome)? - (measure.of)(other)?)
        });
        Estimate::of(&pairs.collect::<Vec<_>>())
    }

    /// "validation" or "test": what the best epoch is chosen on.
    pub fn best_on(&self) -> &'static str {
        if self.plan.data.images[1] > 0 { "validation" } else { "test" }
    }

    /// The values of `key` in the environments of the runs, each once, in order of appearance.
    pub fn environment(&self, key: &str) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for outcome in self.outcomes.iter().flatten() {
            let value = match &outcome.environment[key] {
                serde_json::Value::Null => "unknown".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// results.json: every number of the tables, and of each run every epoch. "seconds", "images_per_s" and
    /// "environment" tell of time and machine; all else is the same whenever and however a comparison is made.
    pub fn to_json(&self) -> serde_json::Value {
        let plan = self.plan;
        let [trained, held_out, tested] = plan.data.images;
        let optimizer = |(i, share): (usize, &Share)| {
            let mut entry = json!({
                "name": share.optimizer.name,
                "epochs": share.epochs,
                "steps": share.steps,
                "gradients_per_step": share.gradients_per_step,
                "gradient_evaluations": share.gradients(),
                "seeds_done": self.of(i).map(|(seed, _)| seed).collect::<Vec<_>>(),
                "seeds_at_chance": self.at_chance(i),
                "seeds_diverged": self.diverged_of(i).map(|(seed, _)| seed).collect::<Vec<_>>(),
            });
            for measure in MEASURES {
                entry[measure.key] = self.estimate(i, measure).map_or(serde_json::Value::Null, estimate);
            }
            entry
        };
        let difference = |i: usize| {
            let name = |i: usize| plan.shares[i].optimizer.name;
            let mut entry = json!({"optimizer": name(i), "minus": name(0)});
            for measure in MEASURES.iter().filter(|m| m.paired) {
                let e = self.difference(i, 0, measure);
                entry[measure.key] = e.map_or(serde_json::Value::Null, |e| {
                    let mut told = estimate(e);
                    told["p_value"] = json!(e.p_value());
                    told
                });
            }
            entry
        };
        let run = |(i, run): (usize, &super::Run)| {
            let outcome = &self.outcomes[i];
            let mut entry = json!({
                "folder": run.name,
                "optimizer": run.recipe.opt,
                "seed": run.recipe.seed,
                "done": outcome.is_some(),
            });
            if let Some(divergence) = &self.diverged[i] {
                entry["diverged"] = divergence.to_json();
            }
            if let Some(outcome) = outcome {
                let value = |m: &Measure| (m.key.to_owned(), json!((m.of)(outcome)));
                entry["result"] = serde_json::Value::Object(MEASURES.iter().map(value).collect());
                entry["best_epoch"] = json!(outcome.best_epoch());
                entry["epochs"] = columns(&outcome.metrics);
                entry["environment"] = outcome.environment.clone();
            }
            entry
        };
        let settings: Map<String, serde_json::Value> =
            course().map(|s| (s.key(), s.get(&plan.request.recipe).to_json())).collect();
        json!({
            "format_version": 1,
            "complete": self.done() + self.diverged.iter().flatten().count() == plan.runs.len(),
            "runs_done": self.done(),
            "runs_diverged": self.diverged.iter().flatten().count(),
            "request": {
                "opt": plan.request.optimizers,
                "seeds": plan.request.seeds,
                "budget": plan.request.budget.name(),
                "given": plan.request.given,
                "settings": settings,
            },
            "data": {"name": plan.data.name, "train": trained, "validation": held_out, "test": tested},
            "steps_per_epoch": plan.steps_per_epoch,
            "confidence": CONFIDENCE,
            "best_epoch_chosen_on": self.best_on(),
            "optimizers": plan.shares.iter().enumerate().map(optimizer).collect::<Vec<_>>(),
            "paired_differences": (1..plan.shares.len()).map(difference).collect::<Vec<_>>(),
            "runs": plan.runs.iter().enumerate().map(run).collect::<Vec<_>>(),
        })
    }

    /// `to_json` as the file has it.
    pub fn to_text(&self) -> String {
        format!("{:#}\n", self.to_json())
    }
}

fn estimate(e: Estimate) -> serde_json::Value {
    let interval = e.interval().map(|(low, high)| [low, high]);
    json!({"n": e.n, "mean": e.mean, "interval": interval, "deviation": e.deviation, "min": e.min, "max": e.max})
}

/// Each column of metrics.csv as a list; whole numbers without a point.
fn columns(metrics: &Metrics) -> serde_json::Value {
    let cell = |cell: Option<f64>| match cell {
        Some(v) if v.fract() == 0.0 && v.abs() < 1e15 => json!(v as i64),
        other => json!(other),
    };
    let list = |name: &String| metrics.column(name).unwrap_or_default().into_iter().map(cell).collect();
    let numbers = metrics.columns.iter().filter(|name| *name != LOSS_KIND);
    let entries = numbers.map(|name| (name.clone(), list(name)));
    serde_json::Value::Object(entries.collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::request::Request;
    use super::*;
    use crate::files::TestFolder;
    use crate::recipe::Recipe;
    use crate::train::records::{EpochRow, Extras, Records, Scores};
    use crate::train::run_folder::RunFolder;

    /// Three epochs of SAM, six of SGD, on Fashion-MNIST.
    pub(crate) fn plan(optimizers: &[&str], seeds: u64) -> Plan {
        let recipe = Recipe { epochs: 3, ..Recipe::default() };
        let optimizers = optimizers.iter().map(|o| o.to_string()).collect();
        Plan::new(Request { recipe, optimizers, seeds: (0..seeds).collect(), ..Request::default() }).unwrap()
    }

    /// The records of run `i` of `plan` below `folder` after `epochs` epochs, without checkpoints. Test accuracy is
    /// `accuracy` in the last of them, 0.001 more in the one before it, less in earlier ones.
    pub(crate) fn fabricate(folder: &Path, plan: &Plan, i: usize, epochs: u32, accuracy: f64) {
        let run = &plan.runs[i];
        let folder = RunFolder::create(folder, "", Some(&folder.join(&run.name))).unwrap();
        std::fs::write(folder.config(), run.recipe.to_toml()).unwrap();
        std::fs::write(folder.environment(), r#"{"commit": "abc", "threads": 1, "cpu": "A <fast> one"}"#).unwrap();
        let with_validation = plan.data.images[1] > 0;
        let mut records =
            Records::create(&folder, Extras { validation: with_validation, ..Extras::default() }).unwrap();
        for epoch in 1..=epochs {
            let left = f64::from(epochs - epoch);
            let accuracy = accuracy + if left == 1.0 { 0.001 } else { -0.05 * left };
            let test = Scores { loss: 1.0 - accuracy, accuracy };
            let train = Scores { loss: 0.5 - 0.5 * accuracy, accuracy: 0.5 + 0.5 * accuracy };
            let validation = with_validation.then_some(train);
            let step = u64::from(epoch) * plan.steps_per_epoch;
            let due = run.recipe.evaluates(u64::from(epoch));
            let (test, validation) = (due.then_some(test), validation.filter(|_| due));
            let row = EpochRow { epoch, step, train, validation, test, seconds: 10.0, ..EpochRow::default() };
            records.epoch(&row).unwrap();
        }
        records.flush().unwrap();
    }

    /// The results of `plan` with these test accuracies, run by run.
    pub(crate) fn results<'a>(plan: &'a Plan, accuracies: &[f64]) -> Results<'a> {
        let scratch = TestFolder::new("results");
        let mut results = Results::new(plan);
        for (i, accuracy) in accuracies.iter().enumerate() {
            fabricate(&scratch.0, plan, i, plan.runs[i].recipe.epochs as u32, *accuracy);
            results.add(i, &scratch.0).unwrap();
        }
        results
    }

    /// Runs alternate, so seed 0 has sgd 0.90 and sam 0.91, seed 1 has 0.92 and 0.95; of seed 2 only sgd is done.
    #[test]
    fn means_are_over_finished_seeds_and_differences_over_common_ones() {
        let plan = plan(&["sgd", "sam"], 3);
        let results = results(&plan, &[0.90, 0.91, 0.92, 0.95, 0.97]);
        let json = results.to_json();
        let close = |value: &serde_json::Value, expected: f64| {
            assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value} instead of {expected}");
        };
        let [sgd, sam] = [0, 1].map(|i| &json["optimizers"][i]);
        assert_eq!((&sgd["seeds_done"], &sam["seeds_done"]), (&json!([0, 1, 2]), &json!([0, 1])));
        close(&sgd["test_accuracy"]["mean"], 0.93);
        close(&sam["test_accuracy"]["mean"], 0.93);
        close(&sam["seconds"]["mean"], 30.0);
        let difference = &json["paired_differences"][0]["test_accuracy"];
        assert_eq!(difference["n"], 2);
        close(&difference["mean"], 0.02);
        // Differences 0.01 and 0.03: the standard error is 0.01, t with one degree of freedom 12.7062.
        close(&difference["interval"][0], 0.02 - 0.127_062_047_36);
        assert_eq!(
            (&json["complete"], &json["runs_done"], &json["runs"][5]["done"]),
            (&json!(false), &json!(5), &json!(false))
        );
        // The best epoch is the last but one, by test accuracy, for nothing is held out.
        close(&json["runs"][0]["result"]["best_epoch_test_accuracy"], 0.901);
        assert_eq!((&json["runs"][0]["best_epoch"], &json["best_epoch_chosen_on"]), (&json!(5), &json!("test")));
        assert_eq!(json["runs"][1]["epochs"]["epoch"], json!([1, 2, 3]));
        assert_eq!((&sgd["gradient_evaluations"], &sam["gradient_evaluations"]), (&json!(2808.0), &json!(2808.0)));
        // Reading gives back what was written, and a column that lost a row is no table.
        assert_eq!(Results::from_json(&plan, &json).unwrap().to_json(), json);
        let mut short = json.clone();
        short["runs"][1]["epochs"]["test_loss"].as_array_mut().unwrap().pop();
        assert!(Results::from_json(&plan, &short).is_err());
    }

    #[test]
    fn with_images_held_out_the_best_epoch_is_theirs() {
        let recipe = Recipe { epochs: 3, val_fraction: 0.1, ..Recipe::default() };
        let plan = Plan::new(Request { recipe, ..Request::default() }).unwrap();
        let mut results = results(&plan, &[0.90]);
        let outcome = results.outcomes[0].as_mut().unwrap();
        let at = outcome.metrics.columns.iter().position(|c| c == "val_accuracy").unwrap();
        outcome.metrics.rows[2][at] = Some(0.99);
        assert_eq!((outcome.best_epoch(), outcome.best()), (Some(3), Some(0.75)));
        assert_eq!(results.to_json()["best_epoch_chosen_on"], "validation");
    }
}
