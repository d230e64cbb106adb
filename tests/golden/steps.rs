//! Five steps of some models from the same weights on the same images as PyTorch's.

use super::fixture::{Fixture, error, norm, widen};
use samcore::data;
use samcore::device::DatasetBytes;
use samcore::device::cpu::CpuDevice;
use samcore::device::cpu::simd::Isa;
use samcore::exec::{Exec, Recording};
use samcore::files::sha256_hex;
use samcore::graph::{Graph, ImageSource};
use samcore::models::resnet::{ResNet, WIDE_RESNET50_2, cifar_resnet};
use samcore::models::{self, Model};
use samcore::ops::call::{Augment, Counters};
use samcore::optim::{self, Options};
use samcore::rng::{Draws, stream};
use samcore::step::{Division, RUNNING, Recorder, W};
use samcore::train::checkpoint::Remembered;
use samcore::train::engine::{self, TRAIN};
use std::path::Path;

/// Name in the fixture, optimizer, Nesterov momentum, and the steps whose updates are stored.
const VARIANTS: [(&str, &str, bool, &[usize]); 3] =
    [("sgd", "sgd", false, &[1, 5]), ("nesterov", "sgd", true, &[5]), ("sam", "sam", false, &[1, 5])];
const STEPS: usize = 5;
/// Largest update of a parameter without a gradient; of all others the smallest is above 1e-5.
const ROUNDING: f64 = 1e-8;

/// A model with a fixture, and the images that it was trained on.
struct Case {
    fixture: &'static str,
    model: fn() -> Model,
    images: fn() -> Images,
}

const CASES: [Case; 7] = [
    Case { fixture: "cnn", model: || models::find("cnn").unwrap(), images: fashion_mnist },
    Case { fixture: "wrn_10_1", model: || models::find("wrn-10-1").unwrap(), images: || noise(16) },
    Case {
        fixture: "resnet8",
        model: || Model::new("resnet8", "", |g, x, spec| cifar_resnet(g, x, 8, spec)),
        images: || noise(16),
    },
    Case { fixture: "shake_shake", model: || models::find("shake-shake-8-2x8d").unwrap(), images: || noise(16) },
    Case { fixture: "pyramidnet", model: || models::find("pyramidnet-8-a12").unwrap(), images: || noise(16) },
    Case {
        fixture: "shakedrop",
        model: || models::find("pyramidnet-11-a12-bottleneck-shakedrop").unwrap(),
        images: || noise(16),
    },
    Case {
        fixture: "bottleneck",
        model: || {
            let small = ResNet { channels: 8, blocks: &[1, 1], ..WIDE_RESNET50_2 };
            Model::new("bottleneck", "", move |g, x, spec| small.record(g, x, spec))
        },
        images: || noise(32),
    },
];

/// Images of bytes, `[count, c, h, w]`, and their labels.
struct Images {
    bytes: Vec<u8>,
    labels: Vec<u8>,
    source: ImageSource,
}

impl Images {
    fn graph(&self, model: &Model) -> Graph {
        models::classifier(model, &self.source, &models::Setup::default()).unwrap()
    }
}

fn fashion_mnist() -> Images {
    let data = data::load_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist"), None).unwrap();
    let source = engine::source(&data, Augment::default());
    Images { bytes: data.train.images.to_vec(), labels: data.train.labels.to_vec(), source }
}

/// 400 images of random pixels in three channels.
fn noise(side: usize) -> Images {
    let draw = |name: &str, count: usize, below: u32| -> Vec<u8> {
        let mut draws = Draws::new(0, stream(name), 0, 0);
        (0..count).map(|_| draws.below(below) as u8).collect()
    };
    let (mean, std, augment) = ([0.5; 4], [0.25; 4], Augment::default());
    Images {
        bytes: draw("golden.images", 400 * 3 * side * side, 256),
        labels: draw("golden.labels", 400, 10),
        source: ImageSource { h: side, w: side, c: 3, classes: 10, mean, std, augment },
    }
}

#[test]
fn the_initial_weights_of_seed_0_are_those_that_the_fixtures_start_from() {
    for case in CASES {
        assert_initial_weights(&Fixture::open(case.fixture), &(case.images)().graph(&(case.model)()));
    }
}

