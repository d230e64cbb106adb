//! Curvature of the mean loss at the trained weights: eigenvalues with their vectors, trace and spectral density of the Hessian
//! and of the Gauss-Newton matrix, for the whole model and for the diagonal block of each layer.
//!
//! - Eigenvalues: Lanczos with full reorthogonalisation from a random vector. Both ends of the spectrum come first, so that the
//!   most negative eigenvalue is known with the largest ones. |H v - lambda v| is measured by one more product.
//! - Trace: Hutch++ (Meyer et al. 2021, arXiv:2010.09649) with the Lanczos basis Q as its sketch, as in Chen and Hallman 2022
//!   (arXiv:2205.01736): tr(Qᵀ H Q) is the sum of T's diagonal, and random signs estimate the trace of the rest.
//! - Density: stochastic Lanczos quadrature (Ubaru et al. 2017; Ghorbani et al. 2019, arXiv:1901.10159): the eigenvalues of T,
//!   each with the square of its eigenvector's first entry as weight.

mod eigen;
mod lanczos;
mod product;
mod report;
mod restore;
mod shelf;

pub use product::{GRID, Operator, Products, Step};
pub use restore::{figures, restore};
pub use shelf::Shelf;

use super::{Layer, Probe, norm};
use crate::device::room::Room;
use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::rng::{Draws, stream};
use crate::study::journal::Journal;
use crate::train::engine::TRAIN;
use lanczos::{Lanczos, combine, project_out};
use product::dot;
use serde_json::{Value, json};

/// Settings of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub operators: Vec<Operator>,
    /// The whole model, then the layers that have a block of their own.
    pub layers: Vec<Layer>,
    /// Numbers of the training images of the loss.
    pub images: Vec<u32>,
    /// Largest eigenvalues that are reported.
    pub k: usize,
    pub lanczos_steps: usize,
    /// Random starts of Lanczos that the density is the mean of; the first one gives the eigenvalues.
    pub density_samples: usize,
    /// Random vectors for the trace; none: no trace.
    pub trace_samples: usize,
    pub seed: u64,
}

/// Files of an unfinished study beside its journal: the basis of the Lanczos run that is on its way, and eigenvectors.
pub const SHELVES: [&str; 2] = ["hessian.basis", "hessian.vectors"];

impl Settings {
    /// Checks what does not depend on the model.
    ///
    /// # Errors
    /// Usage: more eigenvalues than steps of Lanczos, or no images.
    pub fn check(&self) -> Result<()> {
        if self.k > self.lanczos_steps {
            let Settings { k, lanczos_steps, .. } = self;
            return Err(Error::usage(format!("--k {k} needs --lanczos-steps of at least {k}, not {lanczos_steps}")));
        }
        if self.images.is_empty() {
            return Err(Error::usage("there are no training images to take the loss of"));
        }
        Ok(())
    }

    /// Steps of Lanczos for a layer: no more than it has parameters.
    fn steps(&self, layer: &Layer) -> usize {
        self.lanczos_steps.min(layer.len())
    }

    /// Returns the number of measurements: choices of h, steps of Lanczos, residuals, vectors for the trace, and keeping.
    pub fn measurements(&self) -> usize {
        let of = |layer: &Layer| {
            let steps = self.steps(layer);
            1 + steps * self.density_samples + self.k.min(steps) + 1 + self.trace_samples + 1
        };
        self.operators.len() * self.layers.iter().map(of).sum::<usize>()
    }

    /// Returns the bytes that the study takes beside the model, at most.
    pub fn bytes(&self) -> usize {
        let parameters = self.layers.iter().map(Layer::len).max().unwrap_or(0);
        let kept = 4 * (self.k + 1) * self.operators.len() * self.layers.iter().map(Layer::len).sum::<usize>();
        // The basis, and of each parameter the scratch of a product (weights, difference, two gradients, product, rest).
        let working = parameters * (4 * (self.lanczos_steps + self.k + 2) + 4 + 8 + 8 + 4 + 8);
        // Eigenvectors are put together for their file once more, and with all others again.
        kept + working.max(2 * kept)
    }

