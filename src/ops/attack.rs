//! A step of projected gradient descent on images (Madry et al. 2018), in the largest norm and in units of pixel values from
//! 0 to 1. Here are its definition in f64 and its cases.

use super::call::{Kernel, Pixels};
use super::case::{Body, Case, VectorSpec as Spec};
use super::vectors::{case, normal};

/// Normalised images of random bytes, black and white ones among them.
fn images(len: usize, p: &Pixels) -> Vec<f32> {
    let byte = |v: &f32| (128.0 + 80.0 * v).round().clamp(0.0, 255.0);
    let pixels = normal("x", len);
    pixels.iter().enumerate().map(|(i, v)| (byte(v) / 255.0 - p.mean[i % p.c]) / p.std[i % p.c]).collect()
}

fn step(label: &str, n: usize, [h, w, c]: [usize; 3], radius: f32, rate: f32) -> Case {
    let spec: Spec = |kernel, reads, _| {
        let Kernel::PgdStep(Pixels { c, mean, std }) = kernel else { return vec![] };
        let (radius, rate) = (reads[3][0], reads[4][0]);
        let step = |i: usize| {
            let (mean, std) = (f64::from(mean[i % c]), f64::from(std[i % c]));
            let sign = if reads[1][i] == 0.0 { 0.0 } else { reads[1][i].signum() };
            let moved = (reads[2][i] + rate / std * sign).clamp(-radius / std, radius / std);
            moved.max((0.0 - mean) / std - reads[0][i]).min((1.0 - mean) / std - reads[0][i])
        };
        vec![(0..reads[0].len()).map(step).collect()]
    };
    let pixels = Pixels { c, mean: [0.286, 0.4, 0.5, 0.6], std: [0.353, 0.3, 0.25, 0.2] };
    let len = n * h * w * c;
    let delta: Vec<f32> = normal("delta", len).iter().map(|v| 0.3 * radius * v).collect();
    let mut gradient = normal("g", len);
    gradient.iter_mut().step_by(7).for_each(|g| *g = 0.0);
    let reads = vec![images(len, &pixels), gradient, delta.clone(), vec![radius], vec![rate]];
    let label = format!("{n} x [{h}, {w}, {c}], {label}");
    let mut case = case(label, Kernel::PgdStep(pixels), reads, vec![delta], spec);
    if let Body::Vector(vector) = &mut case.body {
        vector.shared = vec![(2, 0)];
    }
    case
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        step("8/255", 5, [8, 8, 3], 8.0 / 255.0, 2.0 / 255.0),
        step("beyond the radius", 3, [7, 5, 1], 0.1, 0.3),
        step("beyond all pixels", 2, [33, 31, 4], 2.0, 1.5),
        step("of rate 0", 2, [6, 6, 2], 0.05, 0.0),
    ]
}

/// Batches of CIFAR and Fashion-MNIST.
pub(super) fn bench() -> Vec<Case> {
    vec![
        step("8/255", 128, [32, 32, 3], 8.0 / 255.0, 2.0 / 255.0),
        step("8/255", 128, [28, 28, 1], 8.0 / 255.0, 2.0 / 255.0),
    ]
}
