//! The parameter-free shortcut of residual networks: every stride-th pixel of the shifted image, between channels of zeros.

use super::Workers;
use super::pointwise::put;
use super::split::{images_a_job, split};
use super::stored::Stored;
use crate::ops::call::ShortcutShape;

/// Returns the offset in its image of the pixel of x that output pixel `out` copies; None beyond the border.
fn source(s: &ShortcutShape, out: usize) -> Option<usize> {
    let row = (out / s.out_w() * s.stride).checked_sub(s.shift)?;
    let column = (out % s.out_w() * s.stride).checked_sub(s.shift)?;
    Some((row * s.w + column) * s.c)
}

/// y `[n, out_h, out_w, before + c + after]` = every stride-th pixel of the shifted x `[n, h, w, c]`, zeros in the other
/// channels.
pub fn pad_shortcut<T: Stored>(workers: &Workers, s: &ShortcutShape, x: &[T], y: &mut [T]) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(y_image);
    split(workers, [(y, images * y_image)], |job, [y]| {
        let x = x[job * images * x_image..].chunks_exact(x_image);
        for (x, y) in x.zip(y.chunks_exact_mut(y_image)) {
            for (out, y) in y.chunks_exact_mut(s.out_c()).enumerate() {
                y.fill(T::round(0.0));
                if let Some(from) = source(s, out) {
                    y[s.before..][..s.c].copy_from_slice(&x[from..][..s.c]);
                }
            }
        }
    });
}

/// dx `[n, h, w, c]` = (or +=) dy `[n, out_h, out_w, before + c + after]` at the pixels that were copied, 0 at the others.
pub fn pad_shortcut_backward<T: Stored>(workers: &Workers, s: &ShortcutShape, add: bool, dy: &[T], dx: &mut [T]) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(x_image);
    split(workers, [(dx, images * x_image)], |job, [dx]| {
        if !add {
            dx.fill(T::round(0.0));
        }
        let dy = dy[job * images * y_image..].chunks_exact(y_image);
        for (dx, dy) in dx.chunks_exact_mut(x_image).zip(dy) {
            for (out, dy) in dy.chunks_exact(s.out_c()).enumerate() {
                if let Some(from) = source(s, out) {
                    put(add, &dy[s.before..][..s.c], &mut dx[from..][..s.c]);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn pixels_and_channels_go_where_they_belong_and_gradients_come_back() {
        // 3x2 pixels of 2 channels, every second one, with 1 channel of zeros before and 2 after.
        let s = ShortcutShape { n: 2, h: 3, w: 2, c: 2, stride: 2, shift: 0, before: 1, after: 2 };
        let x: Vec<f32> = (1..=24).map(|v| v as f32).collect();
        let y = same_for_all(|workers| {
            let mut y = poisoned(20);
            pad_shortcut(workers, &s, &x, &mut y);
            y
        });
        let pixel = |a: f32| [0.0, a, a + 1.0, 0.0, 0.0];
        assert_eq!(y, [pixel(1.0), pixel(9.0), pixel(13.0), pixel(21.0)].concat());
        for (add, before) in [(false, f32::NAN), (true, 100.0)] {
            let dx = same_for_all(|workers| {
                let mut dx = vec![before; 24];
                pad_shortcut_backward(workers, &s, add, &y, &mut dx);
                dx
            });
            let old = if add { before } else { 0.0 };
            // The first and the fifth pixel of each image were copied.
            let copied = |i: usize| matches!(i % 12 / 2, 0 | 4);
            let expected: Vec<f32> = (0..24).map(|i| old + if copied(i) { x[i] } else { 0.0 }).collect();
            assert_eq!(dx, expected, "add {add}");
        }
    }

    #[test]
    fn a_shift_brings_zeros_in_at_the_top_and_left_and_takes_other_pixels() {
        // 4x4 pixels of 1 channel, every second one of the image moved by one: rows and columns -1 and 1.
        let s = ShortcutShape { n: 1, h: 4, w: 4, c: 1, stride: 2, shift: 1, before: 0, after: 0 };
        let x: Vec<f32> = (1..=16).map(|v| v as f32).collect();
        let y = same_for_all(|workers| {
            let mut y = poisoned(4);
            pad_shortcut(workers, &s, &x, &mut y);
            y
        });
        assert_eq!(y, [0.0, 0.0, 0.0, 6.0]);
        let dx = same_for_all(|workers| {
            let mut dx = poisoned(16);
            pad_shortcut_backward(workers, &s, false, &[1.0, 2.0, 3.0, 4.0], &mut dx);
            dx
        });
        assert_eq!(dx, std::array::from_fn::<f32, 16, _>(|i| if i == 5 { 4.0 } else { 0.0 }));
    }

    #[test]
    fn many_images_are_shared_out_whole() {
        let s = ShortcutShape { n: 40, h: 8, w: 7, c: 16, stride: 2, shift: 0, before: 8, after: 8 };
        let x = normal(1, s.n * s.x_image());
        let y = same_for_all(|workers| {
            let mut y = poisoned(s.n * s.y_image());
            pad_shortcut(workers, &s, &x, &mut y);
            y
        });
        for (x, y) in x.chunks(s.x_image()).zip(y.chunks(s.y_image())) {
            // The last output pixel copies row 6, column 6.
            assert_eq!(y[15 * 32 + 8..][..16], x[(6 * 7 + 6) * 16..][..16]);
        }
    }
}
