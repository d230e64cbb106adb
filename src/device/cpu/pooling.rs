//! Max and average pooling over windows, which may overlap; those of a max pool may reach into padding and are clipped.

use super::Workers;
use super::norm_stats::WIDTH;
use super::pointwise::put;
use super::simd::per_isa;
use super::split::{images_a_job, split};
use super::stored::Stored;
use crate::ops::call::PoolShape;

/// y `[n, out_h, out_w, c]` = the largest value of each window of x `[n, h, w, c]`; NaN if the window holds one.
pub fn max_pool<T: Stored>(workers: &Workers, s: &PoolShape, x: &[T], y: &mut [T]) {
    forward(workers, s, y, |images, y| max_images(workers.isa, s, &x[images], y));
}

/// y `[n, out_h, out_w, c]` = the mean of each window of x `[n, h, w, c]`.
pub fn avg_pool<T: Stored>(workers: &Workers, s: &PoolShape, x: &[T], y: &mut [T]) {
    forward(workers, s, y, |images, y| average_images(workers.isa, s, &x[images], y));
}

/// Runs `f` on the elements of x and the part of y of each job.
fn forward<T: Stored>(
    workers: &Workers,
    s: &PoolShape,
    y: &mut [T],
    f: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync,
) {
    let (x_image, y_image) = (s.h * s.w * s.c, s.out_h() * s.out_w() * s.c);
    let images = images_a_job(x_image);
    split(workers, [(y, images * y_image)], |job, [y]| {
        let start = job * images * x_image;
        f(start..start + y.len() / y_image * x_image, y);
    });
}

/// The part of one output's window that lies in the image.
#[derive(Clone, Copy)]
struct Window {
    row: usize,
    column: usize,
    w: usize,
    /// Pixels, at least one.
    area: usize,
}

impl Window {
    /// The window of output pixel `out`.
    #[inline(always)]
    fn of(s: &PoolShape, out: usize) -> Window {
        let clip = |at: usize, window: usize, side: usize| {
            let start = (at * s.stride).saturating_sub(s.pad);
            (start, (at * s.stride + window - s.pad).min(side) - start)
        };
        let (row, h) = clip(out / s.out_w(), s.window_h, s.h);
        let (column, w) = clip(out % s.out_w(), s.window_w, s.w);
        Window { row, column, w, area: h * w }
    }

    /// Returns the offset in its image of the `at`-th pixel, in row order.
    #[inline(always)]
    fn place(&self, s: &PoolShape, at: usize) -> usize {
        ((self.row + at / self.w) * s.w + self.column + at % self.w) * s.c
    }
}

per_isa! { fn max_images<T: Stored>(s: &PoolShape, x: &[T], y: &mut [T]) = max_body; }

#[inline(always)]
fn max_body<T: Stored>(s: &PoolShape, x: &[T], y: &mut [T]) {
    for (x, y) in x.chunks_exact(s.h * s.w * s.c).zip(y.chunks_exact_mut(s.out_h() * s.out_w() * s.c)) {
        for (out, y) in y.chunks_exact_mut(s.c).enumerate() {
            let window = Window::of(s, out);
            y.copy_from_slice(&x[window.place(s, 0)..][..s.c]);
            for at in 1..window.area {
                for (y, x) in y.iter_mut().zip(&x[window.place(s, at)..][..s.c]) {
                    let wins = (x.widen() > y.widen()) | x.widen().is_nan();
                    *y = if wins { *x } else { *y };
                }
            }
        }
    }
}

per_isa! { fn average_images<T: Stored>(s: &PoolShape, x: &[T], y: &mut [T]) = average_body; }

#[inline(always)]
fn average_body<T: Stored>(s: &PoolShape, x: &[T], y: &mut [T]) {
    let share = 1.0 / (s.area()) as f32;
    for (x, y) in x.chunks_exact(s.h * s.w * s.c).zip(y.chunks_exact_mut(s.out_h() * s.out_w() * s.c)) {
        for (out, y) in y.chunks_exact_mut(s.c).enumerate() {
            let window = Window::of(s, out);
            for (first, y) in (0..s.c).step_by(WIDTH).zip(y.chunks_mut(WIDTH)) {
                let mut sum = [0f32; WIDTH];
                for at in 0..window.area {
                    put(at > 0, &x[window.place(s, at) + first..][..y.len()], &mut sum);
                }
                for (y, sum) in y.iter_mut().zip(sum) {
                    *y = T::round(sum * share);
                }
            }
        }
    }
}

/// Returns true if a pixel may be in several windows: the backward kernels then add to dx once for each.
pub fn overlaps(s: &PoolShape) -> bool {
    s.stride < s.window_h.max(s.window_w)
}