    /// Checks that the study fits into the memory that is left.
    ///
    /// # Errors
    /// Unavailable: what it takes, what there is, and how many steps would fit.
    pub fn check_memory(&self, room: Option<&Room>) -> Result<()> {
        let Some(room) = room.filter(|room| self.bytes() > room.bytes) else { return Ok(()) };
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        let fits = |steps: &usize| Settings { lanczos_steps: *steps, ..self.clone() }.bytes() <= room.bytes;
        let advice = match (self.k..self.lanczos_steps).rev().find(fits) {
            Some(steps) => format!("--lanczos-steps {steps} would fit"),
            None => "give a smaller --k, or --depth 0 to leave the layers out".to_owned(),
        };
        let message = format!(
            "--lanczos-steps {} and --k {}: the vectors take {:.2} GiB of memory, {:.2} GiB are free {}; {advice}",
            self.lanczos_steps,
            self.k,
            gib(self.bytes()),
            gib(room.bytes),
            room.limit
        );
        Err(Error::new(Kind::Unavailable, message))
    }

    /// Returns the settings for the study's journal.
    pub fn to_json(&self) -> Value {
        let operators: Vec<_> = self.operators.iter().map(|o| o.name()).collect();
        let layers: Vec<_> = self.layers.iter().map(|layer| &layer.name).collect();
        json!({
            "operators": operators, "layers": layers, "measured": self.images.len(), "k": self.k,
            "lanczos steps": self.lanczos_steps, "density samples": self.density_samples,
            "trace samples": self.trace_samples,
        })
    }
}

/// An eigenvalue and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub value: f64,
    /// |H v - lambda v| of its vector v, |v| = 1, by a product of its own: an eigenvalue lies that near.
    pub residual: f64,
}

/// Curvature of one matrix for one layer, or for the whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub operator: Operator,
    /// "all", or a layer.
    pub layer: String,
    pub parameters: usize,
    pub step: Step,
    /// The largest eigenvalues, descending.
    pub top: Vec<Pair>,
    /// The smallest eigenvalue: the most negative one, if any is.
    pub smallest: Pair,
    pub trace: Option<f64>,
    /// Standard error of the trace over its random vectors; None for a single one.
    pub trace_error: Option<f64>,
    /// Eigenvalues of T and their weights, which add up to 1.
    pub density: Vec<(f64, f64)>,
    /// How far the products are from those of a symmetric matrix, as a share of the largest eigenvalue by size.
    pub asymmetry: f64,
    /// Eigenvectors of `top`, then that of `smallest`; empty in a study read back.
    pub vectors: Vec<Vec<f32>>,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    pub settings: Settings,
    /// Mean loss of the images at the trained weights, and the gradient's norm.
    pub loss: f64,
    pub gradient_norm: f64,
    pub weight_norm: f64,
    /// Names of the parameters and their shapes in files, in the order of eigenvectors.
    pub tensors: Vec<(String, Vec<usize>)>,
    pub blocks: Vec<Block>,
}

/// Measures the model of `graph`, whose weights are `weights`, on the training images that `probe` has. Products are
/// measurements of `journal`, whose vectors lie on the shelves of [`SHELVES`].
///
/// # Errors
/// Usage: as for [`Settings::check`]. NotFinite: a gradient is not finite. Those of the device, journal and shelves.
pub fn run(
    probe: &mut Probe,
    graph: &Graph,
    weights: &[f32],
    settings: Settings,
    journal: &mut Journal<'_>,
    shelves: &mut [Shelf; 2],
) -> Result<Study> {
    settings.check()?;
    let slope = probe.slope(weights, TRAIN, &settings.images)?;
    let mut blocks = Vec::new();
    let mut place = 0;
    for operator in &settings.operators {
        let mut products = Products::new(probe, *operator, weights, TRAIN, &settings.images)?;
        for layer in &settings.layers {
            let measured = Measured { settings: &settings, layer, key: format!("{}/{}", operator.name(), layer.name) };
            blocks.push(measured.block(*operator, &mut products, journal, shelves, place)?);
            place += (settings.k.min(settings.steps(layer)) + 1) * layer.len();
        }
    }
    let tensors = graph.params().list().iter().map(|p| (p.name.clone(), p.file_shape())).collect();
    let (gradient_norm, weight_norm) = (norm(&slope.gradient), norm(weights));
    Ok(Study { settings, loss: slope.loss, gradient_norm, weight_norm, tensors, blocks })
}

