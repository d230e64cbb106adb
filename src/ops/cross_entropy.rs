//! Softmax cross-entropy of logits `[classes]` with target rows `[classes]`; one loss a sample.
//!
//! loss = - sum_k t_k log softmax(z)_k with t smoothed to (1 - s) t + s / classes (Szegedy et al. 2016). As the root of a
//! pass it is averaged over the rows' weights; its gradient is then weight / sum(weights) * (softmax(z) sum(t) - t).
//!
//! In training the smoothed target may be mixed with the model's own prediction, see [`Bootstrap`]. Evaluation neither
//! smooths nor mixes: validation and test losses are plain cross-entropy whatever a model is trained with.

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

/// Share of the model's own prediction in a target (Reed et al., "Training deep neural networks on noisy labels with
/// bootstrapping", 2015): the loss is - sum_k (beta t_k + (1 - beta) p_k) log q_k with q = softmax(z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bootstrap {
    /// None: plain cross-entropy, which evaluation always uses.
    #[default]
    None,
    /// p = q, through which the gradient goes too: (1 - beta) times the entropy of q is part of what is minimised.
    Soft { beta_bits: u32 },
    /// p = one-hot of the first largest logit, a constant to the gradient.
    Hard { beta_bits: u32 },
}

impl Bootstrap {
    /// The share of the given target, in bits as calls have it, so that they can be compared.
    pub fn soft(beta: f32) -> Bootstrap {
        Bootstrap::Soft { beta_bits: beta.to_bits() }
    }
    pub fn hard(beta: f32) -> Bootstrap {
        Bootstrap::Hard { beta_bits: beta.to_bits() }
    }
    /// The share of the given target; 1 where nothing is mixed.
    pub fn beta(self) -> f32 {
        match self {
            Bootstrap::None => 1.0,
            Bootstrap::Soft { beta_bits } | Bootstrap::Hard { beta_bits } => f32::from_bits(beta_bits),
        }
    }
    /// Returns the number that kernels take: 0 none, 1 soft, 2 hard.
    pub fn code(self) -> usize {
        match self {
            Bootstrap::None => 0,
            Bootstrap::Soft { .. } => 1,
            Bootstrap::Hard { .. } => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// In training alone, as is `bootstrap`.
    pub smoothing: f32,
    pub bootstrap: Bootstrap,
}

impl CrossEntropy {
    /// Smoothed targets of a row, beta of them and 1 - beta of the one-hot prediction where the mode is hard; times beta
    /// alone where it is soft.
    fn targets(&self, z: &[f64], t: &[f64]) -> Vec<f64> {
        let CrossEntropy { smoothing, bootstrap } = *self;
        let (s, beta) = (f64::from(smoothing), f64::from(bootstrap.beta()));
        let mut targets: Vec<f64> = t.iter().map(|t| beta * ((1.0 - s) * t + s / z.len() as f64)).collect();
        if let Bootstrap::Hard { .. } = bootstrap {
            let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if let Some(first) = z.iter().position(|z| *z == largest) {
                targets[first] += 1.0 - beta;
            }
        }
        targets
    }

    /// Returns the loss of a pass: as given in training, plain cross-entropy in evaluation.
    fn of_pass(self, train: bool) -> CrossEntropy {
        if train { self } else { CrossEntropy { smoothing: 0.0, bootstrap: Bootstrap::None } }
    }
}

/// Weight of the entropy of softmax(z) in the loss.
fn entropy_weight(bootstrap: Bootstrap) -> f64 {
    if let Bootstrap::Soft { .. } = bootstrap { 1.0 - f64::from(bootstrap.beta()) } else { 0.0 }
}

/// - sum q log q of q = softmax(z).
fn entropy(z: &[f64]) -> f64 {
    let lse = log_sum_exp(z);
    z.iter().map(|z| (z - lse).exp() * (lse - z)).sum()
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
}

impl Operation for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [logits, targets, weights] = exactly::<3>("cross_entropy", inputs)?;
        if logits.0.len() != 1 || logits != targets || weights.len() != 1 {
            return Err(Error::usage(format!(
                "cross_entropy of logits {logits}, targets {targets}, weights {weights}: logits and targets must be rows \
                 of one length, weights one value a row"
            )));
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(Error::usage(format!("cross_entropy: smoothing {} must be in [0, 1)", self.smoothing)));
        }
        let beta = self.bootstrap.beta();
        if !(0.0..=1.0).contains(&beta) {
            return Err(Error::usage(format!("cross_entropy: beta {beta} must be in [0, 1]")));
        }
        Ok(Shape(vec![1]))
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, classes) = (site.rows(), site.input_shape(0).len());
        let CrossEntropy { smoothing, bootstrap } = self.of_pass(site.train());
        let smoothing_bits = smoothing.to_bits();
        let kernel = Kernel::CrossEntropy { n, classes, smoothing_bits, bootstrap };
        let (losses, hits) = (site.output(), site.temp(n));
        site.emit("forward", kernel, vec![site.input(0), site.input(1)], vec![losses, hits]);
        let outcome = site.outcome();
        site.emit("mean", Kernel::MeanLoss { n }, vec![losses, hits, site.input(2)], vec![outcome]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, classes) = (site.rows(), site.input_shape(0).len());
        let CrossEntropy { smoothing, bootstrap } = self.of_pass(site.train());
        let smoothing_bits = smoothing.to_bits();
        let kernel = Kernel::CrossEntropyBackward { n, classes, smoothing_bits, bootstrap };
        if let Some(dz) = site.grad_input_written(0) {
            let mut reads = vec![site.input(0), site.input(1), site.input(2)];
            reads.extend(site.loss_scale());
            site.emit("backward", kernel, reads, vec![dz]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let (k, loss) = (at.shapes[0].len(), self.of_pass(at.train));
        let rows = at.inputs[0].chunks(k).zip(at.inputs[1].chunks(k));
        rows.map(|(z, t)| {
            let (lse, t) = (log_sum_exp(z), loss.targets(z, t));
            let given: f64 = z.iter().zip(t).map(|(z, t)| t * (lse - z)).sum();
            given + entropy_weight(loss.bootstrap) * entropy(z)
        })
        .collect()
    }

    /// The gradient of `sum(dy * losses)`; with dy = weights / sum(weights) this is what the device computes.
    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let (k, loss) = (at.shapes[0].len(), self.of_pass(at.train));
        let rows = at.inputs[0].chunks(k).zip(at.inputs[1].chunks(k)).zip(dy);
        let gradient = rows.flat_map(|((z, t), d)| {
            let (lse, t) = (log_sum_exp(z), loss.targets(z, t));
            let (mass, share, entropy): (f64, _, _) = (t.iter().sum(), entropy_weight(loss.bootstrap), entropy(z));
            let by = |(z, t): (&f64, f64)| {
                let q = (z - lse).exp();
                d * (q * mass - t - share * q * (z - lse + entropy))
            };
            z.iter().zip(t).map(by).collect::<Vec<f64>>()
        });
        vec![Some(gradient.collect()), None, None]
    }
}

