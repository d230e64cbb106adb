//! Curvature against a dense matrix from the specs in f64, on a net without ReLU and max pool.

use crate::common::{Folder, idx, names_in, samcore, start, wait_until};
use crate::trained;
use samcore::data;
use samcore::device::cpu::CpuDevice;
use samcore::error::{Error, Kind};
use samcore::graph::{Graph, ImageSource};
use samcore::interp::{self, Inputs, mean_loss};
use samcore::nn;
use samcore::ops::Op;
use samcore::ops::call::Augment;
use samcore::rng::Draws;
use samcore::rng::stream;
use samcore::study::hessian::{self, Block, Operator, Products, SHELVES, Settings, Shelf, Study};
use samcore::study::journal::{Journal, Progress};
use samcore::study::{Layer, Probe};
use samcore::train::checkpoint::{Remembered, Vectors};
use samcore::train::engine::{self, TRAIN};
use serde_json::json;
use std::fs;
use std::path::Path;

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

fn times(matrix: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}

/// The largest eigenvalue of `sign` times a symmetric matrix, by power iteration on one that is shifted to be positive.
fn largest(matrix: &[Vec<f64>], sign: f64) -> f64 {
    let shift = matrix.iter().map(|row| norm(row)).fold(0.0, f64::max) * 2.0;
    let mut v: Vec<f64> = (0..matrix.len()).map(|i| 1.0 + (i as f64).sin()).collect();
    let mut value = 0.0;
    for _ in 0..20_000 {
        let next: Vec<f64> = times(matrix, &v).iter().zip(&v).map(|(h, v)| sign * h + shift * v).collect();
        value = norm(&next);
        v = next.iter().map(|x| x / value).collect();
    }
    value - shift
}

impl Smooth {
    fn settings(&self) -> Settings {
        Settings {
            operators: Operator::ALL.to_vec(),
            layers: [Layer::whole(&self.graph)].into_iter().chain(Layer::all(&self.graph, 1)).collect(),
            images: (0..IMAGES as u32).collect(),
            k: 3,
            lanczos_steps: 45,
            density_samples: 1,
            trace_samples: 12,
            seed: 4,
        }
    }

    fn study(&self, settings: Settings, threads: usize) -> Study {
        let mut told = |_: Progress| Ok(());
        let mut journal = Journal::in_memory(settings.measurements(), &mut told);
        let mut shelves = [Shelf::default(), Shelf::default()];
        let (mut probe, weights) = (self.probe(8, threads), &self.vectors.weights);
        hessian::run(&mut probe, &self.graph, weights, settings, &mut journal, &mut shelves).unwrap()
    }
}