/// Returns the smallest and the largest eigenvalue that `steps` steps of Lanczos find from a random vector, for h = `size`.
///
/// # Errors
/// NotFinite: a gradient is not finite. Those of the device.
pub fn extremes(products: &mut Products<'_>, layer: &Layer, size: f64, steps: usize, seed: u64) -> Result<[f64; 2]> {
    let mut told = |_| Ok(());
    let mut journal = Journal::in_memory(steps, &mut told);
    let start = random_direction(Draws::new(seed, stream("hessian start"), 0, stream(&layer.name)), layer.len());
    let mut multiply = |v: &[f32]| products.of(layer, v, size);
    let run = Lanczos::run(start, steps, "track", &mut multiply, &mut journal, &mut Shelf::default())?;
    let values = run.eigen().values;
    Ok([values.first(), values.last()].map(|value| value.copied().unwrap_or(f64::NAN)))
}

/// A normal vector scaled to length 1.
fn random_direction(mut draws: Draws, len: usize) -> Vec<f32> {
    let v: Vec<f64> = (0..len).map(|_| draws.normal()).collect();
    let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    v.into_iter().map(|v| (v / length) as f32).collect()
}

/// A block that is being measured.
struct Measured<'a> {
    settings: &'a Settings,
    layer: &'a Layer,
    /// What its keys in the journal begin with.
    key: String,
}

impl Measured<'_> {
    /// The draws of one random vector for `what`.
    fn draws(&self, what: &str, number: usize) -> Draws {
        Draws::new(self.settings.seed, stream(what), number as u32, stream(&self.layer.name))
    }

    /// A random direction of length 1.
    fn start(&self, number: usize) -> Vec<f32> {
        random_direction(self.draws("hessian start", number), self.layer.len())
    }

    fn lanczos(
        &self,
        number: usize,
        products: &mut Products<'_>,
        size: f64,
        journal: &mut Journal<'_>,
        shelf: &mut Shelf,
    ) -> Result<Lanczos> {
        let Measured { settings, layer, key } = self;
        let key = format!("{key}/lanczos{number}");
        let mut multiply = |v: &[f32]| products.of(layer, v, size);
        Lanczos::run(self.start(number), settings.steps(layer), &key, &mut multiply, journal, shelf)
    }

    /// Measures it; its eigenvectors lie from `place` on.
    fn block(
        &self,
        operator: Operator,
        products: &mut Products<'_>,
        journal: &mut Journal<'_>,
        [basis, vectors]: &mut [Shelf; 2],
        place: usize,
    ) -> Result<Block> {
        let Measured { settings, layer, key } = self;
        let step = journal.measure(&format!("{key}/step"), || {
            let Step { size, disagreement, noise } = products.choose(layer, settings.seed)?;
            Ok(vec![size, disagreement, noise])
        })?;
        let [size, disagreement, noise] = step[..] else { return Err(Error::internal("a step's measurements")) };
        let mut first = self.lanczos(0, products, size, journal, basis)?;
        let mut density = weights_of(&first);
        let eigen = first.eigen();
        let rows = eigen.values.len();
        // The k largest, then the smallest; their vectors are kept once all that needs the basis is done.
        let chosen: Vec<usize> = (rows - settings.k.min(rows)..rows).rev().chain([0]).collect();
        let kept = format!("{key}/kept");
        let done = journal.has(&kept);
        let found: Vec<Vec<f32>> = if done {
            vec![]
        } else {
            let basis = first.basis(basis)?;
            chosen.iter().map(|i| combine(basis, &eigen.vectors[*i])).collect()
        };
        let mut pairs = Vec::with_capacity(chosen.len());
        for (n, i) in chosen.iter().enumerate() {
            let value = eigen.values[*i];
            let residual = journal.measure(&format!("{key}/residual{n}"), || {
                let product = products.of(layer, &found[n], size)?;
                let apart = product.iter().zip(&found[n]).map(|(p, v)| (f64::from(*p) - value * f64::from(*v)).powi(2));
                Ok(vec![apart.sum::<f64>().sqrt()])
            })?;
            pairs.push(Pair { value, residual: residual.first().copied().unwrap_or(f64::NAN) });
        }
        let rest = self.rest(products, size, &mut first, journal, basis)?;
        let sums = journal.measure(&kept, || {
            let mut place = place;
            let mut put = |v: &Vec<f32>| {
                let sum = vectors.put(place, v);
                place += v.len();
                sum
            };
            found.iter().map(&mut put).collect()
        })?;
        let from_shelf = |(n, sum): (usize, &f64)| vectors.get(place + n * layer.len(), layer.len(), *sum);
        let found = if done { sums.iter().enumerate().map(from_shelf).collect::<Result<_>>()? } else { found };

        let trace: f64 = first.diagonal.iter().sum();
        let asymmetry = first.asymmetry;
        drop(first);
        for number in 1..settings.density_samples {
            density.extend(weights_of(&self.lanczos(number, products, size, journal, basis)?));
        }
        let runs = settings.density_samples as f64;
        density.iter_mut().for_each(|(_, weight)| *weight /= runs);
        let smallest = pairs.pop().ok_or_else(|| Error::internal("a block without eigenvalues"))?;
        let largest = eigen.values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        Ok(Block {
            operator,
            layer: layer.name.clone(),
            parameters: layer.len(),
            step: Step { size, disagreement, noise },
            top: pairs,
            smallest,
            trace: rest.map(|(mean, _)| trace + mean),
            trace_error: rest.and_then(|(_, error)| error),
            density,
            asymmetry: if largest > 0.0 { asymmetry / largest } else { 0.0 },
            vectors: found,
        })
    }

    /// Trace of what the basis does not span: mean over random signs and its standard error. None without samples.
    fn rest(
        &self,
        products: &mut Products<'_>,
        size: f64,
        first: &mut Lanczos,
        journal: &mut Journal<'_>,
        basis: &mut Shelf,
    ) -> Result<Option<(f64, Option<f64>)>> {
        let count = self.settings.trace_samples;
        let mut values = Vec::with_capacity(count);
        for number in 0..count {
            let value = journal.measure(&format!("{}/trace{number}", self.key), || {
                let mut draws = self.draws("hessian trace", number);
                let mut v: Vec<f32> = (0..self.layer.len()).map(|_| 1.0 - 2.0 * draws.below(2) as f32).collect();
                project_out(first.basis(basis)?, &mut v);
                // Nothing but rounding is left where the basis spans all.
                if dot(&v, &v) < 1e-9 * v.len() as f64 {
                    return Ok(vec![0.0]);
                }
                Ok(vec![dot(&v, &products.of(self.layer, &v, size)?)])
            })?;
            values.extend(value);
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        Ok((count > 0).then_some((mean, error)))
    }
}

