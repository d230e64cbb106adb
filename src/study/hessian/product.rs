//! Products of a vector with the Hessian or the Gauss-Newton matrix of the mean loss, by central differences of gradients.
//!
//! H v = |v| (g(w + h v/|v|) - g(w - h v/|v|)) / 2h, an error of h²/6 times the third derivative of g along v (Pearlmutter 1994,
//! "Fast Exact Multiplication by the Hessian", section 1, on why h must be chosen with care). Two gradients on the compute copy
//! of the weights, summed up in f64, and no memory beyond that of a gradient but three vectors. Batch-norm normalises by its
//! running statistics, as everywhere in a study.
//!
//! The Gauss-Newton matrix Jᵀ S J, with J the Jacobian of the logits and S the Hessian of the cross-entropy by them, is what the
//! same differences give where the targets are the model's own probabilities at w, held fixed: the gradient is then
//! J(w')ᵀ (p(w') - p(w)), whose second factor is 0 at w, so that its derivative there has no other term.

use crate::error::{Error, Kind, Result};
use crate::rng::{Draws, stream};
use crate::study::{Layer, Probe, Sample};

/// Matrix that vectors are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Hessian,
    /// The generalised Gauss-Newton matrix (Schraudolph 2002), for cross-entropy that of Fisher with the model's own labels.
    GaussNewton,
}

impl Operator {
    pub const ALL: [Operator; 2] = [Operator::Hessian, Operator::GaussNewton];

    /// Name in results.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Hessian => "hessian",
            Operator::GaussNewton => "gauss-newton",
        }
    }
}

/// Distances that [`Products::choose`] tries, as shares of the norm of the layer's weights: each is about a third of the one
/// before it.
pub const GRID: [f64; 7] = [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4];

/// Power iterations towards the vector that [`Products::choose`] tries distances on.
const POWERS: usize = 3;

/// Distance from the weights at which gradients are taken, and how well products with it are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// h
    pub size: f64,
    /// The larger of the relative differences between products with h and with the next larger and smaller distance of
    /// [`GRID`]; 0 where all products are 0.
    pub disagreement: f64,
    /// Norm of the rounding noise of a gradient, from the two smallest distances: at most that, if they differ by more than
    /// rounding.
    pub noise: f64,
}

/// Products at given weights over given images.
pub struct Products<'a> {
    probe: &'a mut Probe,
    weights: &'a [f32],
    sample: Sample<'a>,
    /// Scratch: weights at which a gradient is taken, and the difference of gradients.
    moved: Vec<f32>,
    difference: Vec<f64>,
}

impl<'a> Products<'a> {
    /// Products with `operator` at `weights`, over `images` of a data set of the probe.
    ///
    /// # Errors
    /// Those of the device. Internal: the Gauss-Newton matrix by a probe without targets.
    pub fn new(
        probe: &'a mut Probe,
        operator: Operator,
        weights: &'a [f32],
        dataset: u32,
        images: &'a [u32],
    ) -> Result<Products<'a>> {
        let targets = match operator {
            Operator::Hessian => None,
            Operator::GaussNewton => Some(probe.probabilities(weights, dataset, images)?),
        };
        let sample = Sample { dataset, images, targets };
        Ok(Products { probe, weights, sample, moved: weights.to_vec(), difference: vec![0.0; weights.len()] })
    }

    /// Returns the product with `v`, both of them the entries of `layer` alone: the diagonal block of the matrix that belongs to
    /// it. `size` is h.
    ///
    /// # Errors
    /// NotFinite: a gradient on the way is not. Those of the device.
    pub fn of(&mut self, layer: &Layer, v: &[f32], size: f64) -> Result<Vec<f32>> {
        let product = self.unchecked(layer, v, size)?;
        if product.iter().all(|x| x.is_finite()) {
            return Ok(product);
        }
        let message =
            format!("{}: the gradient at a distance of {size:.3e} from the weights is not finite", layer.name);
        Err(Error::new(Kind::NotFinite, message))
    }

    fn unchecked(&mut self, layer: &Layer, v: &[f32], size: f64) -> Result<Vec<f32>> {
        let length = dot(v, v).sqrt();
        if length == 0.0 {
            return Ok(vec![0.0; v.len()]);
        }
        self.difference.fill(0.0);
        for sign in [1.0, -1.0] {
            for (i, v) in layer.indices().zip(v) {
                self.moved[i] = (f64::from(self.weights[i]) + sign * size / length * f64::from(*v)) as f32;
            }
            self.probe.add_gradient(&self.moved, &self.sample, sign, &mut self.difference)?;
        }
        for range in &layer.places {
            self.moved[range.clone()].copy_from_slice(&self.weights[range.clone()]);
        }
        Ok(layer.indices().map(|i| (self.difference[i] * length / (2.0 * size)) as f32).collect())
    }

    /// Chooses h for a layer: the distance of [`GRID`] whose product agrees best with those of both its neighbours. Where the
    /// distance is too small the noise of f32 makes them differ, which grows as 1/h; where it is too large the third derivative
    /// does, which grows as h². The vector comes from a few power iterations, so that it is near that of the largest eigenvalue.
    ///
    /// # Errors
    /// NotFinite: no distance gives finite products. Those of the device.
    pub fn choose(&mut self, layer: &Layer, seed: u64) -> Result<Step> {
        let norm = layer.indices().map(|i| f64::from(self.weights[i]).powi(2)).sum::<f64>().sqrt();
        // Biases may all be 0.
        let scale = if norm > 0.0 { norm } else { 0.01 * (layer.len() as f64).sqrt() };
        let mut draws = Draws::new(seed, stream("hessian step"), 0, 0);
        let mut direction: Vec<f32> = (0..layer.len()).map(|_| draws.normal() as f32).collect();
        for _ in 0..POWERS {
            direction = self.of(layer, &direction, scale * GRID[3])?;
            let length = dot(&direction, &direction).sqrt() as f32;
            if length == 0.0 {
                return Ok(Step { size: scale * GRID[3], disagreement: 0.0, noise: 0.0 });
            }
            direction.iter_mut().for_each(|v| *v /= length);
        }
        let mut differences = Vec::with_capacity(GRID.len() - 1);
        let (mut before, mut noise) = (None::<Vec<f32>>, 0.0);
        for (i, share) in GRID.iter().enumerate() {
            let product = self.unchecked(layer, &direction, scale * share)?;
            if let Some(before) = &before {
                let apart =
                    before.iter().zip(&product).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
                differences.push(if apart == 0.0 { 0.0 } else { apart.sqrt() / dot(&product, &product).sqrt() });
                // Noise n in each of two gradients makes n/(sqrt(2) h) in a product.
                let ratio = share / GRID[i - 1];
                noise = apart.sqrt() * scale * share * (2.0 / (1.0 + ratio * ratio)).sqrt();
            }
            before = Some(product);
        }
        // One that is not finite loses against every other.
        let worse =
            |pair: &[f64]| if pair.iter().all(|d| d.is_finite()) { pair[0].max(pair[1]) } else { f64::INFINITY };
        let inner = differences.windows(2).map(worse).enumerate();
        let (at, disagreement) = inner.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY));
        if !disagreement.is_finite() {
            let message = format!("{}: the gradients around the weights are not finite", layer.name);
            return Err(Error::new(Kind::NotFinite, message));
        }
        Ok(Step { size: scale * GRID[at + 1], disagreement, noise })
    }
}

/// a . b in f64, in an order that depends on the length alone.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let (mut left, mut right) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in left.by_ref().zip(right.by_ref()) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}
