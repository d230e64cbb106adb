//! Curvature against a dense matrix from the specs in f64, on a net without ReLU and max pool.

use crate::common::{Folder, idx};
use samcore::data;
use samcore::device::cpu::CpuDevice;
use samcore::graph::{Graph, ImageSource};
use samcore::interp::{self, Inputs, mean_loss};
use samcore::nn;
use samcore::ops::Op;
use samcore::ops::call::Augment;
use samcore::rng::Draws;
use samcore::study::hessian::{Operator, Products};
use samcore::study::{Layer, Probe};
use samcore::train::checkpoint::{Remembered, Vectors};
use samcore::train::engine::{self, TRAIN};
use std::fs;

const IMAGES: usize = 20;
const SIDE: usize = 5;
const CLASSES: usize = 3;

/// conv - batch-norm - conv - average pool - linear, which is smooth in its weights, with random images.
struct Smooth {
    graph: Graph,
    vectors: Vectors,
    pixels: Vec<u8>,
    labels: Vec<u8>,
    data: data::DataSet,
    _folder: Folder,
}

impl Smooth {
    fn new(name: &str) -> Smooth {
        let mut draws = Draws::new(5, 0, 0, 0);
        let pixels: Vec<u8> = (0..IMAGES * SIDE * SIDE).map(|_| draws.below(256) as u8).collect();
        let labels: Vec<u8> = (0..IMAGES).map(|i| (i % CLASSES) as u8).collect();
        let folder = Folder::new(name);
        for split in ["train", "t10k"] {
            let dims = [IMAGES as u32, SIDE as u32, SIDE as u32];
            fs::write(folder.path(&format!("{split}-images-idx3-ubyte")), idx(&dims, &pixels)).unwrap();
            fs::write(folder.path(&format!("{split}-labels-idx1-ubyte")), idx(&dims[..1], &labels)).unwrap();
        }
        let data = data::load(folder.0.to_str().unwrap()).unwrap();

        let mut graph = Graph::new();
        let (mean, std, augment) = ([0.4; 4], [0.3; 4], Augment::default());
        let batch = graph.images(ImageSource { h: SIDE, w: SIDE, c: 1, classes: CLASSES, mean, std, augment });
        let h = nn::conv(&mut graph, batch.images, "conv1", 2, 3, 1, 0).unwrap();
        let h = nn::batch_norm(&mut graph, h, "bn").unwrap();
        let h = nn::conv(&mut graph, h, "conv2", 3, 2, 1, 0).unwrap();
        let h = nn::global_avg_pool(&mut graph, h, "pool").unwrap();
        let h = nn::linear(&mut graph, h, "fc", CLASSES).unwrap();
        nn::cross_entropy(&mut graph, h, batch.targets, batch.weights, 0.0).unwrap();
        let mut vectors = engine::initial(&graph, 3, Remembered::default());
        // Away from what initialisation makes alike.
        vectors.weights.iter_mut().filter(|w| **w != 0.0).for_each(|w| *w *= 1.0 + 0.3 * draws.normal() as f32);
        let s = &graph.statistics()[0];
        let running = &mut vectors.running[s.offset..];
        running[s.channels..3 * s.channels].copy_from_slice(&[0.1, -0.2, 0.5, 1.7]);
        Smooth { graph, vectors, pixels, labels, data, _folder: folder }
    }

    /// Probe for batches of up to `rows` images.
    fn probe(&self, rows: usize, threads: usize) -> Probe {
        let device = Box::new(CpuDevice::new(threads).unwrap());
        let mut probe = Probe::with_targets(&self.graph, device, &[rows], &self.vectors, 0).unwrap();
        probe.set_dataset(TRAIN, &self.data.train).unwrap();
        probe
    }

    /// The trained weights in f64, those of all parameters one behind the other.
    fn weights(&self) -> Vec<f64> {
        Layer::whole(&self.graph).indices().map(|i| f64::from(self.vectors.weights[i])).collect()
    }

    fn inputs(&self, weights: &[f64]) -> Inputs {
        let mut rest = weights;
        let mut take = |len: usize| {
            let (own, behind) = rest.split_at(len);
            rest = behind;
            own.to_vec()
        };
        let params = self.graph.params().list().iter().map(|p| take(p.len())).collect();
        let images =
            self.pixels.iter().map(|p| (f64::from(*p) / 255.0 - f64::from(0.4f32)) / f64::from(0.3f32)).collect();
        let targets = self.labels.iter().flat_map(|l| (0..CLASSES).map(|k| f64::from(u8::from(k == usize::from(*l)))));
        let s = &self.graph.statistics()[0];
        let running = self.vectors.running[s.offset..][..3 * s.channels].iter().map(|v| f64::from(*v)).collect();
        Inputs {
            rows: IMAGES,
            params,
            batch: Some((images, targets.collect(), vec![1.0; IMAGES])),
            running: Some(vec![running]),
            ..Inputs::default()
        }
    }

