//! From a protocol to its runs: one comparison of a single optimizer for each arm, and what they cost.

use super::measure;
use super::{Level, Method, Protocol, Scale};
use crate::bench::estimate;
use crate::data::{self, DataSet};
use crate::error::{Error, Result};
use crate::models;
use crate::protocol::folder::State;
use crate::protocol::report::count;
use crate::protocol::table::Table;
use crate::protocol::{self, Budget, Request, Run, Share};
use crate::recipe::{Overrides, RESUMABLE, Recipe, SETTINGS, Value, recipe_of, setting};
use crate::train::origin::Content;
use std::path::Path;
use std::time::Duration;

/// Settings of a run that a protocol gives to each arm by itself.
pub const OWN: [&str; 4] = ["opt", "seed", "init", "relabel"];
/// Settings that may be replaced although arms differ in them: they only make runs shorter.
const SHORTER: [&str; 3] = ["epochs", "train-images", "batch"];

/// A protocol as it is asked for.
pub struct Asked {
    pub protocol: &'static Protocol,
    pub scale: Scale,
    pub seeds: Vec<u64>,
    /// Settings in place of the protocol's own.
    pub replaced: Overrides,
}

/// Runs of one method in one cell of the grid.
pub struct Arm {
    /// Beginning of its runs' names: "wrn-10-1-basic-sam".
    pub name: String,
    pub row: &'static Level,
    pub column: &'static Level,
    pub method: &'static Method,
    /// A comparison of one optimizer, one run for each seed in the order of the request.
    pub plan: protocol::Plan,
    /// The arm whose run it begins with a part of.
    pub after: Option<usize>,
    /// Images that the measurements of a run evaluate, gradients counted as three.
    pub measured_images: f64,
}

impl Arm {
    /// Returns its one share of the budget.
    pub fn share(&self) -> &Share {
        &self.plan.shares[0]
    }

    /// Returns the cell that it is in: "wrn-10-1, basic".
    pub fn cell(&self) -> String {
        let names = [self.row.name, self.column.name];
        names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// Returns floating-point operations of a run and of its measurements.
    pub fn flops(&self) -> [f64; 2] {
        [self.share().flops, self.measured_images * self.share().image_flops]
    }
}

/// The runs of a protocol.
pub struct Plan {
    pub asked: Asked,
    /// Before each arm stand those that it takes something from.
    pub arms: Vec<Arm>,
    /// Settings by which it differs from the protocol: "--epochs 1".
    pub changes: Vec<String>,
    /// Data that are not the known set that the protocol names, in a sentence each.
    pub other_data: Vec<String>,
}

/// Data sets by their settings, read once.
type Loaded = Vec<((String, data::Labels), DataSet, Content)>;

impl Plan {
    /// Plans all runs. Loads the data sets, and writes nothing.
    ///
    /// # Errors
    /// Usage: a setting that the protocol itself varies. Whatever would keep a run from beginning.
    pub fn new(asked: Asked) -> Result<Plan> {
        let grid = asked.protocol.grid(asked.scale);
        check_replaced(&asked)?;
        let mut loaded = Loaded::new();
        let mut arms: Vec<Arm> = vec![];
        for row in grid.rows {
            for column in grid.columns {
                let first = arms.len();
                for method in grid.methods {
                    let mut arm = arm(&asked, row, column, method, &mut loaded)?;
                    if let Some((_, other)) = method.takes {
                        let found = arms[first..].iter().position(|arm| arm.method.name == other);
                        let missing = || Error::internal(format!("{} takes from {other}, which follows", method.name));
                        arm.after = Some(first + found.ok_or_else(missing)?);
                    }
                    arms.push(arm);
                }
            }
        }
        let (changes, other_data) = (changes(&asked), other_data(&asked, &loaded));
        Ok(Plan { asked, arms, changes, other_data })
    }

    /// Returns arm and number of each run in the order in which they are made: seed by seed, so that a protocol that is
    /// stopped has as many runs of each arm.
    pub fn order(&self) -> Vec<(usize, usize)> {
        let of_seed = |seed: usize| (0..self.arms.len()).map(move |arm| (arm, seed));
        (0..self.asked.seeds.len()).flat_map(of_seed).collect()
    }

    /// Returns run `seed` of arm `arm`, which takes what it begins with from the protocol's folder `out`.
    pub fn run(&self, arm: usize, seed: usize, out: &Path) -> Run {
        let arm = &self.arms[arm];
        let run = &arm.plan.runs[seed];
        let mut recipe = run.recipe.clone();
        if let (Some(after), Some((takes, _))) = (arm.after, arm.method.takes) {
            let file = out.join(&self.arms[after].plan.runs[seed].name).join("last.safetensors").display().to_string();
            match takes {
                super::Takes::Labels => recipe.relabel = file,
                super::Takes::Weights => recipe.init = file,
            }
        }
        Run { name: run.name.clone(), content: run.content.clone(), share: run.share, recipe }
    }