/// dx `[n, h, w, c]` = (or +=) each dy `[n, out_h, out_w, c]` at the first largest x of its window, in row order.
pub fn max_pool_backward<T: Stored>(workers: &Workers, s: &PoolShape, add: bool, x: &[T], dy: &[T], dx: &mut [T]) {
    backward(workers, s, add, dy, dx, |start, dy, dx| {
        max_backward(workers.isa, s, &x[start..start + dx.len()], dy, dx);
    });
}

/// dx `[n, h, w, c]` = (or +=) each dy `[n, out_h, out_w, c]` spread evenly over its window.
pub fn avg_pool_backward<T: Stored>(workers: &Workers, s: &PoolShape, add: bool, dy: &[T], dx: &mut [T]) {
    backward(workers, s, add, dy, dx, |_, dy, dx| average_backward(workers.isa, s, dy, dx));
}

/// Runs `f(start, dy, dx)` on each job's images, `start` being their first element in x; dx is 0 before unless `add`,
/// because windows may overlap or leave pixels out.
fn backward<T: Stored>(
    workers: &Workers,
    s: &PoolShape,
    add: bool,
    dy: &[T],
    dx: &mut [T],
    f: impl Fn(usize, &[T], &mut [T]) + Sync,
) {
    let (x_image, y_image) = (s.h * s.w * s.c, s.out_h() * s.out_w() * s.c);
    let images = images_a_job(x_image);
    split(workers, [(dx, images * x_image)], |job, [dx]| {
        let first = job * images;
        let dy = &dy[first * y_image..][..dx.len() / x_image * y_image];
        if !add {
            dx.fill(T::round(0.0));
        }
        f(first * x_image, dy, dx);
    });
}

per_isa! { fn max_backward<T: Stored>(s: &PoolShape, x: &[T], dy: &[T], dx: &mut [T]) = max_backward_body; }

#[inline(always)]
fn max_backward_body<T: Stored>(s: &PoolShape, x: &[T], dy: &[T], dx: &mut [T]) {
    let (x_image, y_image) = (s.h * s.w * s.c, s.out_h() * s.out_w() * s.c);
    let images = x.chunks_exact(x_image).zip(dy.chunks_exact(y_image)).zip(dx.chunks_exact_mut(x_image));
    for ((x, dy), dx) in images {
        for (out, dy) in dy.chunks_exact(s.c).enumerate() {
            let window = Window::of(s, out);
            for (first, dy) in (0..s.c).step_by(WIDTH).zip(dy.chunks(WIDTH)) {
                let pixel = |at: usize| {
                    let start = window.place(s, at) + first;
                    start..start + dy.len()
                };
                let (mut best, mut winner) = ([0f32; WIDTH], [0u32; WIDTH]);
                put(false, &x[pixel(0)], &mut best);
                for at in 1..window.area {
                    for ((x, best), winner) in x[pixel(at)].iter().zip(&mut best).zip(&mut winner) {
                        let x = x.widen();
                        let wins = (x > *best) | x.is_nan();
                        *best = if wins { x } else { *best };
                        *winner = if wins { at as u32 } else { *winner };
                    }
                }
                for at in 0..window.area {
                    for ((dx, dy), winner) in dx[pixel(at)].iter_mut().zip(dy).zip(&winner) {
                        let d = dy.widen();
                        *dx = T::round(dx.widen() + if *winner == at as u32 { d } else { 0.0 });
                    }
                }
            }
        }
    }
}

per_isa! { fn average_backward<T: Stored>(s: &PoolShape, dy: &[T], dx: &mut [T]) = average_backward_body; }

