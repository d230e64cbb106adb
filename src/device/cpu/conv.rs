//! Direct convolution of `x [n, h, w, ci]` with `w [co, k, k, ci]` to `y [n, out_h, out_w, co]`: any k, stride and pad.
//!
//! Bits depend on the shape and on `workers.isa`, never on the number of threads. Work buffers hold what the function
//! of the same name with `_workspace` asks for; their content is garbage before and after. Slices of a length other
//! than the shape's panic.

pub use super::conv_weight::{backward_weight, backward_weight_workspace};

use super::Workers;
use super::method::{Method, Product};
use super::moments::image_moments;
use super::pool::Parts;
use super::sweep::{Addend, Sweep};
use super::winograd::Winograd;
use crate::ops::call::ConvShape;

/// y = conv(x, w).
///
/// `partials` `[n, 2, co]` takes, for each image, mean and M2 (sum of squared differences from that mean) of each
/// output channel.
pub fn forward(
    workers: &Workers,
    s: &ConvShape,
    x: &[f32],
    w: &[f32],
    y: &mut [f32],
    partials: Option<&mut [f32]>,
    work: &mut [f32],
) {
    assert_eq!((x.len(), w.len(), y.len()), (s.x_len(), s.weight_len(), s.y_len()), "conv forward of {s:?}");
    match workers.methods.choose(s, Product::Forward) {
        Method::Direct => Sweep::forward(s).run(workers, x, w, y, partials, work),
        method => {
            let moments = partials.map(Parts::new);
            let finish = |image: usize, y: &[f32]| {
                if let Some(moments) = moments {
                    // SAFETY: one part for each image.
                    let moments = unsafe { moments.part(image * 2 * s.co..(image + 1) * 2 * s.co) };
                    image_moments(workers.isa, y, moments);
                }
            };
            Winograd::forward(s, method).run(workers, x, w, y, Addend::Nothing, Some(&finish), work);
        }
    }
}

/// dx = the gradient of conv(x, w) with respect to x, given dy; added to what `dx` holds where `add`.
pub fn backward_data(
    workers: &Workers,
    s: &ConvShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
    work: &mut [f32],
) {
    assert_eq!((dy.len(), w.len(), dx.len()), (s.y_len(), s.weight_len(), s.x_len()), "conv backward data of {s:?}");
    match workers.methods.choose(s, Product::BackwardData) {
        Method::Direct => Sweep::backward(s, add).run(workers, dy, w, dx, None, work),
        method => {
            let addend = if add { Addend::Old } else { Addend::Nothing };
            Winograd::backward(s, method).run(workers, dy, w, dx, addend, None, work);
        }
    }
}

/// Elements of work that [`forward`] needs.
pub fn forward_workspace(workers: &Workers, s: &ConvShape) -> usize {
    match workers.methods.choose(s, Product::Forward) {
        Method::Direct => Sweep::forward(s).workspace(workers),
        method => Winograd::forward(s, method).workspace(workers),
    }
}

