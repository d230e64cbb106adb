//! Curvature of a model while it trains: the observer of `train --track`.
//!
//! Eigenvalues come from a few steps of Lanczos, sharpness from one ascent step, both on the same training images each time,
//! without augmentation and with the running statistics of batch-norm. The observer has a device of its own and draws from
//! streams of its own: a run has the same weights with and without it.

use super::hessian::{Operator, Products, extremes};
use super::{Layer, Probe, norm, some_of};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::graph::Graph;
use crate::recipe::{Recipe, TRACKED};
use crate::train::engine::{self, TRAIN};
use crate::train::{Observer, Scene, Session};

/// Steps of Lanczos: enough for the largest eigenvalue of networks to two digits.
const STEPS: usize = 12;
/// Distance from the weights at which gradients for products are taken, as a share of the weights' norm. `study hessian` chooses
/// it from a grid; that would cost as much as the measurement.
const DISTANCE: f64 = 3e-3;

/// Has `session` measure what `--track` asks for; does nothing where it asks for nothing.
///
/// # Errors
/// Those of the device: the second one may not fit into memory.
pub fn attach(session: &mut Session) -> Result<()> {
    if session.recipe().track.is_empty() {
        return Ok(());
    }
    session.observe(|scene| Ok(Box::new(Tracker::new(scene)?)))
}

struct Tracker {
    probe: Probe,
    whole: Layer,
    images: Vec<u32>,
    recipe: Recipe,
}

impl Tracker {
    fn new(scene: &Scene<'_>) -> Result<Tracker> {
        let Scene { recipe, graph, data, training } = scene;
        let mut recipe = (*recipe).clone();
        // Differences of gradients need all digits; the master weights have them.
        if recipe.dtype.storage() != Element::F32 {
            recipe.dtype = DType::F32;
        }
        let images = some_of(recipe.seed, recipe.track_images, training);
        let device = engine::device(&mut recipe)?;
        let rows = recipe.eval_batch.min(images.len());
        let vectors = engine::initial(graph, recipe.seed, Default::default());
        let mut probe = Probe::new(graph, device, &[rows], &vectors, bytes(graph))?;
        probe.set_dataset(TRAIN, &data.train)?;
        Ok(Tracker { probe, whole: Layer::whole(graph), images, recipe })
    }

    /// L(w + rho g/|g|) - L(w)
    fn sharpness(&mut self, weights: &[f32]) -> Result<f64> {
        let slope = self.probe.slope(weights, TRAIN, &self.images)?;
        let length = norm(&slope.gradient);
        let scale = if length > 0.0 { self.recipe.rho / length } else { 0.0 };
        let moved: Vec<f32> =
            weights.iter().zip(&slope.gradient).map(|(w, g)| (f64::from(*w) + scale * f64::from(*g)) as f32).collect();
        let here = self.probe.scores(weights, TRAIN, &self.images)?.loss;
        Ok(self.probe.scores(&moved, TRAIN, &self.images)?.loss - here)
    }
}

/// Bytes that a measurement takes beside the probe: the basis, and the vectors of a product.
fn bytes(graph: &Graph) -> usize {
    graph.params().vector_len() * (4 * (STEPS + 6) + 16)
}

impl Observer for Tracker {
    fn measure(&mut self, weights: &[f32], running: &[f32]) -> Result<Vec<(&'static str, f32)>> {
        self.probe.set_running(running)?;
        let mut values = vec![];
        let asked = |name: &str| self.recipe.track.iter().any(|n| n == name);
        let (hessian, sharpness) = (asked(TRACKED[0]), asked(TRACKED[1]));
        if hessian {
            let mut products = Products::new(&mut self.probe, Operator::Hessian, weights, TRAIN, &self.images)?;
            let size = DISTANCE * norm(weights);
            let [least, most] = extremes(&mut products, &self.whole, size, STEPS, self.recipe.seed)?;
            values.extend([("lambda_max", most as f32), ("lambda_min", least as f32)]);
        }
        if sharpness {
            values.push(("sharpness", self.sharpness(weights)? as f32));
        }
        Ok(values)
    }
}
