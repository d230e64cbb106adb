//! From a request to runs: each optimizer's share of the budget, and the order of the runs.

use super::request::{Budget, Request};
use crate::data::{self, DataSet};
use crate::error::{Error, Result};
use crate::exec::Recording;
use crate::models;
use crate::optim::{self, OptimizerRow};
use crate::recipe::Recipe;
use crate::step::Recorder;
use crate::train::checkpoint::Remembered;
use crate::train::origin::Content;
use crate::train::{beginning, engine, labels, memory, orders};

/// Plan of a comparison.
pub struct Plan {
    /// As asked, the model resolved.
    pub request: Request,
    /// One for each optimizer of the request, in its order.
    pub shares: Vec<Share>,
    /// In the order in which they are made: seed by seed, the optimizers in turn, so that a comparison that is stopped
    /// has as many runs of each.
    pub runs: Vec<Run>,
    pub data: Subject,
    pub steps_per_epoch: u64,
    /// The error of the file of --init, which only runs that are yet to begin need.
    pub init: Result<()>,
}

/// The data of all runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The known set's name, or the folder's.
    pub name: String,
    /// True if it is a known set, whose name identifies its content.
    pub known: bool,
    /// Images trained on, held out, and tested on.
    pub images: [usize; 3],
    pub classes: usize,
}

/// An optimizer's share of the budget in each run.
pub struct Share {
    pub optimizer: &'static OptimizerRow,
    /// Gradients of a batch in one of its steps.
    pub gradients_per_step: f64,
    pub epochs: usize,
    pub steps: u64,
    /// Floating-point operations of a run: its steps, and its evaluations.
    pub flops: f64,
    /// Floating-point operations that evaluating one image takes.
    pub image_flops: f64,
}

impl Share {
    /// Gradients of a batch after `epochs` of its epochs.
    pub fn gradients_after(&self, epochs: usize) -> f64 {
        (self.steps / self.epochs as u64) as f64 * epochs as f64 * self.gradients_per_step
    }
    /// Gradients of a batch in a whole run.
    pub fn gradients(&self) -> f64 {
        self.gradients_after(self.epochs)
    }
}

/// One training run.
pub struct Run {
    /// Its folder below that of the comparison: "sam-seed0".
    pub name: String,
    /// Content of its data, with the noise among its labels, but without the predictions of --relabel.
    pub content: Content,
    /// Whose share of the plan it uses.
    pub share: usize,
    pub recipe: Recipe,
}

impl Plan {
    /// The runs that `request` asks for. Loads the data set to see how long an epoch is, and writes nothing.
    ///
    /// # Errors
    /// Whatever would keep the runs from beginning: wrong settings, names, files, a budget that does not come out even.
    pub fn new(request: Request) -> Result<Plan> {
        request.validate()?;
        let data = data::load_as(&request.recipe.data, request.recipe.labels)?;
        Plan::on(&data, request)
    }

    /// Plans a comparison on data that are loaded.
    ///
    /// # Errors
    /// As for `new`.
    pub fn on(data: &DataSet, request: Request) -> Result<Plan> {
        Plan::with_content(data, &Content::of(data), request)
    }

