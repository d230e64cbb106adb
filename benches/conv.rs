//! Times the CPU's convolutions on the layers of WideResNets: GFLOP/s forward, backward by data and by weight, counted as
//! direct convolution with all its zeros.
//!
//!     cargo bench --bench conv -- THREADS BATCH [part of a model's name]
//!     cargo bench --bench conv -- errors        # of each method, instead: relative L2 distance to f64 sums
//!
//! SAMCORE_CONV and SAMCORE_ISA choose the method and the instructions.

use samcore::device::cpu::method::{Method, Methods};
use samcore::device::cpu::{Workers, conv, simd::Isa};
use samcore::ops::{Conv2d, call::ConvShape};
use samcore::rng::{Draws, stream};
use std::time::Instant;

/// Model, how many layers are of this shape, h, ci, co, k, stride, pad.
const LAYERS: &[(&str, usize, [usize; 6])] = &[
    ("cnn", 1, [28, 1, 32, 3, 1, 1]),
    ("cnn", 1, [28, 32, 32, 3, 1, 1]),
    ("cnn", 1, [14, 32, 64, 3, 1, 1]),
    ("cnn", 1, [14, 64, 64, 3, 1, 1]),
    ("wrn-16-4", 1, [32, 3, 16, 3, 1, 1]),
    ("wrn-16-4", 1, [32, 16, 64, 3, 1, 1]),
    ("wrn-16-4", 1, [32, 16, 64, 1, 1, 0]),
    ("wrn-16-4", 3, [32, 64, 64, 3, 1, 1]),
    ("wrn-16-4", 1, [32, 64, 128, 3, 2, 1]),
    ("wrn-16-4", 1, [32, 64, 128, 1, 2, 0]),
    ("wrn-16-4", 3, [16, 128, 128, 3, 1, 1]),
    ("wrn-16-4", 1, [16, 128, 256, 3, 2, 1]),
    ("wrn-16-4", 1, [16, 128, 256, 1, 2, 0]),
    ("wrn-16-4", 3, [8, 256, 256, 3, 1, 1]),
    ("wrn-28-10", 1, [32, 3, 16, 3, 1, 1]),
    ("wrn-28-10", 1, [32, 16, 160, 3, 1, 1]),
    ("wrn-28-10", 1, [32, 16, 160, 1, 1, 0]),
    ("wrn-28-10", 7, [32, 160, 160, 3, 1, 1]),
    ("wrn-28-10", 1, [32, 160, 320, 3, 2, 1]),
    ("wrn-28-10", 1, [32, 160, 320, 1, 2, 0]),
    ("wrn-28-10", 7, [16, 320, 320, 3, 1, 1]),
    ("wrn-28-10", 1, [16, 320, 640, 3, 2, 1]),
    ("wrn-28-10", 1, [16, 320, 640, 1, 2, 0]),
    ("wrn-28-10", 7, [8, 640, 640, 3, 1, 1]),
    ("wide_resnet50_2", 1, [32, 3, 64, 7, 2, 3]),
    ("wide_resnet50_2", 1, [8, 64, 128, 1, 1, 0]),
    ("wide_resnet50_2", 1, [8, 64, 256, 1, 1, 0]),
    ("wide_resnet50_2", 3, [8, 128, 128, 3, 1, 1]),
    ("wide_resnet50_2", 3, [8, 128, 256, 1, 1, 0]),
    ("wide_resnet50_2", 3, [8, 256, 128, 1, 1, 0]),
    ("wide_resnet50_2", 1, [8, 256, 256, 3, 2, 1]),
    ("wide_resnet50_2", 1, [8, 256, 512, 1, 2, 0]),
    ("wide_resnet50_2", 3, [4, 256, 256, 3, 1, 1]),
    ("wide_resnet50_2", 4, [4, 256, 512, 1, 1, 0]),
    ("wide_resnet50_2", 4, [4, 512, 256, 1, 1, 0]),
    ("wide_resnet50_2", 1, [4, 512, 512, 3, 2, 1]),
    ("wide_resnet50_2", 1, [4, 512, 1024, 1, 2, 0]),
    ("wide_resnet50_2", 5, [2, 512, 512, 3, 1, 1]),
    ("wide_resnet50_2", 6, [2, 512, 1024, 1, 1, 0]),
    ("wide_resnet50_2", 6, [2, 1024, 512, 1, 1, 0]),
    ("wide_resnet50_2", 1, [2, 1024, 1024, 3, 2, 1]),
    ("wide_resnet50_2", 1, [2, 1024, 2048, 1, 2, 0]),
    ("wide_resnet50_2", 2, [1, 1024, 1024, 3, 1, 1]),
    ("wide_resnet50_2", 3, [1, 1024, 2048, 1, 1, 0]),
    ("wide_resnet50_2", 3, [1, 2048, 1024, 1, 1, 0]),
];

fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Draws::new(seed, stream("bench"), 0, 0);
    (0..len).map(|_| draws.uniform(-1.0, 1.0) as f32).collect()
}

/// Seconds that this thread has run so far, which other programs do not disturb as they do a clock (Linux).
fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}

/// Seconds of a run: by this thread's own time where it is the only one, else the fastest by the clock.
fn seconds(threads: usize, mut f: impl FnMut()) -> f64 {
    let (begun, before, mut least, mut runs) = (Instant::now(), thread_seconds(), f64::INFINITY, 0);
    while runs < 3 || begun.elapsed().as_secs_f64() < 0.25 {
        let t = Instant::now();
        f();
        least = least.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    match (before, thread_seconds()) {
        (Some(before), Some(after)) if threads == 1 => (after - before) / f64::from(runs),
        _ => least,
    }
}

/// Forward, by data and by weight in f64, of the values of `x`, `w` and `dy`.
fn exact(s: &ConvShape, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let mut sums = [vec![0.0; s.y_len()], vec![0.0; s.x_len()], vec![0.0; s.weight_len()]];
    let [y, dx, dw] = &mut sums;
    Conv2d::each_product(s, |to, from, kernel| {
        let [a, b, d] = [x[from], w[kernel], dy[to]].map(f64::from);
        y[to] += a * b;
        dx[from] += d * b;
        dw[kernel] += d * a;
    });
    sums
}

/// Prints the relative errors of each method for layers of which Winograd's method computes some product.
fn errors() {
    println!("relative L2 error forward, by data, by weight; one image, normal values");
    let normal = |seed: u64, len: usize| -> Vec<f32> {
        let mut draws = Draws::new(seed, stream("bench"), 0, 0);
        (0..len).map(|_| draws.normal() as f32).collect()
    };
    for &(model, _, [h, ci, co, k, stride, pad]) in LAYERS.iter().filter(|l| l.2[3] == 3 && l.2[4] == 1) {
        let s = ConvShape { n: 1, h, w: h, ci, co, k, stride, pad };
        if ci < 8 || s.flops() > 100_000_000 {
            continue;
        }
        let (x, w, dy) = (normal(1, s.x_len()), normal(2, s.weight_len()), normal(3, s.y_len()));
        let exact = exact(&s, &x, &w, &dy);
        for (method, name) in Method::ALL {
            let methods = Methods { forced: Some(method) };
            let workers = Workers { methods, ..Workers::new(1, Isa::detect().unwrap_or(Isa::best())) };
            let work = conv::forward_workspace::<f32>(&workers, &s)
                .max(conv::backward_data_workspace::<f32>(&workers, &s))
                .max(conv::backward_weight_workspace::<f32>(&workers, &s));
            let (mut y, mut dx, mut dw) = (vec![0.0; s.y_len()], vec![0.0; s.x_len()], vec![0.0; s.weight_len()]);
            let mut work = vec![0.0; work];
            conv::forward(&workers, &s, &x, &w, None, &mut y, None, &mut work);
            conv::backward_data(&workers, &s, &dy, &w, &mut dx, false, None, &mut work);
            conv::backward_weight(&workers, &s, &x, &dy, &mut dw, &mut work);
            let error = |got: &[f32], exact: &[f64]| {
                let sums = got
                    .iter()
                    .zip(exact)
                    .fold((0.0, 0.0), |(error, norm), (g, e)| (error + (f64::from(*g) - e).powi(2), norm + e * e));
                (sums.0 / sums.1).sqrt()
            };
            let [y, dx, dw] = [error(&y, &exact[0]), error(&dx, &exact[1]), error(&dw, &exact[2])];
            println!("{model:<16} {h:>2}x{h:<2} {ci:>4} -> {co:<4} {name:<6}: {y:.1e} {dx:.1e} {dw:.1e}");
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    if words.first().is_some_and(|word| word == "errors") {
        return errors();
    }
    let number = |i: usize, default: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(default);
    let (threads, n) = (number(0, 1), number(1, 32));
    let only = words.get(2).map_or("", |w| w);
    let isa = Isa::detect().unwrap_or(Isa::best());
    let workers = Workers { methods: Methods::detect().unwrap_or_default(), ..Workers::new(threads, isa) };
    let isa = workers.isa.name();
    println!(
        "{threads} threads, batch {n}, {isa}: GFLOP/s forward, by data, by weight; work; all such layers of one pass"
    );
    let mut sums: Vec<(&str, f64, f64)> = vec![];
    for &(model, count, [h, ci, co, k, stride, pad]) in LAYERS.iter().filter(|l| l.0.contains(only)) {
        let s = ConvShape { n, h, w: h, ci, co, k, stride, pad };
        let (mut x, w, mut y) = (uniform(1, s.x_len()), uniform(2, s.weight_len()), uniform(3, s.y_len()));
        let (dy, mut dw, mut partials) = (uniform(4, s.y_len()), uniform(5, s.weight_len()), vec![0.0; 2 * n * co]);
        let work = conv::forward_workspace::<f32>(&workers, &s)
            .max(conv::backward_data_workspace::<f32>(&workers, &s))
            .max(conv::backward_weight_workspace::<f32>(&workers, &s));
        let mut work = vec![0.0; work];
        let forward =
            seconds(threads, || conv::forward(&workers, &s, &x, &w, None, &mut y, Some(&mut partials), &mut work));
        let weight = seconds(threads, || conv::backward_weight(&workers, &s, &x, &dy, &mut dw, &mut work));
        // A first layer has no gradient by data.
        let data = (ci > 3)
            .then(|| seconds(threads, || conv::backward_data(&workers, &s, &dy, &w, &mut x, false, None, &mut work)));
        let rate = |seconds: f64| s.flops() as f64 / seconds / 1e9;
        let total = count as f64 * (forward + weight + data.unwrap_or(0.0));
        println!(
            "{model:<16} {count} x {h:>2}x{h:<2} {ci:>4} -> {co:<4} {k}x{k} stride {stride}: {:>4.0} {:>4.0} {:>4.0} {:>6.1} MB \
             {total:>8.4} s",
            rate(forward),
            data.map_or(0.0, rate),
            rate(weight),
            work.len() as f64 * 4e-6,
        );
        let flops = count as f64 * s.flops() as f64 * if ci > 3 { 3.0 } else { 2.0 };
        match sums.iter_mut().find(|sum| sum.0 == model) {
            Some(sum) => (sum.1, sum.2) = (sum.1 + total, sum.2 + flops),
            None => sums.push((model, total, flops)),
        }
    }
    for (model, seconds, flops) in sums {
        println!("{model}: {seconds:.3} s, {:.0} GFLOP/s", flops / seconds / 1e9);
    }
}