pub(super) fn cases() -> Vec<Case> {
    use Values::{LargeLogits, Logits, OneHot, Simplex};
    let (soft, hard) = (Bootstrap::soft(0.8), Bootstrap::hard(0.7));
    cases_of(&[
        (8, 10, 0.0, Bootstrap::None, Logits, OneHot),
        (5, 10, 0.1, Bootstrap::None, Logits, OneHot),
        (7, 100, 0.1, Bootstrap::None, Logits, Simplex),
        (4, 10, 0.0, Bootstrap::None, LargeLogits, OneHot),
        (1, 2, 0.0, Bootstrap::None, Logits, OneHot),
        (3, 17, 0.2, Bootstrap::None, Values::Zero, OneHot),
        (8, 10, 0.0, soft, Logits, OneHot),
        (5, 33, 0.1, soft, Logits, Simplex),
        (4, 10, 0.0, soft, LargeLogits, OneHot),
        (8, 10, 0.0, hard, Logits, OneHot),
        (5, 33, 0.1, hard, Logits, Simplex),
        (4, 10, 0.0, hard, LargeLogits, OneHot),
    ])
}

pub(super) fn bench() -> Vec<Case> {
    let of = |classes| (128, classes, 0.1, Bootstrap::None, Values::Logits, Values::OneHot);
    cases_of(&[of(10), of(100)])
}

fn cases_of(list: &[(usize, usize, f32, Bootstrap, Values, Values)]) -> Vec<Case> {
    let case = |&(rows, k, smoothing, bootstrap, logits, targets): &(usize, usize, f32, Bootstrap, Values, Values)| {
        let mixed = match bootstrap {
            Bootstrap::None => String::new(),
            Bootstrap::Soft { .. } => format!(", soft {}", bootstrap.beta()),
            Bootstrap::Hard { .. } => format!(", hard {}", bootstrap.beta()),
        };
        Case::graph(format!("{rows} x {k}, smoothing {smoothing}{mixed}, {logits:?}, {targets:?}"), rows)
            .feed(&[k], logits)
            .feed(&[k], targets)
            .feed(&[1], Values::RowWeights)
            .first_feed_only()
            .op(
                Op::CrossEntropy(CrossEntropy { smoothing, bootstrap }),
                &[Operand::Feed(0), Operand::Feed(1), Operand::Feed(2)],
            )
    };
    list.iter().map(case).collect()
}
