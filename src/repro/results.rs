//! Results of the runs of a protocol: what each measured, means over seeds, and differences seed by seed.

use super::measure::Values;
use super::plan::{Arm, Plan};
use super::{Published, Scale};
use crate::protocol::results::Outcome;
use crate::protocol::statistics::{CONFIDENCE, Estimate};
use crate::recipe::Overrides;
use crate::train::divergence::Divergence;
use serde_json::{Map, Value, json};

/// Outcome of a run so far.
#[derive(Clone, Debug)]
pub enum Done {
    Not,
    Finished {
        /// Shares of the last epoch and of the measurements, by name.
        values: Values,
        /// Test accuracy after each epoch; NaN where none was measured.
        curve: Vec<f64>,
        seconds: f64,
    },
    Diverged(Divergence),
    /// The run that it takes something from diverged.
    Impossible,
}

/// Columns of metrics.csv that are results where a run has them, and their names in tables. The first is the main result.
const METRICS: [(&str, &str); 5] = [
    ("test_accuracy", MAIN),
    ("val_accuracy", VALIDATION),
    ("train_accuracy", "train accuracy"),
    ("learned", "wrong labels: right class predicted"),
    ("memorised", "wrong labels: memorised"),
];
pub const MAIN: &str = "test accuracy";
pub const VALIDATION: &str = "validation accuracy";

impl Done {
    /// Returns the results of a finished run with its measurements.
    pub fn finished(outcome: &Outcome, measured: Values) -> Done {
        let last = |(column, name): &(&str, &str)| Some(((*name).to_owned(), outcome.last(column)?));
        let values = METRICS.iter().filter_map(last).chain(measured).collect();
        let seconds = outcome.column("seconds").iter().filter(|s| s.is_finite()).sum();
        Done::Finished { values, curve: outcome.column("test_accuracy"), seconds }
    }

    fn value(&self, measure: &str) -> Option<f64> {
        let Done::Finished { values, .. } = self else { return None };
        values.iter().find(|(name, _)| name == measure).map(|(_, value)| *value)
    }

    /// In a word or two.
    pub fn describe(&self) -> String {
        match self {
            Done::Not => "to do".into(),
            Done::Finished { .. } => "done".into(),
            Done::Diverged(Divergence { step, total, .. }) => format!("diverged in step {step} of {total}"),
            Done::Impossible => "not run: the run that it begins with diverged".into(),
        }
    }
}

/// Results of a plan as far as its runs are done.
pub struct Results<'a> {
    pub plan: &'a Plan,
    /// By arm, then by seed.
    pub done: Vec<Vec<Done>>,
}

impl<'a> Results<'a> {
    /// None yet.
    pub fn new(plan: &'a Plan) -> Results<'a> {
        Results { plan, done: vec![vec![Done::Not; plan.asked.seeds.len()]; plan.arms.len()] }
    }

    /// Returns the numbers of runs: all, finished, diverged or impossible.
    pub fn counts(&self) -> [usize; 3] {
        let count = |of: fn(&Done) -> bool| self.done.iter().flatten().filter(|done| of(done)).count();
        let lost = |done: &Done| matches!(done, Done::Diverged(_) | Done::Impossible);
        [count(|_| true), count(|done| matches!(done, Done::Finished { .. })), count(lost)]
    }

    /// Returns the places of the arms in tables.
    pub fn shown(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.plan.arms.len()).filter(|arm| self.plan.arms[*arm].method.shown)
    }