    /// Gradient by the parameters of `sum(seed * value of root)`; of the mean loss without a seed.
    fn gradient(&self, weights: &[f64], seed: Option<(samcore::graph::Var, Vec<f64>)>) -> Vec<f64> {
        let inputs = self.inputs(weights);
        let values = interp::forward(&self.graph, &inputs);
        let (root, seed) = seed.unwrap_or_else(|| {
            let (root, _, seed) = mean_loss(&self.graph, &values).unwrap();
            (root, seed)
        });
        let gradients = interp::backward(&self.graph, &inputs, &values, root, &seed);
        let params = self.graph.vars().filter(|v| matches!(self.graph.node(*v).op, Op::Param(_)));
        params.flat_map(|v| gradients.of(v).to_vec()).collect()
    }

    /// The dense matrix, row by row.
    fn dense(&self, operator: Operator) -> Vec<Vec<f64>> {
        let w = self.weights();
        match operator {
            Operator::Hessian => {
                let column = |j: usize| {
                    let at = |h: f64| {
                        let mut w = w.clone();
                        w[j] += h;
                        self.gradient(&w, None)
                    };
                    at(1e-5).iter().zip(at(-1e-5)).map(|(a, b)| (a - b) / 2e-5).collect()
                };
                (0..w.len()).map(column).collect()
            }
            Operator::GaussNewton => {
                let loss = self.graph.loss().unwrap();
                let logits = self.graph.node(loss).inputs[0];
                let values = interp::forward(&self.graph, &self.inputs(&w));
                let z = values.of(logits);
                let mut sum = vec![vec![0.0; w.len()]; w.len()];
                for row in 0..IMAGES {
                    let power: Vec<f64> = z[row * CLASSES..][..CLASSES].iter().map(|z| z.exp()).collect();
                    let p: Vec<f64> = power.iter().map(|x| x / power.iter().sum::<f64>()).collect();
                    let jacobian: Vec<Vec<f64>> = (0..CLASSES)
                        .map(|k| {
                            let mut seed = vec![0.0; IMAGES * CLASSES];
                            seed[row * CLASSES + k] = 1.0;
                            self.gradient(&w, Some((logits, seed)))
                        })
                        .collect();
                    for a in 0..CLASSES {
                        for b in 0..CLASSES {
                            let s = p[a] * (f64::from(u8::from(a == b)) - p[b]) / IMAGES as f64;
                            for (i, sum) in sum.iter_mut().enumerate() {
                                sum.iter_mut().zip(&jacobian[b]).for_each(|(x, y)| *x += s * jacobian[a][i] * y);
                            }
                        }
                    }
                }
                sum
            }
        }
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn products_are_those_of_the_dense_matrix_in_f64() {
    let net = Smooth::new("study-products");
    let whole = Layer::whole(&net.graph);
    let n = whole.len();
    let images: Vec<u32> = (0..IMAGES as u32).collect();
    for operator in Operator::ALL {
        let dense = net.dense(operator);
        let largest = dense.iter().map(|row| norm(row)).fold(0.0, f64::max);
        // Batches of 8: three of them, the last one padded.
        for rows in [IMAGES, 8] {
            let mut probe = net.probe(rows, 1);
            let mut products = Products::new(&mut probe, operator, &net.vectors.weights, TRAIN, &images).unwrap();
            let step = products.choose(&whole, 1).unwrap();
            assert!(step.disagreement < 2e-3 && step.size > 0.0 && step.noise > 0.0, "{operator:?} {step:?}");
            let columns: Vec<Vec<f32>> = (0..n)
                .map(|j| {
                    let mut unit = vec![0.0; n];
                    unit[j] = 1.0;
                    products.of(&whole, &unit, step.size).unwrap()
                })
                .collect();
            for (j, column) in columns.iter().enumerate() {
                let apart: Vec<f64> = column.iter().zip(&dense[j]).map(|(a, b)| f64::from(*a) - b).collect();
                assert!(norm(&apart) < 2e-3 * largest, "{operator:?} column {j}: {} of {largest}", norm(&apart));
            }
            let skew = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
            let skew = skew.map(|(i, j)| f64::from((columns[i][j] - columns[j][i]).abs())).fold(0.0, f64::max);
            assert!(skew < 2e-3 * largest, "{operator:?}: the matrix is its transpose but for {skew}");

            // A layer's block is cut out of the same matrix, and lengths carry over.
            let layer = &Layer::all(&net.graph, 1)[2];
            let first = Layer::all(&net.graph, 1)[..2].iter().map(Layer::len).sum::<usize>();
            let v: Vec<f32> = (0..layer.len()).map(|i| (i as f32 - 3.0) * 10.0).collect();
            let product = products.of(layer, &v, step.size).unwrap();
            for (i, x) in product.iter().enumerate() {
                let row = &dense[first + i][first..][..layer.len()];
                let expected: f64 = row.iter().zip(&v).map(|(a, b)| a * f64::from(*b)).sum();
                assert!(
                    (f64::from(*x) - expected).abs()
                        < 2e-3 * largest * norm(&v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()),
                    "{x} {expected}"
                );
            }
            assert!(products.of(&whole, &vec![0.0; n], step.size).unwrap().iter().all(|x| *x == 0.0));
        }
    }
}