    /// "sam-table1 at small scale".
    pub fn title(&self) -> String {
        format!("{} at {} scale", self.asked.protocol.name, self.asked.scale.name())
    }

    /// Returns a sentence that says what flags have changed; None if nothing.
    pub fn warning(&self) -> Option<String> {
        let changes = self.changes.join(", ");
        let how = if is_shrunk(&self.asked) { "Shrunk" } else { "Changed" };
        (!changes.is_empty()).then(|| {
            format!("{how} by flags: {changes}. These are not the protocol's own results; see 'samcore repro list'.")
        })
    }

    /// Returns how many of the protocol's floating-point operations are left to do in runs of these states.
    pub fn flops_left(&self, states: &[Vec<State>]) -> f64 {
        let of = |(arm, states): (&Arm, &Vec<State>)| {
            let [run, measured] = arm.flops();
            let left = |state: &State| {
                let left = state.left(arm.share().steps);
                left * run + if left > 0.0 { measured } else { 0.0 }
            };
            states.iter().map(left).sum::<f64>()
        };
        self.arms.iter().zip(states).map(of).sum()
    }

    /// Returns the plan as a table for people, with how far each arm has come and what is left at `gflops`, the machine's
    /// multiply-add limit, where that is known.
    pub fn text(&self, states: &[Vec<State>], gflops: Option<f64>) -> String {
        let protocol = self.asked.protocol;
        let grid = protocol.grid(self.asked.scale);
        let mut text = format!("{}: {}\nanswers: {}\n", self.title(), protocol.about, protocol.answers);
        if self.asked.scale == Scale::Small {
            text += &format!("shrunk: {}\n", protocol.shrunk);
        }
        self.warning().into_iter().chain(self.other_data.clone()).for_each(|line| text += &(line + "\n"));
        let seeds: Vec<String> = self.asked.seeds.iter().map(u64::to_string).collect();
        text += &format!(
            "{} rows, {} columns, {} methods; seeds {}\n\n",
            grid.rows.len(),
            grid.columns.len(),
            grid.methods.len(),
            seeds.join(", ")
        );
        let header = ["runs", "of", "done", "epochs", "steps", "gradients a step", "gradient evaluations", "time left"];
        let mut table = Table::new("", 1, &header[..if gflops.is_some() { header.len() } else { header.len() - 1 }]);
        let time = |flops: f64, gflops: f64| match flops > 0.0 {
            true => estimate::duration(flops, gflops),
            false => Duration::ZERO,
        };
        let (mut gradients, mut runs) = (0.0, 0);
        for (arm, states) in self.arms.iter().zip(states) {
            let share = arm.share();
            let done = states.iter().filter(|state| state.left(share.steps) == 0.0).count();
            let [run, measured] = arm.flops();
            let left: f64 = states.iter().map(|state| state.left(share.steps)).sum();
            gradients += share.gradients() * states.len() as f64;
            runs += states.len();
            let mut row = vec![
                arm.name.clone(),
                states.len().to_string(),
                done.to_string(),
                share.epochs.to_string(),
                count(share.steps as f64),
                format!("{:.2}", share.gradients_per_step).trim_end_matches(['0']).trim_end_matches('.').to_owned(),
                count(share.gradients()),
            ];
            row.extend(gflops.map(|gflops| match time(left * (run + measured), gflops) {
                Duration::ZERO => "none".into(),
                time => estimate::about(time),
            }));
            table.rows.push(row);
        }
        text += &table.markdown();
        let total = gflops.map(|gflops| {
            let about = estimate::about(time(self.flops_left(states), gflops));
            format!("; {about} left on this machine, by an estimate")
        });
        text + &format!("\n{runs} runs, {} gradient evaluations{}\n", count(gradients), total.unwrap_or_default())
    }
}

/// Plans the runs of one method in one cell.
fn arm(
    asked: &Asked,
    row: &'static Level,
    column: &'static Level,
    method: &'static Method,
    loaded: &mut Loaded,
) -> Result<Arm> {
    let grid = asked.protocol.grid(asked.scale);
    let name = slug(&[row.name, column.name, method.name]);
    let mut given = Overrides::default();
    for settings in grid.shared.iter().chain([&row.settings, &column.settings, &method.settings]) {
        given = given.with(Overrides::parse(settings.iter())?);
    }
    let main = Recipe::default().with(&given)?.data == main_data(asked);
    given = given.with(if main { asked.replaced.clone() } else { asked.replaced.clone().without(&["data"]) });
    let wanted = Recipe::default().with(&given)?;
    let at = load(&wanted, loaded)?;
    let (_, data, content) = &loaded[at];
    let mut recipe = recipe_of(&models::find(&wanted.model)?, &given, data.format)?;
    recipe.epochs = recipe.epochs.saturating_mul(method.epochs);
    let mut request = Request {
        optimizers: vec![recipe.opt.clone()],
        seeds: asked.seeds.clone(),
        budget: Budget::EqualEpochs,
        recipe,
        given: vec![],
    };
    // The recipe is whole: nothing is left to the optimizer's defaults.
    request.give(|_| true);
    let mut plan = protocol::Plan::with_content(data, content, request).map_err(|e| e.context(&name))?;
    for run in &mut plan.runs {
        run.name = format!("{name}-seed{}", run.recipe.seed);
    }
    let recipe = &plan.request.recipe;
    let measured_images = if method.shown { measure::images(&asked.protocol.measured, recipe, data)? } else { 0.0 };
    Ok(Arm { name, row, column, method, plan, after: None, measured_images })
}

/// Returns the data set whose place --data takes: that of the first runs. Another that the protocol uses keeps its own.
fn main_data(asked: &Asked) -> &'static str {
    let grid = asked.protocol.grid(asked.scale);
    let first = [grid.rows.first().map(|l| l.settings), grid.methods.first().map(|m| m.settings)];
    let all = grid.shared.iter().copied().chain(first.into_iter().flatten()).flatten();
    all.rev().find(|(name, _)| *name == "data").map_or("fashion-mnist", |(_, value)| value)
}