fn assert_initial_weights(golden: &Fixture, g: &Graph) {
    let hashes = golden.notes["sha256"].as_object().unwrap();
    assert_eq!(g.params().list().len(), hashes.len());
    for p in g.params().list() {
        let values = p.init(0);
        let name = &p.name;
        let first = &golden.get(&format!("init.{name}.first")).values;
        assert_eq!(&widen(&values)[..first.len()], first, "{name}");
        let sums = [values.iter().map(|v| f64::from(*v)).sum(), norm(widen(&values)).powi(2)];
        let off = error(&sums, &golden.get(&format!("init.{name}.sums")).values);
        assert!(off < 1e-12, "{name}: sum and sum of squares are {sums:?}");
        let hash = sha256_hex(bytemuck::cast_slice(&values));
        assert_eq!(hashes[name].as_str(), Some(&hash[..]), "{name}");
    }
}

/// One variant on one device.
struct Run<'a> {
    golden: &'a Fixture,
    graph: &'a Graph,
    /// Name in the fixture.
    name: &'a str,
    /// First words of messages.
    label: String,
    start: Vec<f32>,
    exec: Exec,
}

impl Run<'_> {
    fn loss(&mut self, step: usize) {
        let stored = self.golden.get(&format!("{}.loss", self.name));
        let passes = stored.shape[1];
        for pass in 1..=passes {
            let loss = f64::from(self.exec.slot_value(&format!("pass{pass}.loss")).unwrap());
            let expected = stored.values[(step - 1) * passes + pass - 1];
            let off = (loss - expected).abs() / expected;
            assert!(off < 1e-5, "{}: loss of pass {pass} of step {step} is {loss}, not {expected}", self.label);
        }
        if let Some(norms) = self.golden.find(&format!("{}.norm", self.name)) {
            let program = self.exec.programs().next().unwrap();
            let report = self.exec.program(program).reports.iter().find(|r| r.0 == "grad_norm").unwrap().1;
            let (got, expected) = (f64::from(self.exec.read(report).unwrap()), norms.values[step - 1]);
            assert!((got - expected).abs() < 1e-5 * expected, "{}: |g| is {got}, not {expected}", self.label);
        }
    }

    /// Compares every parameter's update; returns the largest share of what the README allows.
    fn updates(&mut self, step: usize) -> f64 {
        let (golden, weights) = (self.golden, self.exec.download(W).unwrap());
        let mut worst = 0f64;
        for p in self.graph.params().list() {
            let of = |v: &[f32]| widen(&p.to_file(&v[p.offset..p.offset + p.len()]));
            let (start, now) = (of(&self.start), of(&weights));
            let update: Vec<f64> = now.iter().zip(&start).map(|(w, s)| w - s).collect();
            let allowed = |size: f64, start: f64| 5e-5 * size + step as f64 * 2f64.powi(-24) * start;
            // For a large tensor only some elements are stored, and the norm of all.
            let kept: Vec<usize> = match golden.find(&format!("{}.indices", p.name)) {
                Some(sample) => sample.values.iter().map(|i| *i as usize).collect(),
                None => (0..update.len()).collect(),
            };
            let Some(stored) = golden.find(&format!("{}.update{step}.{}", self.name, p.name)) else {
                // It has no gradient, but for rounding.
                assert!(norm(update) < ROUNDING, "{}: {} moves", self.label, p.name);
                continue;
            };
            let stored = &stored.values;
            assert_eq!(stored.len(), kept.len(), "{}", p.name);
            let difference = norm(kept.iter().zip(stored).map(|(i, s)| update[*i] - s));
            let size = norm(stored.iter().copied());
            let share = difference / allowed(size, norm(kept.iter().map(|i| start[*i])));

            let whole = golden.get(&format!("{}.norm{step}.{}", self.name, p.name)).value();
            let of_norm = (norm(update) - whole).abs() / allowed(whole, norm(start));
            for (what, share) in [("update", share), ("norm of the update", of_norm)] {
                let (label, name) = (&self.label, &p.name);
                assert!(
                    share <= 1.0,
                    "{label}: {what} of {name} after step {step} is off by {share:.1} x the tolerance"
                );
                worst = worst.max(share);
            }
        }
        worst
    }

    fn buffers(&mut self) {
        let running = widen(&self.exec.download(RUNNING).unwrap());
        for s in self.graph.statistics() {
            let stored = |buffer: &str| self.golden.get(&format!("{}.buffer{STEPS}.{}.{buffer}", self.name, s.name));
            let channels = |part: usize| &running[s.offset + part * s.channels..][..s.channels];
            let batches = stored("num_batches_tracked").value();
            assert!(channels(0).iter().all(|b| *b == batches), "{}: batches of {}", self.label, s.name);
            // A mean near 0, such as that of what a batch-norm has centred, is rounding: held to a share of the deviation.
            let deviation = norm(stored("running_var").values.iter().map(|v| v.sqrt()));
            for (part, buffer, least) in [(1, "running_mean", 0.01 * deviation), (2, "running_var", 0.0)] {
                let expected = &stored(buffer).values;
                let difference = norm(channels(part).iter().zip(expected).map(|(g, e)| g - e));
                let off = difference / norm(expected.iter().copied()).max(least);
                assert!(off < 1e-5, "{}: {buffer} of {} differs by {off:.1e}", self.label, s.name);
            }
        }
    }
}