/// Elements of work that [`backward_data`] needs.
pub fn backward_data_workspace(workers: &Workers, s: &ConvShape) -> usize {
    match workers.methods.choose(s, Product::BackwardData) {
        Method::Direct => Sweep::backward(s, false).workspace(workers),
        method => Winograd::backward(s, method).workspace(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::super::method::Methods;
    use super::super::testing::{Sum, assert_sums, assert_sums_close, normal, with_methods};
    use super::*;

    /// [n, h, w, ci, co, k, stride, pad]
    const SHAPES: [[usize; 8]; 33] = [
        // The layers of cnn, of ResNets: first, inner, strided, projection.
        [2, 28, 28, 1, 32, 3, 1, 1],
        [2, 28, 28, 32, 32, 3, 1, 1],
        [2, 14, 14, 32, 64, 3, 1, 1],
        [2, 14, 14, 64, 64, 3, 1, 1],
        [2, 32, 32, 3, 16, 3, 1, 1],
        [2, 16, 16, 16, 48, 3, 2, 1],
        [2, 16, 16, 16, 32, 1, 2, 0],
        // Odd sizes and channels, all kernels, strides and pads.
        [1, 7, 9, 3, 10, 3, 1, 1],
        [3, 9, 7, 3, 16, 5, 2, 2],
        [1, 11, 10, 5, 7, 3, 3, 0],
        [2, 9, 9, 4, 33, 5, 3, 1],
        [2, 7, 9, 10, 33, 1, 1, 0],
        [2, 6, 5, 2, 3, 2, 1, 1],
        [1, 10, 9, 3, 10, 4, 2, 2],
        // A kernel that skips pixels, a pad wider than the kernel, a single output pixel.
        [1, 8, 8, 3, 4, 2, 3, 0],
        [1, 7, 7, 3, 5, 1, 1, 2],
        [1, 5, 6, 3, 5, 2, 2, 2],
        [1, 3, 3, 8, 8, 3, 1, 0],
        // Images smaller than the stride.
        [1, 1, 1, 40, 40, 3, 2, 1],
        [1, 2, 1, 40, 3, 1, 3, 0],
        // Images as jobs, without bands; bands because an image is large.
        [17, 5, 9, 3, 4, 3, 1, 1],
        [16, 40, 41, 80, 2, 3, 2, 1],
        // Batches of small images: the last stages of ResNets, then odd sizes, one channel, and more images than are
        // taken at once.
        [8, 8, 8, 40, 72, 3, 1, 1],
        [10, 8, 8, 20, 36, 3, 2, 1],
        [9, 4, 4, 33, 20, 1, 2, 0],
        [17, 2, 2, 40, 24, 3, 1, 1],
        [9, 1, 1, 40, 65, 3, 1, 1],
        [30, 1, 1, 70, 33, 1, 1, 0],
        [12, 5, 7, 3, 10, 4, 3, 2],
        [8, 7, 6, 1, 1, 5, 2, 3],
        [70, 3, 2, 5, 17, 2, 1, 1],
        [20, 30, 8, 3, 5, 3, 1, 0],
        [2, 6, 7, 9, 11, 3, 1, 2],
    ];

    fn shapes() -> impl Iterator<Item = ConvShape> {
        SHAPES.into_iter().map(|[n, h, w, ci, co, k, stride, pad]| ConvShape { n, h, w, ci, co, k, stride, pad })
    }

    /// The definition of convolution: every product of an element of x and one of w, and the element of y it is in.
    fn products(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
        for (n, row, col) in
            (0..s.n).flat_map(|n| (0..s.out_h()).flat_map(move |r| (0..s.out_w()).map(move |c| (n, r, c))))
        {
            for (i, j) in (0..s.k).flat_map(|i| (0..s.k).map(move |j| (i, j))) {
                let (y, x) = (row * s.stride + i, col * s.stride + j);
                if y < s.pad || y >= s.h + s.pad || x < s.pad || x >= s.w + s.pad {
                    continue;
                }
                let x = ((n * s.h + y - s.pad) * s.w + x - s.pad) * s.ci;
                let y = ((n * s.out_h() + row) * s.out_w() + col) * s.co;
                for o in 0..s.co {
                    for c in 0..s.ci {
                        f(x + c, ((o * s.k + i) * s.k + j) * s.ci + c, y + o);
                    }
                }
            }
        }
    }

    fn sums(s: &ConvShape, len: usize, mut f: impl FnMut(&mut [Sum], usize, usize, usize)) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); len];
        products(s, |x, w, y| f(&mut sums, x, w, y));
        sums
    }

    /// Runs and checks with each method of convolution: direct by the bound of each sum, Winograd's by a share of the largest.
    fn by_each_method(what: &str, run: impl Fn(&Workers) -> Vec<Vec<f32>>, expected: &[Sum], [f2, f4]: [f64; 2]) {
        for (method, name) in Method::ALL {
            let methods = Methods { forced: Some(method) };
            with_methods(methods, &format!("{what}, {name}"), &run, |what, got| match method {
                Method::Direct => assert_sums(what, &got[0], expected),
                Method::F2 => assert_sums_close(what, &got[0], expected, f2),
                Method::F4 => assert_sums_close(what, &got[0], expected, f4),
            });
        }
    }

    #[test]
    fn forward_is_the_definition_for_any_shape() {
        for s in shapes() {
            let (x, w) = (normal(1, s.x_len()), normal(2, s.weight_len()));
            let want = sums(&s, s.y_len(), |sums, i, j, o| sums[o].add(x[i], w[j]));
            let run = |workers: &Workers| {
                let mut y = vec![f32::NAN; s.y_len()];
                let mut work = vec![f32::NAN; forward_workspace(workers, &s)];
                forward(workers, &s, &x, &w, &mut y, None, &mut work);
                vec![y]
            };
            by_each_method(&format!("{s:?}"), run, &want, [1e-6, 4e-6]);
        }
    }

    #[test]
    fn backward_data_is_its_gradient_written_or_added() {
        for (s, add) in shapes().flat_map(|s| [(s, false), (s, true)]) {
            let (dy, w, before) = (normal(3, s.y_len()), normal(2, s.weight_len()), normal(4, s.x_len()));
            let mut want = sums(&s, s.x_len(), |sums, i, j, o| sums[i].add(dy[o], w[j]));
            if add {
                want.iter_mut().zip(&before).for_each(|(sum, b)| sum.add(*b, 1.0));
            }
            let run = |workers: &Workers| {
                let mut dx = if add { before.clone() } else { vec![f32::NAN; s.x_len()] };
                let mut work = vec![f32::NAN; backward_data_workspace(workers, &s)];
                backward_data(workers, &s, &dy, &w, &mut dx, add, &mut work);
                vec![dx]
            };
            by_each_method(&format!("{s:?} add {add}"), run, &want, [1e-6, 4e-6]);
        }
    }

    #[test]
    fn backward_weight_is_its_gradient() {
        for s in shapes() {
            let (x, dy) = (normal(1, s.x_len()), normal(3, s.y_len()));
            let want = sums(&s, s.weight_len(), |sums, i, j, o| sums[j].add(x[i], dy[o]));
            let run = |workers: &Workers| {
                let mut dw = vec![f32::NAN; s.weight_len()];
                let mut work = vec![f32::NAN; backward_weight_workspace(workers, &s)];
                backward_weight(workers, &s, &x, &dy, &mut dw, &mut work);
                vec![dw]
            };
            by_each_method(&format!("{s:?}"), run, &want, [4e-6, 1e-5]);
        }
    }

    #[test]
    fn partials_are_mean_and_m2_of_each_image_even_far_from_zero() {
        let pixels = |s: &ConvShape| s.out_h() * s.out_w();
        // Without a pad, as zeros at the border would spread the outputs that are to lie far from zero.
        let far = shapes().filter(|s| s.k <= s.h.min(s.w)).map(|s| (ConvShape { pad: 0, ..s }, 1000.0));
        for (s, shift) in shapes().map(|s| (s, 0.0)).chain(far) {
            let x: Vec<f32> = normal(1, s.x_len()).iter().map(|v| v + shift).collect();
            let w = normal(2, s.weight_len());
            let run = |workers: &Workers| {
                let (mut y, mut partials) = (vec![f32::NAN; s.y_len()], vec![f32::NAN; s.n * 2 * s.co]);
                let mut work = vec![f32::NAN; forward_workspace(workers, &s)];
                forward(workers, &s, &x, &w, &mut y, Some(&mut partials), &mut work);
                vec![y, partials]
            };
            with_methods(Methods::default(), &format!("{s:?} + {shift}"), run, |what, got| {
                for (image, c) in (0..s.n).flat_map(|i| (0..s.co).map(move |c| (i, c))) {
                    // Of the values as they are stored: their own rounding is no part of the promise.
                    let at = |p: usize| f64::from(got[0][(image * pixels(&s) + p) * s.co + c]);
                    let count = pixels(&s) as f64;
                    let mean = (0..pixels(&s)).map(at).sum::<f64>() / count;
                    let m2: f64 = (0..pixels(&s)).map(|p| (at(p) - mean).powi(2)).sum();
                    let got = [0, 1].map(|k| f64::from(got[1][(image * 2 + k) * s.co + c]));
                    let eps = f64::from(f32::EPSILON);
                    let mean_bound = eps * mean.abs() + 4.0 * eps * (m2 / count).sqrt();
                    assert!((got[0] - mean).abs() <= mean_bound, "{what}: mean {} is not {mean}", got[0]);
                    // A second term for what a mean that is stored as f32 cannot tell apart.
                    let m2_bound = 1e-5 * m2 + count * (eps * mean).powi(2);
                    assert!((got[1] - m2).abs() <= m2_bound, "{what}: M2 {} is not {m2}", got[1]);
                }
            });
        }
    }
}
