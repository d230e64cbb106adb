use super::super::norm::norm_apply;
use super::super::norm_stats::{batch_stats, batch_stats_workspace};
use super::super::testing::*;
use super::*;
use half::bf16;

const EPS: f32 = 1e-5;

fn shape(n: usize, h: usize, w: usize, c: usize, running: bool, relu: bool, window: usize) -> NormShape {
    NormShape { n, h, w, c, eps_bits: EPS.to_bits(), running, relu, window }
}

/// All combinations that differ in code: batch and running statistics, ReLU, windows, and channel counts that fill blocks
/// or do not.
fn shapes() -> Vec<NormShape> {
    let mut shapes = Vec::new();
    for (running, relu) in [(false, true), (false, false), (true, true), (true, false)] {
        for (n, h, w, c, window) in [
            (2, 7, 9, 3, 1),
            (2, 7, 9, 10, 2),
            (3, 7, 9, 33, 3),
            (2, 6, 4, 16, 2),
            (2, 4, 6, 32, 1),
            (2, 5, 4, 32, 2),
            (2, 3, 5, 64, 1),
            (2, 5, 5, 70, 2),
            (20, 1, 1, 96, 1),
        ] {
            shapes.push(shape(n, h, w, c, running, relu, window));
        }
    }
    shapes.push(shape(30, 14, 14, 16, false, true, 2)); // several images a job, several jobs
    shapes
}

