//! Runs a graph by the specs of its operations, in f64: slow, plain, and what everything else is compared with.

use crate::graph::{Graph, Var};
use crate::ops::call::Counters;
use crate::ops::{Branch, Op, SpecAt, Tap};
use std::collections::HashMap;

/// Parameters, feeds and perturbations at which a graph is evaluated.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub rows: usize,
    /// One vector for each parameter, in the graph's order.
    pub params: Vec<Vec<f64>>,
    /// One vector for each feed, `[rows, len]`.
    pub feeds: Vec<Vec<f64>>,
    /// Images, target rows and row weights, where the graph has an image source.
    pub batch: Option<(Vec<f64>, Vec<f64>, Vec<f64>)>,
    /// Running statistics `[3, c]` of each batch-norm; None to use the batch's own.
    pub running: Option<Vec<Vec<f64>>>,
    /// Perturbation of each tap, `[rows, len]`; empty for none.
    pub taps: Vec<Vec<f64>>,
    /// Dropout is on.
    pub train: bool,
    pub counters: Counters,
    /// Decisions of ReLUs and max pools that are taken as given.
    pub branches: HashMap<Var, Branch>,
}

/// The value of every node, `[rows, len]`.
pub struct Values(Vec<Vec<f64>>);

impl Values {
    pub fn of(&self, v: Var) -> &[f64] {
        &self.0[v.0 as usize]
    }
}

/// Gradients of a scalar.
pub struct Gradients {
    /// Gradients of every node's value; empty where nothing depends on it.
    pub values: Vec<Vec<f64>>,
    /// Gradients of every tap's perturbation.
    pub taps: Vec<Vec<f64>>,
}

impl Gradients {
    pub fn of(&self, v: Var) -> &[f64] {
        &self.values[v.0 as usize]
    }
}

fn at<'a>(graph: &'a Graph, inputs: &'a Inputs, values: &'a [Vec<f64>], v: Var) -> SpecAt<'a> {
    let node = graph.node(v);
    SpecAt {
        rows: inputs.rows,
        inputs: node.inputs.iter().map(|i| &values[i.0 as usize][..]).collect(),
        shapes: node.inputs.iter().map(|i| graph.shape(*i)).collect(),
        output_shape: &node.shape,
        train: inputs.train,
        running: match (&node.op, &inputs.running) {
            (Op::BatchNorm(norm), Some(running)) => Some(&running[norm.index]),
            _ => None,
        },
        delta: match node.op {
            Op::Tap(tap) => inputs.taps.get(tap.index).map(|d| &d[..]),
            _ => None,
        },
        branch: inputs.branches.get(&v),
        counters: inputs.counters,
    }
}

/// Evaluates all nodes.
pub fn forward(graph: &Graph, inputs: &Inputs) -> Values {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for v in graph.vars() {
        let op = &graph.node(v).op;
        let batch = || inputs.batch.clone().unwrap_or_default();
        let value = match (op, op.operation()) {
            (_, Some(operation)) => operation.spec(&at(graph, inputs, &values, v)),
            (Op::Param(p), _) => inputs.params[*p].clone(),
            (Op::Feed(i), _) => inputs.feeds[*i].clone(),
            (Op::Images, _) => batch().0,
            (Op::Targets, _) => batch().1,
            _ => batch().2,
        };
        values.push(value);
    }
    Values(values)
}

/// Gradients of `sum(seed * value of root)`.
pub fn backward(graph: &Graph, inputs: &Inputs, values: &Values, root: Var, seed: &[f64]) -> Gradients {
    let mut gradients = vec![Vec::new(); values.0.len()];
    let mut taps = vec![Vec::new(); graph.taps().len()];
    gradients[root.0 as usize] = seed.to_vec();
    for v in graph.vars().rev().filter(|v| v.0 <= root.0) {
        let node = graph.node(v);
        let (Some(operation), false) = (node.op.operation(), gradients[v.0 as usize].is_empty()) else { continue };
        let dy = gradients[v.0 as usize].clone();
        let at = at(graph, inputs, &values.0, v);
        if let Op::Tap(tap) = node.op {
            taps[tap.index] = Tap::spec_delta(&at, &dy);
        }
        let contributions = operation.spec_backward(&at, values.of(v), &dy);
        for (input, contribution) in node.inputs.iter().zip(contributions) {
            let (Some(contribution), sum) = (contribution, &mut gradients[input.0 as usize]) else { continue };
            if sum.is_empty() {
                *sum = contribution;
            } else {
                sum.iter_mut().zip(contribution).for_each(|(s, c)| *s += c);
            }
        }
    }
    Gradients { values: gradients, taps }
}

/// The weighted mean of the graph's per-sample losses, and the seed that makes `backward` differentiate it.
pub fn mean_loss(graph: &Graph, values: &Values) -> Option<(Var, f64, Vec<f64>)> {
    let root = graph.loss()?;
    let weights = values.of(*graph.node(root).inputs.get(2)?);
    let total: f64 = weights.iter().sum();
    let seed: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let loss = values.of(root).iter().zip(&seed).map(|(l, w)| l * w).sum();
    Some((root, loss, seed))
}

/// Batch statistics `[3, c]` of batch-norm node `v`: count, mean and M2 of each channel.
pub fn batch_statistics(graph: &Graph, values: &Values, v: Var) -> Vec<f64> {
    let node = graph.node(v);
    let (x, c) = (values.of(node.inputs[0]), graph.shape(node.inputs[1]).len());
    let mut statistics = vec![0.0; 3 * c];
    for j in 0..c {
        let channel = || x.iter().skip(j).step_by(c);
        let count = channel().count() as f64;
        let mean = channel().sum::<f64>() / count;
        statistics[j] = count;
        statistics[c + j] = mean;
        statistics[2 * c + j] = channel().map(|v| (v - mean).powi(2)).sum();
    }
    statistics
}
