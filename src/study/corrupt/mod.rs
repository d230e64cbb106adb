//! How much accuracy a trained model loses when its parameters are corrupted (Sun et al. 2021, arXiv:2006.05620).
//!
//! A corruption a is a vector with |a|_p = eps and at most n entries that are not 0. The random one is a scaled draw; the
//! gradient-based one maximises a . g, the growth of the mean training loss to first order, g its gradient at the trained
//! weights. Both are measured on test images at w + a. Every eps scales one and the same direction.

mod report;

use super::{Direction, Draw, Entries, Layer, Probe, norm as length};
use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::optim::Norm;
use crate::study::journal::Journal;
use crate::train::engine::{TEST, TRAIN};
use crate::train::records::Scores;
use serde_json::{Value, json};

/// Settings of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Norms, and of each the grid of eps, ascending.
    pub norms: Vec<(Norm, Vec<f64>)>,
    /// Numbers of entries; the first one is that of the map of layers.
    pub entries: Vec<Entries>,
    /// Seeds of random corruptions.
    pub seeds: Vec<u64>,
    pub draw: Draw,
    /// Layers that are corrupted by themselves, by their gradients; none for no map.
    pub layers: Vec<Layer>,
    /// Numbers of the training images that the gradient is of, and of the test images that are measured.
    pub gradient_images: Vec<u32>,
    pub test_images: Vec<u32>,
}

impl Settings {
    /// Returns the number of measurements: one for each corruption.
    pub fn measurements(&self) -> usize {
        let points: usize = self.norms.iter().map(|(_, grid)| grid.len()).sum();
        points * (self.entries.len() * (1 + self.seeds.len()) + self.layers.len())
    }

    /// Returns the settings for the study's journal.
    pub fn to_json(&self) -> Value {
        let norms: Vec<_> = self.norms.iter().map(|(norm, grid)| json!([report::name(*norm), grid])).collect();
        let entries: Vec<_> = self.entries.iter().map(Entries::to_string).collect();
        let layers: Vec<_> = self.layers.iter().map(|layer| &layer.name).collect();
        let draw = Draw::NAMES[self.draw as usize];
        let images = [self.gradient_images.len(), self.test_images.len()];
        json!({
            "norms": norms, "n": entries, "seeds": self.seeds, "random": draw, "layers": layers,
            "gradient and test images": images,
        })
    }
}

/// One corruption and its effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// "all", or a layer.
    pub layer: String,
    pub norm: Norm,
    pub entries: Entries,
    /// Parameters that were really changed.
    pub changed: usize,
    pub eps: f64,
    /// Seed of a random corruption; None for the gradient-based one.
    pub seed: Option<u64>,
    pub scores: Scores,
    /// a . g
    pub first_order: f64,
}

/// Costs of gradient-based and of random corruption of the whole model at one eps.
#[derive(Clone, Debug, PartialEq)]
pub struct Damage {
    pub norm: Norm,
    pub entries: Entries,
    /// The smallest eps of the grid at which the gradient-based corruption costs [`HARM`] or more; where none does, the one
    /// at which it costs most.
    pub eps: f64,
    /// Lost accuracy, 0 to 1; of random corruption the mean over the seeds and the worst of them.
    pub gradient_based: f64,
    pub random: f64,
    pub worst_random: f64,
    /// The first over the second; None where either costs nothing.
    pub ratio: Option<f64>,
    /// The eps at which random corruption costs on average what the gradient-based one costs here, between the points of
    /// the grid linear in log eps; None if it does nowhere on the grid, or the gradient-based one costs nothing.
    pub random_eps: Option<f64>,
}

/// The loss of accuracy at which damages are compared: ten points.
pub const HARM: f64 = 0.1;

/// All that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    pub settings: Settings,
    /// Scores of the test images at the trained weights.
    pub clean: Scores,
    /// Loss of the training images there.
    pub train_loss: f64,
    pub gradient_norm: f64,
    pub weight_norm: f64,
    pub parameters: usize,
    pub rows: Vec<Row>,
}