#[inline(always)]
fn average_backward_body<T: Stored>(s: &PoolShape, dy: &[T], dx: &mut [T]) {
    let share = 1.0 / (s.area()) as f32;
    for (dy, dx) in dy.chunks_exact(s.out_h() * s.out_w() * s.c).zip(dx.chunks_exact_mut(s.h * s.w * s.c)) {
        for (out, dy) in dy.chunks_exact(s.c).enumerate() {
            let window = Window::of(s, out);
            for at in 0..window.area {
                for (dx, dy) in dx[window.place(s, at)..][..s.c].iter_mut().zip(dy) {
                    *dx = T::round(dx.widen() + share * dy.widen());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Windows that tile the image, leave a border out, overlap, leave gaps, and cover it all.
    fn shapes() -> Vec<PoolShape> {
        let shape =
            |n, h, w, c, window, stride| PoolShape { n, h, w, c, window_h: window, window_w: window, stride, pad: 0 };
        vec![
            shape(2, 6, 4, 3, 2, 2),
            shape(3, 7, 9, 10, 2, 2),
            shape(2, 7, 9, 33, 3, 2),
            shape(2, 5, 6, 70, 1, 2),
            shape(3, 8, 8, 64, 8, 8),
            shape(20, 14, 14, 16, 2, 2),
        ]
    }

    /// Windows that are clipped at one border, at two, and on both sides at once.
    fn padded_shapes() -> Vec<PoolShape> {
        let shape =
            |n, h, w, c, window, stride, pad| PoolShape { n, h, w, c, window_h: window, window_w: window, stride, pad };
        vec![
            shape(2, 16, 16, 64, 3, 2, 1),
            shape(3, 7, 9, 10, 3, 2, 1),
            shape(2, 6, 5, 33, 4, 3, 2),
            shape(2, 2, 1, 7, 3, 1, 1),
        ]
    }

    /// Windows of every output element, as values in row order.
    fn naive(s: &PoolShape, x: &[f64], reduce: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let mut y = Vec::new();
        for (image, row, column) in
            (0..s.n).flat_map(|i| (0..s.out_h()).flat_map(move |r| (0..s.out_w()).map(move |q| (i, r, q))))
        {
            for k in 0..s.c {
                let mut window = Vec::new();
                for r in row * s.stride..row * s.stride + s.window_h {
                    for q in column * s.stride..column * s.stride + s.window_w {
                        if (s.pad..s.pad + s.h).contains(&r) && (s.pad..s.pad + s.w).contains(&q) {
                            window.push(x[((image * s.h + r - s.pad) * s.w + q - s.pad) * s.c + k]);
                        }
                    }
                }
                y.push(reduce(&window));
            }
        }
        y
    }

    fn largest(window: &[f64]) -> f64 {
        window.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn mean(window: &[f64]) -> f64 {
        window.iter().sum::<f64>() / window.len() as f64
    }

    type Forward<'a> = &'a dyn Fn(&Workers, &mut [f32]);
    type Backward<'a> = &'a dyn Fn(&Workers, bool, &mut [f32]);

    fn check(s: &PoolShape, x: &[f32], dy: &[f32], reduce: fn(&[f64]) -> f64, y: Forward, backward: Backward) {
        let x64 = wide(x);
        let got = same_for_all(|workers| {
            let mut out = poisoned(s.y_len());
            y(workers, &mut out);
            out
        });
        assert_close(&format!("{s:?}"), &got, &naive(s, &x64, reduce), 1e-6);

        let at: Vec<usize> = (0..x.len()).step_by(1 + x.len() / 90).collect();
        let dy64 = wide(dy);
        let loss = |x: &[f64]| -> f64 { naive(s, x, reduce).iter().zip(&dy64).map(|(y, d)| y * d).sum() };
        let expected = differences(&x64, &at, loss);
        for add in [false, true] {
            let before = if add { normal(3, x.len()) } else { poisoned(x.len()) };
            let dx = same_for_all(|workers| {
                let mut dx = before.clone();
                backward(workers, add, &mut dx);
                dx
            });
            assert!(dx.iter().all(|v| v.is_finite()), "{s:?}");
            let got: Vec<f32> = at.iter().map(|&i| if add { dx[i] - before[i] } else { dx[i] }).collect();
            assert_close(&format!("{s:?}, add {add}"), &got, &expected, 2e-6);
        }
    }

    #[test]
    fn pools_are_their_definitions_and_backwards_their_derivatives() {
        for s in shapes().into_iter().chain(padded_shapes()) {
            let (x, dy) = (normal(1, s.x_len()), normal(2, s.y_len()));
            check(&s, &x, &dy, largest, &|w, y| max_pool(w, &s, &x, y), &|w, add, dx| {
                max_pool_backward(w, &s, add, &x, &dy, dx)
            });
            if s.pad > 0 {
                continue;
            }
            check(&s, &x, &dy, mean, &|w, y| avg_pool(w, &s, &x, y), &|w, add, dx| {
                avg_pool_backward(w, &s, add, &dy, dx)
            });
        }
    }

    #[test]
    fn of_equal_values_the_first_in_row_order_gets_the_gradient() {
        let s = PoolShape { n: 1, h: 2, w: 3, c: 1, window_h: 2, window_w: 2, stride: 1, pad: 0 };
        for workers in all_workers() {
            let mut dx = [f32::NAN; 6];
            max_pool_backward(&workers, &s, false, &[1.0, 4.0, 4.0, 4.0, 2.0, 4.0], &[10.0, 1.0], &mut dx);
            assert_eq!(dx, [0.0, 11.0, 0.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn a_nan_anywhere_in_the_window_comes_out() {
        let s = PoolShape { n: 1, h: 2, w: 2, c: 1, window_h: 2, window_w: 2, stride: 2, pad: 0 };
        for at in 0..4 {
            let mut x = [1.0, 2.0, 3.0, 4.0];
            x[at] = f32::NAN;
            for workers in all_workers() {
                let mut y = [0.0];
                max_pool(&workers, &s, &x, &mut y);
                assert!(y[0].is_nan(), "NaN at {at}");
            }
        }
    }
}