    /// Returns the names of all measures that a run has, in the order in which they appear.
    pub fn measures(&self) -> Vec<String> {
        let mut names = vec![MAIN.to_owned()];
        for done in self.shown().flat_map(|arm| &self.done[arm]) {
            let Done::Finished { values, .. } = done else { continue };
            for (name, _) in values {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    /// Returns `measure` over the seeds of an arm.
    pub fn estimate(&self, arm: usize, measure: &str) -> Option<Estimate> {
        Estimate::of(&self.done[arm].iter().filter_map(|done| done.value(measure)).collect::<Vec<_>>())
    }

    /// Returns the arm in the same cell whose method this arm's is compared with.
    pub fn against(&self, arm: usize) -> Option<usize> {
        let of = &self.plan.arms[arm];
        let other = of.method.against?;
        let same = |a: &Arm| a.row.name == of.row.name && a.column.name == of.column.name && a.method.name == other;
        self.plan.arms.iter().position(same)
    }

    /// Returns `measure` of an arm less that of the arm it is compared with, over the seeds that both have.
    pub fn difference(&self, arm: usize, measure: &str) -> Option<Estimate> {
        let other = self.against(arm)?;
        let pairs = self.done[arm].iter().zip(&self.done[other]);
        Estimate::of(&pairs.filter_map(|(a, b)| Some(a.value(measure)? - b.value(measure)?)).collect::<Vec<_>>())
    }

    /// Returns the published value of `measure` for an arm.
    pub fn published(&self, arm: usize, measure: &str) -> Option<&'static Published> {
        let of = &self.plan.arms[arm];
        let published = self.plan.asked.protocol.published.iter();
        published.into_iter().find(|p| {
            (p.row, p.column, p.method) == (of.row.stands_for, of.column.stands_for, of.method.name)
                && p.measure == measure
        })
    }

    /// Returns the published values that stand beside no result here: of networks or cases that this scale leaves out.
    pub fn unmatched(&self) -> Vec<&'static Published> {
        let measures = self.measures();
        let all = self.plan.asked.protocol.published.iter();
        let beside = |p: &&Published| {
            let mut places = self.shown().flat_map(|arm| measures.iter().map(move |m| (arm, m)));
            places.any(|(arm, m)| self.published(arm, m).is_some_and(|found| std::ptr::eq(found, *p)))
        };
        all.filter(|p| !beside(p)).collect()
    }

    /// Returns for each row of a protocol that chooses the arm with the highest mean validation accuracy, of those that are
    /// compared with another.
    pub fn chosen(&self) -> Vec<usize> {
        if !self.plan.asked.protocol.choice {
            return vec![];
        }
        let grid = self.plan.asked.protocol.grid(self.plan.asked.scale);
        let best = |row: &'static str| {
            let of_row =
                self.shown().filter(|arm| self.plan.arms[*arm].row.name == row && self.against(*arm).is_some());
            let scored = of_row.filter_map(|arm| Some((arm, self.estimate(arm, VALIDATION)?.mean)));
            scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(arm, _)| arm)
        };
        grid.rows.iter().filter_map(|row| best(row.name)).collect()
    }

    /// results.json. "seconds" tells of the machine; all else is the same whenever and however the runs were made.
    pub fn to_json(&self) -> Value {
        let asked = &self.plan.asked;
        let measures = self.measures();
        let arm = |i: usize| {
            let arm = &self.plan.arms[i];
            let run = |(run, done): (&crate::protocol::Run, &Done)| {
                let mut entry = json!({"folder": run.name, "seed": run.recipe.seed, "state": done.describe()});
                if let Done::Finished { values, curve, seconds } = done {
                    let values: Map<String, Value> = values.iter().map(|(name, v)| (name.clone(), json!(v))).collect();
                    entry["values"] = Value::Object(values);
                    entry["test_accuracy"] = json!(curve);
                    entry["seconds"] = json!(seconds);
                }
                entry
            };
            let estimates = measures.iter().filter_map(|m| Some((m.clone(), estimate(&self.estimate(i, m)?))));
            let published = measures.iter().filter_map(|m| {
                let p = self.published(i, m)?;
                Some((m.clone(), json!({"value": p.value, "source": p.source})))
            });
            let share = arm.share();
            json!({
                "arm": arm.name, "row": arm.row.name, "column": arm.column.name, "method": arm.method.name,
                "shown": arm.method.shown, "epochs": share.epochs, "steps": share.steps,
                "gradients_per_step": share.gradients_per_step, "gradient_evaluations": share.gradients(),
                "training_images": arm.plan.data.images[0], "estimates": Value::Object(estimates.collect()),
                "published": Value::Object(published.collect()),
                "runs": arm.plan.runs.iter().zip(&self.done[i]).map(run).collect::<Vec<_>>(),
            })
        };
        let difference = |i: usize| {
            let other = self.against(i)?;
            let of = measures.iter().filter_map(|m| {
                let e = self.difference(i, m)?;
                let mut entry = estimate(&e);
                entry["p_value"] = json!(e.p_value());
                Some((m.clone(), entry))
            });
            let names = [i, other].map(|arm| &self.plan.arms[arm].name);
            Some(json!({"arm": names[0], "minus": names[1], "differences": Value::Object(of.collect())}))
        };
        let [runs, finished, lost] = self.counts();
        let listed = |values: &Overrides| -> Map<String, Value> {
            values.iter().map(|(name, value)| ((*name).to_owned(), value.to_json())).collect()
        };
        json!({
            "format_version": 1,
            "protocol": asked.protocol.name,
            "answers": asked.protocol.answers,
            "scale": asked.scale.name(),
            "shrunk": if asked.scale == Scale::Small { asked.protocol.shrunk } else { "" },
            "changed_by_flags": self.plan.changes,
            "other_data": self.plan.other_data,
            "flags": listed(&asked.replaced),
            "seeds": asked.seeds,
            "complete": finished + lost == runs,
            "runs_done": finished,
            "runs_diverged": lost,
            "confidence": CONFIDENCE,
            "chosen_by_validation": self.chosen().iter().map(|arm| &self.plan.arms[*arm].name).collect::<Vec<_>>(),
            "arms": (0..self.plan.arms.len()).map(arm).collect::<Vec<_>>(),
            "paired_differences": self.shown().filter_map(difference).collect::<Vec<_>>(),
        })
    }
}

fn estimate(e: &Estimate) -> Value {
    let interval = e.interval().map(|(low, high)| [low, high]);
    json!({"n": e.n, "mean": e.mean, "interval": interval, "min": e.min, "max": e.max})
}