/// Eigenvalues of T and the squares of their vectors' first entries.
fn weights_of(run: &Lanczos) -> Vec<(f64, f64)> {
    let eigen = run.eigen();
    eigen.values.iter().zip(&eigen.vectors).map(|(value, v)| (*value, v[0] * v[0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused_with_the_steps_that_would_fit() {
        let layer = |len| Layer { name: "l".into(), places: std::iter::once(0..len).collect() };
        let settings = Settings {
            operators: vec![Operator::Hessian],
            layers: vec![layer(1 << 20)],
            images: vec![0],
            k: 2,
            lanczos_steps: 100,
            density_samples: 1,
            trace_samples: 3,
            seed: 0,
        };
        let room = |bytes| Room { bytes, limit: "by a test".into() };
        // 12 MiB of eigenvectors, 416 of basis and products, 32 of other vectors.
        assert_eq!(settings.bytes(), (12 + 416 + 32) << 20);
        assert_eq!(settings.check_memory(Some(&room(settings.bytes()))), Ok(()));
        assert_eq!(settings.check_memory(None), Ok(()));
        let error = settings.check_memory(Some(&room(100 << 20))).unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        let says = "0.10 GiB are free by a test; --lanczos-steps 10 would fit";
        assert!(error.to_string().ends_with(says), "{error}");
        let error = settings.check_memory(Some(&room(1 << 20))).unwrap_err().to_string();
        assert!(error.ends_with("give a smaller --k, or --depth 0 to leave the layers out"), "{error}");
        assert_eq!(settings.measurements(), 1 + 100 + 3 + 3 + 1);
        let error = Settings { k: 101, ..settings }.check().unwrap_err().to_string();
        assert_eq!(error, "--k 101 needs --lanczos-steps of at least 101, not 100");
    }
}