    /// Plans a comparison on data whose content is `clean`.
    ///
    /// # Errors
    /// As for `new`.
    pub fn with_content(data: &DataSet, clean: &Content, mut request: Request) -> Result<Plan> {
        if request.recipe.model == "auto" {
            let (images, gpu) = ([data.train.h, data.train.w, data.train.c], engine::gpu(&request.recipe));
            request.recipe.model = engine::default_model(images, gpu)?.to_owned();
        }
        let recipe = &request.recipe;
        let model = models::find(&recipe.model)?;
        let source = engine::source(data, recipe.augment());
        let (train, held_out) = orders(recipe, data)?;
        let steps_per_epoch = (train.len() / recipe.batch) as u64;
        let rows: Vec<_> = request.optimizers.iter().map(|name| optim::find(name)).collect::<Result<_>>()?;
        let recipes: Vec<Recipe> = rows.iter().map(|row| request.recipe_of(row)).collect::<Result<_>>()?;
        // A step is recorded for each, for what only that finds: a batch that does not divide, names to freeze. Weights to
        // begin with, which may not be there or fit nothing, are those of all: parameters do not depend on the optimizer.
        let device = engine::device(&mut recipe.clone())?;
        let mut init = Ok(());
        let evaluated = data.test.count + held_out.len();
        let mut costs_of = vec![];
        for (i, recipe) in recipes.iter().enumerate() {
            recipe.check_together()?;
            let graph = models::classifier(&model, &source, &engine::setup(recipe)?)?;
            let mut recorder = Recorder::new(&graph, &*device);
            let programs = engine::record(&mut recorder, &graph, recipe)?;
            let recording = Recording::of(recorder);
            let (a_step, an_image) = programs.flops(|id| recording.programs()[id.0].flops());
            costs_of.push((steps_per_epoch as f64 * a_step, an_image));
            memory::check_run(&*device, &recording, &programs, recipe, data, 0)
                .map_err(|e| e.context(format!("--opt {}", recipe.opt)))?;
            if i == 0 {
                init = beginning(recipe, &graph, Remembered::default()).map(|_| ());
            }
        }
        let cost = |(row, recipe): (&&OptimizerRow, &Recipe)| (row.name, (row.gradients)(&recipe.options()));
        let costs: Vec<(&str, f64)> = rows.iter().zip(&recipes).map(cost).collect();
        let epochs = epochs(request.budget, request.recipe.epochs, &costs)?;
        let share = |i: usize| {
            let ((an_epoch, image_flops), epochs) = (costs_of[i], epochs[i]);
            let evaluations = Recipe { epochs, ..recipes[i].clone() }.evaluations(epochs as u64);
            Share {
                optimizer: rows[i],
                gradients_per_step: costs[i].1,
                epochs,
                steps: steps_per_epoch * epochs as u64,
                flops: an_epoch * epochs as f64 + image_flops * (evaluated as u64 * evaluations) as f64,
                image_flops,
            }
        };
        let shares: Vec<Share> = (0..rows.len()).map(share).collect();
        let run = |seed: u64, (share, of): (usize, &Share)| -> Result<Run> {
            let recipe = Recipe { seed, epochs: of.epochs, ..recipes[share].clone() };
            let content = match labels::noisy(data, &recipe)? {
                Some(noisy) => clean.with_train_labels(&noisy),
                None => clean.clone(),
            };
            Ok(Run { name: format!("{}-seed{seed}", of.optimizer.name), content, share, recipe })
        };
        let of_seed = |seed: &u64| shares.iter().enumerate().map(|share| run(*seed, share)).collect::<Vec<_>>();
        let runs = request.seeds.iter().flat_map(of_seed).collect::<Result<_>>()?;
        let images = [train.len(), held_out.len(), data.test.count];
        let data = Subject { name: data.name.clone(), known: data.known.is_some(), images, classes: data.classes };
        Ok(Plan { request, shares, runs, data, steps_per_epoch, init })
    }

    /// "cnn on fashion-mnist: sgd, sam".
    pub fn title(&self) -> String {
        format!("{} on {}: {}", self.request.recipe.model, self.data.name, self.request.optimizers.join(", "))
    }
}