/// Measures the model of `graph`, whose weights are `weights`, on the data sets that `probe` has; each corruption is a
/// measurement of `journal`.
///
/// # Errors
/// NotFinite: the gradient is not finite. Those of the device.
pub fn run(
    probe: &mut Probe,
    graph: &Graph,
    weights: &[f32],
    settings: Settings,
    journal: &mut Journal<'_>,
) -> Result<Study> {
    let whole = Layer::whole(graph);
    let slope = probe.slope(weights, TRAIN, &settings.gradient_images)?;
    let gradient_norm = length(&slope.gradient);
    if !gradient_norm.is_finite() {
        return Err(Error::new(Kind::NotFinite, "the gradient at the trained weights is not finite"));
    }
    let clean = probe.scores(weights, TEST, &settings.test_images)?;
    let mut rows = Vec::with_capacity(settings.measurements());
    let mut measure =
        |layer: &Layer, norm, entries, grid: &[f64], direction: &Direction, seed: Option<u64>| -> Result<()> {
            for eps in grid {
                let kind = seed.map_or_else(|| "gradient".to_owned(), |seed| seed.to_string());
                let key = format!("{}/{}/{entries}/{eps}/{kind}", layer.name, norm as usize);
                let scores = journal.measure(&key, || {
                    let scores = probe.scores(&direction.corrupted(weights, *eps), TEST, &settings.test_images)?;
                    Ok(vec![scores.loss, scores.accuracy])
                })?;
                let [loss, accuracy] = scores[..] else { return Err(Error::internal("a corruption's scores")) };
                let scores = Scores { loss, accuracy };
                let changed = if *eps == 0.0 { 0 } else { direction.len() };
                let first_order = eps * direction.along(&slope.gradient);
                let layer = layer.name.clone();
                rows.push(Row { layer, norm, entries, changed, eps: *eps, seed, scores, first_order });
            }
            Ok(())
        };
    for (norm, grid) in &settings.norms {
        for entries in &settings.entries {
            let n = entries.of(whole.len());
            let steepest = Direction::steepest(&slope.gradient, &whole, n, *norm);
            measure(&whole, *norm, *entries, grid, &steepest, None)?;
            for seed in &settings.seeds {
                let random = Direction::random(*seed, &whole, n, *norm, settings.draw);
                measure(&whole, *norm, *entries, grid, &random, Some(*seed))?;
            }
        }
        for layer in &settings.layers {
            let entries = settings.entries[0];
            let steepest = Direction::steepest(&slope.gradient, layer, entries.of(layer.len()), *norm);
            measure(layer, *norm, entries, grid, &steepest, None)?;
        }
    }
    let (weight_norm, parameters) = (length(weights), whole.len());
    Ok(Study { settings, clean, train_loss: slope.loss, gradient_norm, weight_norm, parameters, rows })
}

impl Study {
    /// Rows of the whole model for a norm and a number of entries; random ones or the gradient-based ones.
    fn of_whole(&self, norm: Norm, entries: Entries, random: bool) -> impl Iterator<Item = &Row> {
        let matches = move |r: &&Row| r.layer == "all" && r.norm == norm && r.entries == entries;
        self.rows.iter().filter(matches).filter(move |r| r.seed.is_some() == random)
    }

    /// Accuracies of the random corruptions at `eps`: mean, least and largest over the seeds.
    fn random_at(&self, norm: Norm, entries: Entries, eps: f64) -> Option<(f64, f64, f64)> {
        let at = self.of_whole(norm, entries, true).filter(|r| r.eps == eps).map(|r| r.scores.accuracy);
        let all: Vec<f64> = at.collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let least = all.iter().copied().reduce(f64::min)?;
        Some((mean, least, all.iter().copied().reduce(f64::max)?))
    }

    /// The comparison of gradient-based with random corruption, for each norm and number of entries.
    pub fn damages(&self) -> Vec<Damage> {
        let mut damages = Vec::new();
        for (norm, grid) in &self.settings.norms {
            for entries in &self.settings.entries {
                damages.extend(self.damage(*norm, *entries, grid));
            }
        }
        damages
    }