#[test]
fn five_steps_are_those_of_pytorch_on_every_instruction_set_and_number_of_threads() {
    for case in CASES {
        let images = (case.images)();
        assert_steps(&case, &images, &images.graph(&(case.model)()));
    }
}

fn assert_steps(case: &Case, images: &Images, g: &Graph) {
    let golden = Fixture::open(case.fixture);
    let settings = &golden.notes["settings"];
    let rows = settings["rows"].as_u64().unwrap() as usize;
    for (name, optimizer, nesterov, kept) in VARIANTS {
        let order: Vec<u32> = golden.get(&format!("{name}.indices")).values.iter().map(|i| *i as u32).collect();
        for isa in Isa::available() {
            let mut bits: Option<Vec<f32>> = None;
            for threads in [1, 2] {
                let device = CpuDevice::with_isa(threads, isa).unwrap();
                let optimizer = (optim::find(optimizer).unwrap().build)(&Options { nesterov, ..Options::default() });
                let mut recorder = Recorder::new(g, &device);
                let program = recorder.program(name, Division::whole(rows), |step| optimizer.record(0, step)).unwrap();
                let recording = Recording::of(recorder);
                let mut exec = Exec::new(Box::new(device), recording).unwrap();
                let image_len = images.bytes.len() / images.labels.len();
                let data = DatasetBytes { images: &images.bytes, labels: &images.labels, image_len };
                exec.set_dataset(TRAIN, &data).unwrap();
                exec.set_order(TRAIN, &order).unwrap();
                let initial = engine::initial(g, 0, Remembered::default());
                engine::put(&mut exec, &initial).unwrap();
                for slot in ["lr", "momentum", "weight_decay", "rho"] {
                    exec.set_slot(slot, settings[slot].as_f64().unwrap() as f32).unwrap();
                }
                let label = format!("{}, {name} on {}, {threads} threads", case.fixture, isa.name());
                let mut run = Run { golden: &golden, graph: g, name, label, start: initial.weights, exec };
                for step in 1..=STEPS {
                    let first = (rows * (step - 1)) as u32;
                    let counters = Counters { dataset: TRAIN, first, rows: rows as u32, ..Counters::default() };
                    run.exec.run(program, &counters).unwrap();
                    run.loss(step);
                    if kept.contains(&step) {
                        let worst = run.updates(step);
                        println!("{}: step {step} uses {:.0} % of the tolerance", run.label, 100.0 * worst);
                    }
                }
                run.buffers();
                let weights = run.exec.download(W).unwrap();
                let same = bits.get_or_insert_with(|| weights.clone()).iter().zip(&weights);
                assert!(same.into_iter().all(|(a, b)| a.to_bits() == b.to_bits()), "{}: other bits", run.label);
            }
        }
    }
}