/// Epochs for each of the optimizers, given by name and gradients a step; `asked` are those of the dearest.
///
/// # Errors
/// Usage: they do not come out whole; with the nearest that do.
fn epochs(budget: Budget, asked: usize, optimizers: &[(&str, f64)]) -> Result<Vec<usize>> {
    let dearest = optimizers.iter().fold(0.0, |most: f64, (_, cost)| most.max(*cost));
    let exact = |asked: usize, cost: f64| match budget {
        Budget::EqualGradients => asked as f64 * dearest / cost,
        Budget::EqualEpochs => asked as f64,
    };
    // A step's cost may be a fraction like 1 + 1/k, so that exact quotients are off by rounding.
    let whole = |epochs: f64| (epochs - epochs.round()).abs() < 1e-6;
    let fits = |asked: &usize| optimizers.iter().all(|(_, cost)| whole(exact(*asked, *cost)));
    let Some((name, cost)) = optimizers.iter().find(|(_, cost)| !whole(exact(asked, *cost))) else {
        let all: Vec<f64> = optimizers.iter().map(|(_, cost)| exact(asked, *cost).round()).collect();
        return match all.iter().find(|epochs| **epochs > f64::from(u32::MAX)) {
            Some(many) => {
                Err(Error::usage(format!("--epochs {asked} makes {many} epochs of the cheapest; give fewer")))
            }
            None => Ok(all.into_iter().map(|epochs| epochs as usize).collect()),
        };
    };
    let near = [(1..asked).rev().take(10_000).find(fits), (asked..asked.saturating_add(10_000)).find(fits)];
    let near: Vec<String> = near.into_iter().flatten().map(|n| n.to_string()).collect();
    let way_out = if near.is_empty() {
        "--budget equal-epochs needs no division".to_owned()
    } else {
        format!("--epochs {} would", near.join(" or "))
    };
    let found = exact(asked, *cost);
    let [dearest, cost] = [dearest, *cost].map(|cost| (cost * 100.0).round() / 100.0);
    Err(Error::usage(format!(
        "--epochs {asked} at {dearest} gradients a step leaves {name}, at {cost}, {found:.2} epochs, which is not \
         whole; {way_out}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_optimizers_get_as_many_gradients_as_the_dearest() {
        let (sgd, sam, look) = (("sgd", 1.0), ("sam", 2.0), ("looksam", 1.0 + 1.0 / 5.0));
        let gradients = Budget::EqualGradients;
        for (budget, asked, optimizers, expected) in [
            (gradients, 8, vec![sgd, sam], vec![16, 8]),
            (gradients, 8, vec![sam, sgd], vec![8, 16]),
            (gradients, 8, vec![sgd], vec![8]),
            (gradients, 3, vec![sam, look], vec![3, 5]),
            (gradients, 3, vec![sgd, sam, ("amo", 6.0)], vec![18, 9, 3]),
            (Budget::EqualEpochs, 7, vec![sgd, sam, look], vec![7, 7, 7]),
        ] {
            assert_eq!(epochs(budget, asked, &optimizers), Ok(expected), "{optimizers:?}");
        }
        let uneven = epochs(gradients, 8, &[sam, look]).unwrap_err();
        assert_eq!(
            uneven.to_string(),
            "--epochs 8 at 2 gradients a step leaves looksam, at 1.2, 13.33 epochs, which is not whole; \
             --epochs 6 or 9 would"
        );
        assert_eq!(uneven.exit_code(), 2);
        let first = epochs(gradients, 1, &[sam, ("three", 3.0)]).unwrap_err().to_string();
        assert!(first.ends_with("leaves sam, at 2, 1.50 epochs, which is not whole; --epochs 2 would"), "{first}");
        let many = epochs(gradients, u32::MAX as usize, &[sgd, sam]).unwrap_err().to_string();
        assert!(many.contains("8589934590"), "{many}");
    }

    #[test]
    fn runs_alternate_and_differ_in_optimizer_seed_and_epochs_alone() {
        let recipe = Recipe { lr: 0.3, epochs: 5, ..Recipe::default() };
        let request = Request { recipe: recipe.clone(), seeds: vec![4, 2], ..Request::default() };
        let plan = Plan::new(request).unwrap();
        let names: Vec<&str> = plan.runs.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["sgd-seed4", "sam-seed4", "sgd-seed2", "sam-seed2"]);
        let sam = Recipe { opt: "sam".into(), seed: 4, epochs: 5, model: "cnn".into(), ..recipe };
        assert_eq!(plan.runs[1].recipe, sam);
        assert_eq!(plan.runs[2].recipe, Recipe { opt: "sgd".into(), seed: 2, epochs: 10, ..sam });
        assert_eq!((plan.steps_per_epoch, plan.data.images), (468, [60_000, 0, 10_000]));
        assert_eq!(plan.shares.iter().map(Share::gradients).collect::<Vec<_>>(), [4680.0, 4680.0]);
        assert_eq!(plan.shares.iter().map(|s| s.steps).collect::<Vec<_>>(), [4680, 2340]);
    }
}