    /// None without random corruptions.
    fn damage(&self, norm: Norm, entries: Entries, grid: &[f64]) -> Option<Damage> {
        let drop = |accuracy: f64| self.clean.accuracy - accuracy;
        let costs: Vec<(f64, f64)> =
            self.of_whole(norm, entries, false).map(|r| (r.eps, drop(r.scores.accuracy))).collect();
        let harmful = costs.iter().find(|(_, cost)| *cost >= HARM);
        let (eps, gradient_based) = *harmful.or(costs.iter().max_by(|a, b| a.1.total_cmp(&b.1)))?;
        let (mean, least, _) = self.random_at(norm, entries, eps)?;
        let random = drop(mean);
        let ratio = (gradient_based > 0.0 && random > 0.0).then(|| gradient_based / random);
        let costs: Vec<(f64, f64)> =
            grid.iter().filter_map(|eps| Some((*eps, drop(self.random_at(norm, entries, *eps)?.0)))).collect();
        let random_eps = if gradient_based > 0.0 { first_reach(&costs, gradient_based) } else { None };
        Some(Damage { norm, entries, eps, gradient_based, random, worst_random: drop(least), ratio, random_eps })
    }
}

/// The eps at which `costs`, points (eps, cost) with ascending eps, first comes to `cost`.
fn first_reach(costs: &[(f64, f64)], cost: f64) -> Option<f64> {
    let at = costs.iter().position(|(_, c)| *c >= cost)?;
    let (eps, high) = costs[at];
    let below = at.checked_sub(1).map(|i| costs[i]).filter(|(eps, low)| *eps > 0.0 && *low < high);
    Some(below.map_or(eps, |(before, low)| before * (eps / before).powf((cost - low) / (high - low))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accuracy 0.9 at the trained weights; at eps 0.1, 1 and 10 gradient-based corruption leaves 0.8, 0.4, 0.1 and random
    /// corruption on average 0.89, 0.85, 0.6.
    fn study() -> Study {
        let settings = Settings {
            norms: vec![(Norm::Two, vec![0.1, 1.0, 10.0])],
            entries: vec![Entries::All],
            seeds: vec![0, 1],
            draw: Draw::Normal,
            layers: vec![],
            gradient_images: vec![0],
            test_images: vec![0],
        };
        let row = |eps, accuracy, seed| Row {
            layer: "all".into(),
            norm: Norm::Two,
            entries: Entries::All,
            changed: 5,
            eps,
            seed,
            scores: Scores { loss: 1.0, accuracy },
            first_order: eps,
        };
        let mut rows = vec![];
        for (eps, gradient_based, random) in [(0.1, 0.79, 0.89), (1.0, 0.4, 0.85), (10.0, 0.1, 0.6)] {
            rows.push(row(eps, gradient_based, None));
            rows.extend([row(eps, random - 0.01, Some(0)), row(eps, random + 0.01, Some(1))]);
        }
        let clean = Scores { loss: 0.3, accuracy: 0.9 };
        Study { settings, clean, train_loss: 0.1, gradient_norm: 1.0, weight_norm: 1.0, parameters: 5, rows }
    }

    #[test]
    fn damages_are_compared_where_the_worst_case_first_costs_ten_points() {
        let damage = &study().damages()[0];
        assert_eq!(damage.eps, 0.1);
        assert!((damage.gradient_based - 0.11).abs() < 1e-12 && (damage.random - 0.01).abs() < 1e-12);
        assert!((damage.worst_random - 0.02).abs() < 1e-12);
        assert!((damage.ratio.unwrap() - 11.0).abs() < 1e-9);
        // 0.05 at eps 1 and 0.3 at eps 10: 0.11 is reached a share of 0.06 / 0.25 of the way, in log eps.
        assert!((damage.random_eps.unwrap() - 10f64.powf(0.24)).abs() < 1e-9);
    }

    #[test]
    fn what_random_corruption_never_costs_has_no_eps() {
        let mut study = study();
        for row in study.rows.iter_mut().filter(|row| row.seed.is_some()) {
            row.scores.accuracy = 0.9;
        }
        let damage = &study.damages()[0];
        assert_eq!((damage.ratio, damage.random_eps), (None, None));
        assert!(study.to_text().contains("; random costs nothing; random corruption never costs that on this grid"));
        // Where the gradient-based one costs nothing either, there is nothing to compare.
        for row in &mut study.rows {
            row.scores.accuracy = 0.9;
        }
        let damage = &study.damages()[0];
        assert_eq!((damage.gradient_based, damage.ratio, damage.random_eps), (0.0, None, None));
        let text = study.to_text();
        let last = text.lines().last().unwrap();
        assert!(
            last.ends_with("gradient-based corruption costs nothing at any eps: there is nothing to compare"),
            "{last}"
        );
        study.rows.retain(|row| row.seed.is_none());
        assert_eq!(study.damages(), []);
    }
}
