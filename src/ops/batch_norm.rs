//! Batch normalisation (Ioffe & Szegedy 2015) over rows and pixels: y = weight (x - mean) / sqrt(var + eps) + bias.
//!
//! Two calls forward: `stats` writes (count, mean, M2) per channel, `apply` reads them. The variance that normalises is
//! biased (M2 / count); the one that is folded into the running statistics is not (M2 / (count - 1)), as in PyTorch.

use super::call::{Kernel, NormShape};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::{ParamKind, Shape};
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    pub channels: usize,
    pub eps: f32,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f32,
    /// Number among the graph's statistics; the graph fills it in.
    pub(crate) index: usize,
}

impl BatchNorm {
    /// PyTorch's constants: eps 1e-5, momentum 0.1.
    pub fn new(channels: usize) -> BatchNorm {
        BatchNorm { channels, eps: 1e-5, momentum: 0.1, index: 0 }
    }

    fn shape(&self, site: &dyn Site) -> NormShape {
        let (h, w) = site.input_shape(0).plane();
        let (relu, window) = site.norm_tail();
        NormShape {
            n: site.rows(),
            h,
            w,
            c: self.channels,
            eps_bits: self.eps.to_bits(),
            running: site.running(),
            relu,
            window,
        }
    }
}

/// Mean and 1 / sqrt(var + eps) of each channel.
fn moments(at: &SpecAt<'_>, eps: f64) -> Vec<(f64, f64)> {
    let c = at.inputs[1].len();
    (0..c)
        .map(|j| {
            let (mean, variance) = match at.running {
                Some(r) => (r[c + j], r[2 * c + j]),
                None => {
                    let values = || at.inputs[0].iter().skip(j).step_by(c);
                    let count = values().count() as f64;
                    let mean = values().sum::<f64>() / count;
                    (mean, values().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
                }
            };
            (mean, 1.0 / (variance + eps).sqrt())
        })
        .collect()
}

impl Operation for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x, weight, bias] = exactly::<3>("batch_norm", inputs)?;
        let c = x.0.last().copied().unwrap_or(0);
        if weight.0 != [c] || bias.0 != [c] || self.channels != c {
            return Err(Error::usage(format!(
                "batch_norm over {} channels: x {x}, weight {weight} and bias {bias} must agree in channels",
                self.channels
            )));
        }
        Ok(x.clone())
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = self.shape(site);
        let (n, pixels, c) = (s.n, s.h * s.w, s.c);
        let statistics = site.statistics(self.index, 3 * c);
        if !s.running {
            match site.partials_of_input(0) {
                Some((partials, groups)) => {
                    site.emit("merge", Kernel::MergeStats { groups, c }, vec![partials], vec![statistics])
                }
                None => site.emit("stats", Kernel::BatchStats { n, pixels, c }, vec![site.input(0)], vec![statistics]),
            }
        }
        let reads = vec![site.input(0), statistics, site.input(1), site.input(2)];
        let writes = vec![site.output()];
        site.emit("apply", Kernel::NormApply(s), reads, writes);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = self.shape(site);
        let statistics = site.statistics(self.index, 3 * shape.c);
        let reads = vec![site.input(0), statistics, site.input(1), site.input(2), site.grad_output()];
        // The sums are needed for dx as well, so they are computed even where the parameters are frozen.
        let dweight = site.grad_input_written(1).unwrap_or_else(|| site.temp(shape.c));
        let dbias = site.grad_input_written(2).unwrap_or_else(|| site.temp(shape.c));
        match site.norm_sums() {
            Some((sums, groups)) => {
                let kernel = Kernel::MergeSums { groups, c: shape.c };
                site.emit("merge_sums", kernel, vec![sums], vec![dweight, dbias]);
            }
            None => site.emit("backward_sums", Kernel::NormBackwardSums(shape), reads.clone(), vec![dweight, dbias]),
        }
        if let Some((dx, add)) = site.grad_input(0) {
            let reads = [reads, vec![dweight, dbias]].concat();
            site.emit("backward_data", Kernel::NormBackwardData { shape, add }, reads, vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let moments = moments(at, f64::from(self.eps));
        let c = moments.len();
        let normalise = |(i, x): (usize, &f64)| {
            let (mean, scale) = moments[i % c];
            at.inputs[1][i % c] * (x - mean) * scale + at.inputs[2][i % c]
        };
        at.inputs[0].iter().enumerate().map(normalise).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let (x, weight) = (at.inputs[0], at.inputs[1]);
        let moments = moments(at, f64::from(self.eps));
        let c = weight.len();
        let count = (x.len() / c) as f64;
        let (mut dweight, mut dbias) = (vec![0.0; c], vec![0.0; c]);
        for (i, d) in dy.iter().enumerate() {
            let (mean, scale) = moments[i % c];
            dweight[i % c] += d * (x[i] - mean) * scale;
            dbias[i % c] += d;
        }
        let dx = |(i, d): (usize, &f64)| {
            let (j, (mean, scale)) = (i % c, moments[i % c]);
            let through_moments = match at.running {
                Some(_) => 0.0,
                None => (dbias[j] + (x[i] - mean) * scale * dweight[j]) / count,
            };
            weight[j] * scale * (d - through_moments)
        };
        let dx = dy.iter().enumerate().map(dx).collect();
        vec![Some(dx), Some(dweight), Some(dbias)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    const SHAPES: &[(usize, &[usize])] =
        &[(2, &[28, 28, 32]), (3, &[14, 14, 64]), (2, &[7, 9, 5]), (4, &[5, 3, 33]), (16, &[20]), (2, &[2, 4, 1])];
    let kinds = [(Values::Normal, false), (Values::Shifted, false), (Values::Normal, true)];
    SHAPES.iter().flat_map(|&(rows, shape)| kinds.map(|(values, running)| case(rows, shape, values, running))).collect()
}

pub(super) fn bench() -> Vec<Case> {
    const SHAPES: &[(usize, [usize; 3])] =
        &[(128, [28, 28, 32]), (128, [14, 14, 64]), (32, [32, 32, 64]), (32, [16, 16, 128]), (32, [8, 8, 256])];
    SHAPES.iter().map(|(rows, shape)| case(*rows, shape, Values::Normal, false)).collect()
}

fn case(rows: usize, shape: &[usize], values: Values, running: bool) -> Case {
    let label = format!(
        "{rows} x {shape:?}, {} statistics{}",
        if running { "running" } else { "batch" },
        if values == Values::Shifted { ", mean 30" } else { "" }
    );
    let c = shape[shape.len() - 1];
    let case = Case::graph(label, rows)
        .feed(shape, values)
        .param(&[c], ParamKind::NormWeight)
        .param(&[c], ParamKind::NormBias)
        .op(Op::BatchNorm(BatchNorm::new(c)), &[Operand::Feed(0), Operand::Param(0), Operand::Param(1)]);
    Case { running, ..case }
}
