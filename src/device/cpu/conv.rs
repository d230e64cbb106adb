//! Convolution of `x [n, h, w, ci]` with `w [co, k, k, ci]` to `y [n, out_h, out_w, co]`: any k, stride and pad.
//!
//! [`super::method::Methods`] chooses the method. Values are stored as f32 or bf16; arithmetic is f32. Bits depend on the
//! shape, the method and `workers.isa`, never on the number of threads. The length of a work buffer is that of the function of
//! the same name with `_workspace`; its content is garbage before and after. Slices of any other length than the shape's panic.

pub use super::conv_weight::{backward_weight, backward_weight_workspace};

use super::Workers;
use super::method::{Method, Product};
use super::moments::image_moments;
use super::norm_backward::image_sums;
use super::pool::Parts;
use super::stored::Stored;
use super::sweep::{Addend, Sweep};
use super::winograd::Winograd;
use crate::ops::call::{ConvShape, NormShape};

/// y = conv(x, w), and the summand where there is one.
///
/// `partials` `[n, 2, co]` takes, for each image, mean and M2 (sum of squared differences from that mean) of each
/// output channel, of the values as stored.
#[allow(clippy::too_many_arguments)]
pub fn forward<T: Stored>(
    workers: &Workers,
    s: &ConvShape,
    x: &[T],
    w: &[T],
    summand: Option<&[T]>,
    y: &mut [T],
    partials: Option<&mut [f32]>,
    work: &mut [f32],
) {
    assert_eq!((x.len(), w.len(), y.len()), (s.x_len(), s.weight_len(), s.y_len()), "conv forward of {s:?}");
    let addend = summand.map_or(Addend::Nothing, Addend::Other);
    let moments = partials.map(Parts::new);
    let finish = moments.map(|moments| {
        move |image: usize, y: &[T]| {
            // SAFETY: one part for each image.
            let moments = unsafe { moments.part(image * 2 * s.co..(image + 1) * 2 * s.co) };
            image_moments(workers.isa, y, moments);
        }
    });
    let finish = finish.as_ref().map(|f| f as _);
    match workers.methods.choose(s, Product::Forward, T::ELEMENT) {
        Method::Direct => Sweep::forward(s).run(workers, x, w, y, addend, finish, work),
        method => Winograd::forward(s, method).run(workers, x, w, y, addend, finish, work),
    }
}

/// A batch-norm whose backward sums are taken of a convolution's complete dx while it is in cache.
pub struct NormSums<'a, T> {
    pub shape: &'a NormShape,
    /// The batch-norm's input.
    pub x: &'a [T],
    /// Its statistics, weight and bias.
    pub params: [&'a [f32]; 3],
    /// `[n, 2, ci]`: of each image, for dweight and for dbias.
    pub partials: &'a mut [f32],
}

/// dx = the gradient of conv(x, w) with respect to x, given dy; added to what `dx` holds where `add`.
#[allow(clippy::too_many_arguments)]
pub fn backward_data<T: Stored>(
    workers: &Workers,
    s: &ConvShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    add: bool,
    norm: Option<NormSums<'_, T>>,
    work: &mut [f32],
) {
    assert_eq!((dy.len(), w.len(), dx.len()), (s.y_len(), s.weight_len(), s.x_len()), "conv backward data of {s:?}");
    let addend = if add { Addend::Old } else { Addend::Nothing };
    let finish = norm.map(|norm| {
        let NormSums { shape, x, params, partials } = norm;
        let (partials, len) = (Parts::new(partials), shape.x_image());
        move |image: usize, dx: &[T]| {
            // SAFETY: one part for each image.
            let partial = unsafe { partials.part(image * 2 * s.ci..(image + 1) * 2 * s.ci) };
            image_sums(workers.isa, shape, &x[image * len..(image + 1) * len], params, dx, partial);
        }
    });
    let finish = finish.as_ref().map(|f| f as _);
    match workers.methods.choose(s, Product::BackwardData, T::ELEMENT) {
        Method::Direct => Sweep::backward(s).run(workers, dy, w, dx, addend, finish, work),
        method => Winograd::backward(s, method).run(workers, dy, w, dx, addend, finish, work),
    }
}

/// Elements of work that [`forward`] needs.
pub fn forward_workspace<T: Stored>(workers: &Workers, s: &ConvShape) -> usize {
    match workers.methods.choose(s, Product::Forward, T::ELEMENT) {
        Method::Direct => Sweep::forward(s).workspace::<T>(workers),
        method => Winograd::forward(s, method).workspace(workers),
    }
}