/// The forward by its formula, in f64; `stats` are given for running ones, else taken from x.
fn naive(s: &NormShape, x: &[f64], stats: &[f32], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let count = (x.len() / s.c) as f64;
    let mut y = vec![0.0; s.y_len()];
    let (oh, ow) = (s.h / s.window, s.w / s.window);
    for k in 0..s.c {
        let channel: Vec<f64> = x.iter().skip(k).step_by(s.c).copied().collect();
        let (mean, variance) = if s.running {
            (f64::from(stats[s.c + k]), f64::from(stats[2 * s.c + k]))
        } else {
            let mean = channel.iter().sum::<f64>() / count;
            (mean, channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
        };
        let value = |v: f64| weight[k] * (v - mean) / (variance + f64::from(EPS)).sqrt() + bias[k];
        let passed = |v: f64| if s.relu { value(v).max(0.0) } else { value(v) };
        for i in 0..s.n * oh * ow {
            let (image, row, column) = (i / (oh * ow), i / ow % oh, i % ow);
            let pixels = (0..s.window * s.window).map(|at| {
                let (r, q) = (row * s.window + at / s.window, column * s.window + at % s.window);
                passed(channel[(image * s.h + r) * s.w + q])
            });
            y[i * s.c + k] = pixels.fold(f64::NEG_INFINITY, f64::max);
        }
    }
    y
}

struct Case {
    x: Vec<f32>,
    stats: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

/// Random operands; statistics of the batch, or for running ones others that only resemble them.
fn case(workers: &Workers, s: &NormShape, offset: f32) -> Case {
    let x: Vec<f32> = normal(11, s.x_len()).iter().map(|v| 1.5 * v + offset).collect();
    let mut stats = poisoned(3 * s.c);
    if s.running {
        for k in 0..s.c {
            (stats[k], stats[s.c + k], stats[2 * s.c + k]) = (7.0, 0.1 + offset, 1.0 + 0.1 * k as f32);
        }
    } else {
        let mut work = poisoned(batch_stats_workspace(s.n, s.c));
        batch_stats(workers, (s.n, s.h * s.w, s.c), &x, &mut stats, &mut work);
    }
    let weight = normal(12, s.c).iter().map(|v| v + 0.5).collect();
    Case { x, stats, weight, bias: normal(13, s.c), dy: normal(14, s.y_len()) }
}

fn apply_all(s: &NormShape, offset: f32) -> (Vec<f32>, Vec<f64>) {
    let c = case(&all_workers()[0], s, offset);
    let y = same_for_all(|workers| {
        let mut y = poisoned(s.y_len());
        norm_apply(workers, s, &c.x, &c.stats, &c.weight, &c.bias, &mut y);
        y
    });
    (y, naive(s, &wide(&c.x), &c.stats, &wide(&c.weight), &wide(&c.bias)))
}

#[test]
fn apply_is_its_formula() {
    for s in shapes() {
        let (y, expected) = apply_all(&s, 0.3);
        assert_close(&format!("{s:?}"), &y, &expected, 1e-6);
    }
}

/// One unit of f32 at 1000 is 6e-5, so a mean stored in f32 may be off by that.
#[test]
fn a_mean_of_a_thousand_deviations_keeps_the_digits_that_x_has() {
    for s in [shape(4, 7, 9, 33, false, true, 1), shape(4, 7, 9, 32, false, false, 2)] {
        let (y, expected) = apply_all(&s, 1500.0);
        assert_close(&format!("{s:?}"), &y, &expected, 6e-5);
    }
}

#[test]
fn backward_is_the_derivative_of_the_forward() {
    for s in shapes() {
        let c = case(&all_workers()[0], &s, 0.3);
        let (x, weight, bias, dy) = (wide(&c.x), wide(&c.weight), wide(&c.bias), wide(&c.dy));
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
            naive(&s, x, &c.stats, weight, bias).iter().zip(&dy).map(|(y, d)| y * d).sum()
        };
        let sums = same_for_all(|workers| {
            let (mut dweight, mut dbias) = (poisoned(s.c), poisoned(s.c));
            let mut work = poisoned(norm_backward_sums_workspace(&s));
            norm_backward_sums(
                workers,
                &s,
                &c.x,
                &c.stats,
                &c.weight,
                &c.bias,
                &c.dy,
                &mut dweight,
                &mut dbias,
                &mut work,
            );
            [dweight, dbias].concat()
        });
        let (dweight, dbias) = sums.split_at(s.c);
        let channels: Vec<usize> = (0..s.c).collect();
        let what = format!("{s:?}");
        assert_close(&what, dweight, &differences(&weight, &channels, |weight| loss(&x, weight, &bias)), 2e-6);
        assert_close(&what, dbias, &differences(&bias, &channels, |bias| loss(&x, &weight, bias)), 2e-6);

        // A sample of positions that reaches every channel, pixel and border.
        let at: Vec<usize> = (0..x.len()).step_by(1 + x.len() / 90).collect();
        let expected = differences(&x, &at, |x| loss(x, &weight, &bias));
        for add in [false, true] {
            let before: Vec<f32> = if add { normal(15, x.len()) } else { poisoned(x.len()) };
            let dx = same_for_all(|workers| {
                let mut dx = before.clone();
                norm_backward_data(
                    workers, &s, add, &c.x, &c.stats, &c.weight, &c.bias, &c.dy, dweight, dbias, &mut dx,
                );
                dx
            });
            assert!(dx.iter().all(|v| v.is_finite()), "{what}");
            let got: Vec<f32> = at.iter().map(|&i| if add { dx[i] - before[i] } else { dx[i] }).collect();
            assert_close(&format!("{what}, add {add}"), &got, &expected, 5e-6);
        }
    }
}

/// Imitates a convolution that writes dx: sums of one image after the other, in any order.
#[test]
fn sums_of_single_images_merge_to_those_of_the_batch() {
    for s in shapes() {
        let c = case(&all_workers()[0], &s, 0.3);
        let params = [&c.stats[..], &c.weight, &c.bias];
        let merged = same_for_all(|workers| {
            let mut partials = poisoned(s.n * 2 * s.c);
            for (i, partial) in partials.chunks_exact_mut(2 * s.c).enumerate() {
                let (x, dy) = (&c.x[i * s.x_image()..][..s.x_image()], &c.dy[i * s.y_image()..][..s.y_image()]);
                image_sums(workers.isa, &s, x, params, dy, partial);
            }
            let (mut dweight, mut dbias) = (poisoned(s.c), poisoned(s.c));
            merge_partial_sums(workers, s.n, s.c, &partials, &mut dweight, &mut dbias);
            [dweight, dbias].concat()
        });
        let (workers, mut work) = (&all_workers()[0], poisoned(norm_backward_sums_workspace(&s)));
        let (mut dweight, mut dbias) = (poisoned(s.c), poisoned(s.c));
        let [stats, weight, bias] = params;
        norm_backward_sums(workers, &s, &c.x, stats, weight, bias, &c.dy, &mut dweight, &mut dbias, &mut work);
        assert_close(&format!("{s:?}"), &merged, &wide(&[dweight, dbias].concat()), 1e-6);
    }
}

fn low(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|v| bf16::from_f32(*v)).collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// All of forward and backward, on operands of one type.
fn everything<T: Stored>(s: &NormShape, c: &Case, x: &[T], dy: &[T], y: &mut [T], dx: &mut [T]) -> Vec<f32> {
    let workers = &all_workers()[0];
    let (mut dweight, mut dbias) = (poisoned(s.c), poisoned(s.c));
    let mut work = poisoned(norm_backward_sums_workspace(s).max(batch_stats_workspace(s.n, s.c)));
    let mut stats = poisoned(3 * s.c);
    batch_stats(workers, (s.n, s.h * s.w, s.c), x, &mut stats, &mut work);
    let (weight, bias) = (&c.weight, &c.bias);
    norm_apply(workers, s, x, &stats, weight, bias, y);
    norm_backward_sums(workers, s, x, &stats, weight, bias, dy, &mut dweight, &mut dbias, &mut work);
    norm_backward_data(workers, s, true, x, &stats, weight, bias, dy, &dweight, &dbias, dx);
    [stats, dweight, dbias].concat()
}

#[test]
fn bf16_is_the_arithmetic_of_f32_on_what_is_stored_rounded_once() {
    for s in shapes().into_iter().filter(|s| !s.running && s.window == 1) {
        let c = case(&all_workers()[0], &s, 0.3);
        let (x, dy, before) = (low(&c.x), low(&c.dy), low(&normal(15, s.x_len())));
        let (mut y, mut dx) = (low(&poisoned(s.y_len())), before.clone());
        let sums = everything(&s, &c, &x, &dy, &mut y, &mut dx);
        let (mut wide_y, mut wide_dx) = (poisoned(s.y_len()), widened(&before));
        let wide_sums = everything(&s, &c, &widened(&x), &widened(&dy), &mut wide_y, &mut wide_dx);
        assert_eq!(sums, wide_sums, "{s:?}");
        assert_eq!(y, low(&wide_y), "{s:?}");
        assert_eq!(dx, low(&wide_dx), "{s:?}");
    }
}

/// The second value is larger before it is rounded; a pool of stored values could not tell.
#[test]
fn values_of_a_window_that_are_stored_alike_are_ties() {
    let s = NormShape { eps_bits: 0, ..shape(1, 2, 2, 1, true, true, 2) };
    let (x, dy, stats) = (low(&[256.0, 258.0, 1.0, 1.0]), low(&[3.0]), [1.0, 0.0, 1.0]);
    // 256 and 258 stay apart; 1280 and 1282 are both stored as 1280.
    for (bias, winner) in [(0.0, 1), (1024.0, 0)] {
        for workers in all_workers() {
            let mut dx = low(&poisoned(4));
            norm_backward_data(&workers, &s, false, &x, &stats, &[1.0], &[bias], &dy, &[0.0], &[0.0], &mut dx);
            let got: Vec<bool> = widened(&dx).iter().map(|v| *v != 0.0).collect();
            assert_eq!(got, [0, 1, 2, 3].map(|i| i == winner), "bias {bias}");
        }
    }
}

/// Equal values in a window: the gradient goes to the first of them, once.
#[test]
fn ties_in_the_window_go_to_the_first_pixel() {
    let s = NormShape { eps_bits: 0, ..shape(1, 2, 2, 2, true, true, 2) };
    let x = [5.0, -1.0, 5.0, -1.0, 4.0, -2.0, 5.0, -1.0]; // channel 1 is cut off by the ReLU
    let (stats, ones, zeros) = ([1.0, 1.0, 0.0, 0.0, 1.0, 1.0], [1.0; 2], [0.0; 2]);
    for workers in all_workers() {
        let (mut dweight, mut dbias, mut work) = ([f32::NAN; 2], [f32::NAN; 2], poisoned(4));
        let dy = [3.0, 7.0];
        norm_backward_sums(&workers, &s, &x, &stats, &ones, &zeros, &dy, &mut dweight, &mut dbias, &mut work);
        assert_eq!((dweight, dbias), ([15.0, 0.0], [3.0, 0.0]));
        let mut dx = [f32::NAN; 8];
        norm_backward_data(&workers, &s, false, &x, &stats, &ones, &zeros, &dy, &dweight, &dbias, &mut dx);
        assert_eq!(dx, [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}

#[test]
fn a_nan_is_not_hidden_by_relu_and_pool() {
    let s = shape(1, 2, 2, 1, true, true, 2);
    for at in 0..4 {
        let mut x = [-1.0, 2.0, 0.5, -3.0];
        x[at] = f32::NAN;
        for workers in all_workers() {
            let mut y = [0.0];
            norm_apply(&workers, &s, &x, &[1.0, 0.0, 1.0], &[1.0], &[0.0], &mut y);
            assert!(y[0].is_nan(), "NaN at {at} gives {}", y[0]);
        }
    }
}