/// Returns the place in `loaded` of the data of `recipe`.
fn load(recipe: &Recipe, loaded: &mut Loaded) -> Result<usize> {
    let key = (recipe.data.clone(), recipe.labels);
    if let Some(at) = loaded.iter().position(|(known, ..)| *known == key) {
        return Ok(at);
    }
    let data = data::load_as(&recipe.data, recipe.labels)?;
    let content = Content::of(&data);
    loaded.push((key, data, content));
    Ok(loaded.len() - 1)
}

/// Checks that no setting is replaced in which the protocol's runs differ.
fn check_replaced(asked: &Asked) -> Result<()> {
    let grid = asked.protocol.grid(asked.scale);
    let levels = grid.rows.iter().chain(grid.columns).map(|level| level.settings);
    let varied: Vec<&str> =
        levels.chain(grid.methods.iter().map(|m| m.settings)).flatten().map(|(name, _)| *name).collect();
    let not = |name: &str| varied.contains(&name) && !SHORTER.contains(&name) && name != "data";
    match asked.replaced.iter().find(|(name, _)| not(name)) {
        None => Ok(()),
        Some((name, value)) => {
            let protocol = asked.protocol.name;
            let advice = "leave it out, or compare runs of your own with 'samcore compare'";
            Err(Error::usage(format!("--{name} {value}: runs of {protocol} differ in --{name}; {advice}")))
        }
    }
}

/// Returns the value that all runs of the protocol begin with.
fn shared(asked: &Asked, name: &str) -> Option<Value> {
    let all = asked.protocol.grid(asked.scale).shared.iter().copied().flatten();
    let (_, text) = all.rev().find(|(known, _)| *known == name)?;
    setting(name).ok()?.kind.parse(text).ok()
}

/// Returns true if flags make runs shorter or fewer.
fn is_shrunk(asked: &Asked) -> bool {
    let fewer = |name: &str| match (asked.replaced.get(name), shared(asked, name)) {
        (Some(Value::Count(given)), Some(Value::Count(own))) => *given < own,
        // All images, which a count of 0 stands for.
        (Some(Value::Count(given)), None) => name == "train-images" && *given > 0,
        _ => false,
    };
    let seeds = (asked.seeds.len() as u64) < asked.protocol.seeds[asked.scale as usize];
    seeds || fewer("epochs") || fewer("train-images")
}

/// Returns what the flags have changed, of that which decides results, but for the data.
fn changes(asked: &Asked) -> Vec<String> {
    let resumable = |name: &str| SETTINGS.iter().any(|s| s.name == name && s.section == RESUMABLE);
    let counts = |(name, value): &&(&'static str, Value)| {
        !resumable(name) && *name != "data" && shared(asked, name).as_ref() != Some(value)
    };
    let mut told: Vec<String> =
        asked.replaced.iter().filter(counts).map(|(name, value)| format!("--{name} {value}")).collect();
    let usual = asked.protocol.seeds[asked.scale as usize];
    if (asked.seeds.len() as u64) < usual {
        told.push(format!("{} of {usual} seeds", asked.seeds.len()));
    }
    told
}

/// Returns a sentence if --data names another set than the protocol's, or one whose files are not the original ones.
fn other_data(asked: &Asked, loaded: &Loaded) -> Vec<String> {
    let Some(given) = asked.replaced.get("data").map(Value::to_string) else { return vec![] };
    let main = main_data(asked);
    let original = |(_, data, _): &&(_, DataSet, _)| data.known.is_some_and(|known| known.name == main);
    let found = loaded.iter().find(|((name, _), ..)| *name == given);
    match found {
        None => vec![],
        Some(found) if original(&found) => vec![],
        Some((_, data, _)) => {
            let (train, test) = (data.train.count, data.test.count);
            vec![format!(
                "Data: {given} in place of {main}, {train} training and {test} test images; its files are not {main}'s."
            )]
        }
    }
}

/// Returns the words as the name of a folder: letters, digits and points, with single hyphens between them.
fn slug(words: &[&str]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let text: String = words.join("-").chars().map(plain).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