/// Elements of work that [`backward_data`] needs.
pub fn backward_data_workspace<T: Stored>(workers: &Workers, s: &ConvShape) -> usize {
    match workers.methods.choose(s, Product::BackwardData, T::ELEMENT) {
        Method::Direct => Sweep::backward(s).workspace::<T>(workers),
        method => Winograd::backward(s, method).workspace(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::super::method::Methods;
    use super::super::simd::Isa;
    use super::super::testing::{Sum, assert_sums, assert_sums_close, normal, with_methods};
    use super::*;
    use crate::dtype::Element;
    use half::bf16;

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
                let mut work = vec![f32::NAN; forward_workspace::<f32>(workers, &s)];
                forward(workers, &s, &x, &w, None, &mut y, None, &mut work);
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
                let mut work = vec![f32::NAN; backward_data_workspace::<f32>(workers, &s)];
                backward_data(workers, &s, &dy, &w, &mut dx, add, None, &mut work);
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
                let mut work = vec![f32::NAN; backward_weight_workspace::<f32>(workers, &s)];
                backward_weight(workers, &s, &x, &dy, &mut dw, &mut work);
                vec![dw]
            };
            by_each_method(&format!("{s:?}"), run, &want, [4e-6, 1e-5]);
        }
    }

    /// All three products, the sum with another value and with what is there: the f32 results, rounded where they are stored.
    #[test]
    fn what_is_stored_as_bf16_is_the_f32_result_rounded() {
        fn products<T: Stored>(workers: &Workers, s: &ConvShape, values: [&[f32]; 5]) -> [Vec<f32>; 4] {
            let [x, w, dy, summand, before] = values.map(|v| v.iter().map(|v| T::round(*v)).collect::<Vec<T>>());
            let most = forward_workspace::<T>(workers, s).max(backward_data_workspace::<T>(workers, s));
            let mut work = vec![f32::NAN; most.max(backward_weight_workspace::<T>(workers, s))];
            let (mut y, mut sum) = (vec![T::round(f32::NAN); s.y_len()], vec![T::round(f32::NAN); s.y_len()]);
            forward(workers, s, &x, &w, None, &mut y, None, &mut work);
            forward(workers, s, &x, &w, Some(&summand), &mut sum, None, &mut work);
            let mut dx = before;
            backward_data(workers, s, &dy, &w, &mut dx, true, None, &mut work);
            let mut dw = vec![f32::NAN; s.weight_len()];
            backward_weight(workers, s, &x, &dy, &mut dw, &mut work);
            let wide = |v: Vec<T>| v.into_iter().map(T::widen).collect();
            [wide(y), wide(sum), wide(dx), dw]
        }
        let rounded =
            |seed, len| -> Vec<f32> { normal(seed, len).into_iter().map(|v| Element::Bf16.round(v)).collect() };
        for s in shapes() {
            let (x, w, dy) = (rounded(1, s.x_len()), rounded(2, s.weight_len()), rounded(3, s.y_len()));
            let (summand, before) = (rounded(5, s.y_len()), rounded(4, s.x_len()));
            for (isa, method) in Isa::available().flat_map(|isa| Method::ALL.map(|m| (isa, m.0))) {
                let workers = Workers { methods: Methods { forced: Some(method) }, ..Workers::new(2, isa) };
                let values = [&x[..], &w, &dy, &summand, &before];
                let wide = products::<f32>(&workers, &s, values);
                let low = products::<bf16>(&workers, &s, values);
                for (i, (wide, low)) in wide.iter().zip(&low).enumerate() {
                    let stored = |v: &f32| if i == 3 { *v } else { Element::Bf16.round(*v) };
                    assert!(wide.iter().map(stored).eq(low.iter().copied()), "{s:?}, {isa:?}, {method:?}, product {i}");
                }
            }
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
                let mut work = vec![f32::NAN; forward_workspace::<f32>(workers, &s)];
                forward(workers, &s, &x, &w, None, &mut y, Some(&mut partials), &mut work);
                vec![y, partials]
            };
            with_methods(Methods::default(), &format!("{s:?} + {shift}"), run, |what, got| {
                for (image, c) in (0..s.n).flat_map(|i| (0..s.co).map(move |c| (i, c))) {
                    // Compares the values as stored, because their own rounding is no part of the promise.
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