#[test]
fn eigenvalues_trace_and_density_are_those_of_the_dense_matrix() {
    let net = Smooth::new("study-hessian-dense");
    let n = Layer::whole(&net.graph).len();
    let study = net.study(net.settings(), 1);
    assert_eq!(study.blocks.len(), 2 * (1 + 4));
    for operator in Operator::ALL {
        let dense = net.dense(operator);
        let blocks: Vec<&Block> = study.blocks.iter().filter(|b| b.operator == operator).collect();
        let whole = blocks[0];
        assert_eq!((whole.layer.as_str(), whole.parameters), ("all", n));
        let (top, low) = (largest(&dense, 1.0), -largest(&dense, -1.0));
        let near = |found: f64, known: f64, of: f64| (found - known).abs() < 0.01 * of;
        assert!(near(whole.top[0].value, top, top), "{operator:?} top {} {top}", whole.top[0].value);
        assert!(near(whole.smallest.value, low, top), "{operator:?} smallest {} {low}", whole.smallest.value);
        if operator == Operator::Hessian {
            assert!(low < -0.01 * top, "the test needs a direction that goes down");
        }
        let trace: f64 = (0..n).map(|i| dense[i][i]).sum();
        let (found, error) = (whole.trace.unwrap(), whole.trace_error.unwrap());
        assert!(near(found, trace, trace), "{operator:?} trace {found} ± {error}, dense {trace}");

        // A vector's residual by the dense matrix; the reported one has the noise of products beside it.
        for (pair, v) in whole.top.iter().chain([&whole.smallest]).zip(&whole.vectors) {
            let v: Vec<f64> = v.iter().map(|v| f64::from(*v)).collect();
            let apart: Vec<f64> = times(&dense, &v).iter().zip(&v).map(|(h, v)| h - pair.value * v).collect();
            assert!((norm(&v) - 1.0).abs() < 1e-5);
            assert!((norm(&apart) - pair.residual).abs() < 3e-3 * top, "{} {}", norm(&apart), pair.residual);
        }
        assert!(whole.top[0].residual < 0.01 * top && whole.asymmetry < 0.01, "{:?}", whole.top[0]);

        // Moments of the density are v . H^p v of the vector that the run began with.
        let mut draws = Draws::new(4, stream("hessian start"), 0, stream("all"));
        let v: Vec<f64> = (0..n).map(|_| draws.normal()).collect();
        let v: Vec<f64> = v.iter().map(|x| x / norm(&v)).collect();
        let mut power = v.clone();
        for p in 0..5 {
            let known: f64 = power.iter().zip(&v).map(|(a, b)| a * b).sum();
            let found: f64 = whole.density.iter().map(|(x, weight)| weight * x.powi(p)).sum();
            assert!((found - known).abs() < 0.01 * known.abs(), "{operator:?} moment {p}: {found} {known}");
            power = times(&dense, &power);
        }

        let mut from = 0;
        for block in &blocks[1..] {
            let cut: Vec<Vec<f64>> =
                (0..block.parameters).map(|i| dense[from + i][from..][..block.parameters].to_vec()).collect();
            let known = largest(&cut, 1.0);
            let found = block.top[0].value;
            assert!(near(found, known, known), "{operator:?} {}: {found} {known}", block.layer);
            let trace: f64 = (0..cut.len()).map(|i| cut[i][i]).sum();
            assert!(
                near(block.trace.unwrap(), trace, trace),
                "{operator:?} {}: {:?} {trace}",
                block.layer,
                block.trace
            );
            from += block.parameters;
        }
        assert_eq!(from, n);
    }
}

#[test]
fn a_study_stopped_anywhere_continues_with_the_same_bits() {
    let net = Smooth::new("study-hessian-stopped");
    let settings = Settings {
        layers: vec![Layer::whole(&net.graph), Layer::all(&net.graph, 1)[3].clone()],
        k: 2,
        lanczos_steps: 4,
        density_samples: 2,
        trace_samples: 2,
        ..net.settings()
    };
    // One choice of h, four steps, three residuals, two for the trace, one to keep vectors, four more steps: 15 a block.
    let total = settings.measurements();
    assert_eq!(total, 4 * 15);
    let whole = net.study(settings.clone(), 2);
    let folder = Folder::new("study-hessian-journal");
    for (number, stops) in [[1, 3], [5, 6], [9, 10], [11, 13], [15, 16], [17, 40]].into_iter().enumerate() {
        let path = |name: &str| folder.path(&format!("{number}-{name}"));
        for stop in stops.into_iter().chain([total + 1]) {
            let mut told = |p: Progress| match p.done == stop {
                true => Err(Error::new(Kind::Interrupted, "stopped")),
                false => Ok(()),
            };
            let mut journal = Journal::open(&path("journal"), &json!({"study": "test"}), total, &mut told).unwrap();
            let mut shelves = SHELVES.map(|name| Shelf::open(&path(name)).unwrap());
            let (mut probe, weights) = (net.probe(8, 1), &net.vectors.weights);
            let made = hessian::run(&mut probe, &net.graph, weights, settings.clone(), &mut journal, &mut shelves);
            match made {
                Ok(study) => assert_eq!((&study, stop), (&whole, total + 1)),
                Err(e) => assert_eq!((e.kind, e.to_string().as_str()), (Kind::Interrupted, "stopped")),
            }
        }
    }
    // Without its vectors an unfinished study cannot continue, and says so.
    let open = |path: &Path| Shelf::open(path).unwrap();
    let mut told = |p: Progress| if p.done == 3 { Err(Error::new(Kind::Interrupted, "stopped")) } else { Ok(()) };
    for _ in 0..2 {
        let mut journal = Journal::open(&folder.path("j"), &json!({"study": "test"}), total, &mut told).unwrap();
        let mut shelves = [open(&folder.path("basis")), open(&folder.path("vectors"))];
        let (mut probe, weights) = (net.probe(8, 1), &net.vectors.weights);
        hessian::run(&mut probe, &net.graph, weights, settings.clone(), &mut journal, &mut shelves).unwrap_err();
        fs::write(folder.path("basis"), [0; 8]).unwrap();
    }
    let mut told = |_: Progress| Ok(());
    let mut journal = Journal::open(&folder.path("j"), &json!({"study": "test"}), total, &mut told).unwrap();
    let mut shelves = [open(&folder.path("basis")), open(&folder.path("vectors"))];
    let (mut probe, weights) = (net.probe(8, 1), &net.vectors.weights);
    let e = hessian::run(&mut probe, &net.graph, weights, settings, &mut journal, &mut shelves).unwrap_err();
    assert!(e.kind == Kind::Data && e.to_string().contains("lacks a vector that the journal names; remove"), "{e}");
}

#[test]
fn the_command_writes_its_files_continues_when_killed_and_refuses_wrong_flags() {
    let folder = trained("study-hessian");
    let small = "--k 2 --lanczos-steps 5 --trace-samples 2 --layers fc2 --images 20 --gauss-newton --quiet";
    let line = format!("study hessian run/last.safetensors {small}");
    let result = samcore(&folder.0, &format!("{line} --csv points.csv --out result --json")).well().json();
    let blocks = result["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 2 * 2);
    assert_eq!((&result["batch_norm"], &result["images"]), (&"running statistics".into(), &20.into()));
    for block in blocks {
        let value = |i: usize| block["eigenvalues"][i]["value"].as_f64().unwrap();
        assert!(value(0) >= value(1) && value(1) >= block["smallest"]["value"].as_f64().unwrap(), "{block}");
        assert!(block["h"].as_f64().unwrap() > 0.0 && block["disagreement"].as_f64().unwrap() > 0.0, "{block}");
        let weight: f64 = block["density"].as_array().unwrap().iter().map(|node| node[1].as_f64().unwrap()).sum();
        assert!((weight - 1.0).abs() < 1e-9);
        if block["operator"] == "gauss-newton" {
            let least = block["smallest"]["value"].as_f64().unwrap();
            assert!(least > -0.01 * value(0), "Gauss-Newton is never negative: {block}");
        }
    }
    let files = ["hessian.csv", "hessian.json", "hessian.npz", "hessian.svg", "layers.svg"];
    assert_eq!(names_in(&folder.path("result")), files);
    let csv = fs::read_to_string(folder.path("points.csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("operator,layer,parameters,quantity,number,value,error"));
    // Two eigenvalues, the smallest, trace, h, and five nodes of the density.
    assert_eq!(csv.lines().count(), 1 + 4 * 10);
    assert_eq!(fs::read_to_string(folder.path("result/hessian.csv")).unwrap(), csv);

    let drawn = samcore(&folder.0, "plot result --out again").well().stdout;
    assert_eq!(drawn, "again/hessian.svg\nagain/layers.svg\n");
    for name in ["hessian.svg", "layers.svg"] {
        let [one, other] = ["result", "again"].map(|at| fs::read_to_string(folder.path(at).join(name)).unwrap());
        assert!(one == other && one.contains("run/last.safetensors, step 9."), "{name}");
    }

    let mut running = start(&folder.0, &format!("{line} --out killed"));
    let lines = || fs::read_to_string(folder.path("killed/hessian.journal")).unwrap_or_default().lines().count();
    wait_until("four lines of the journal", || lines() >= 4);
    running.kill().unwrap();
    running.wait().unwrap();
    let other = line.replace("--k 2", "--k 3");
    samcore(&folder.0, &format!("{other} --out killed")).refused(73, "k is 2 there and 3 here; give another --out");
    samcore(&folder.0, &format!("{line} --out killed")).well();
    assert_eq!(names_in(&folder.path("killed")), files);
    for name in files {
        let [one, other] = ["result", "killed"].map(|at| fs::read(folder.path(at).join(name)).unwrap());
        assert!(one == other, "{name}");
    }

    for (flags, message) in [
        ("--k 31", "--k 31 needs --lanczos-steps of at least 31, not 30"),
        ("--k 0", "--k"),
        ("--depth 0 --layers fc1", "--layers needs a --depth of at least 1"),
        ("--layers fc9", "--layers fc9: the model has no layer of that name; did you mean 'fc"),
        ("--lanczos-steps x", "--lanczos-steps"),
    ] {
        samcore(&folder.0, &format!("study hessian run/last.safetensors {flags} --out none")).refused(2, message);
    }
    assert!(!folder.path("none").exists());
}
