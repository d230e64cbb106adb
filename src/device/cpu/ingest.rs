//! From bytes and an order of samples to a batch: augmented, normalised, channels last.

use super::Workers;
use super::pool::Parts;
use super::split::{images_a_job, split};
use super::stored::Stored;
use crate::ops::call::{Augment, Counters, Ingest};
use crate::rng;

/// Stream of the draws of crop, flip and cutout.
const STREAM: u32 = rng::stream("ingest");

/// Writes x `[n, h, w, c]`, targets `[n, classes]` (one-hot) and weights `[n]` from `images` `[count, c, h, w]` and
/// `labels` `[count]`.
///
/// Row i is the sample at position `first + offset + i` of `order`. Rows past the last real one repeat it with weight 0.
///
/// # Panics
/// If `order` is shorter than the batch needs, or names an image or a class that is not there.
#[allow(clippy::too_many_arguments)]
pub fn ingest<T: Stored>(
    workers: &Workers,
    spec: &Ingest,
    images: &[u8],
    labels: &[u8],
    order: &[u32],
    counters: &Counters,
    x: &mut [T],
    targets: &mut [f32],
    weights: &mut [f32],
) {
    let image = spec.c * spec.h * spec.w;
    let tables = tables(spec);
    let rows = images_a_job(image);
    split(workers, [(x, rows * image)], |job, [x]| {
        for (i, x) in x.chunks_exact_mut(image).enumerate() {
            let row = Row::of(spec, counters, job * rows + i);
            show(spec, images, counters, order[row.own], &tables, x);
        }
    });
    split(workers, [(targets, rows * spec.classes), (weights, rows)], |job, [targets, weights]| {
        for (i, (target, weight)) in targets.chunks_exact_mut(spec.classes).zip(weights).enumerate() {
            let row = Row::of(spec, counters, job * rows + i);
            target.fill(0.0);
            target[usize::from(labels[order[row.own] as usize])] = 1.0;
            *weight = row.weight;
        }
    });
}

/// Cells of scratch that [`ingest_mixed`] needs: two images a thread.
pub fn mixed_workspace(workers: &Workers, spec: &Ingest) -> usize {
    2 * spec.c * spec.h * spec.w * workers.pool.threads()
}

/// Reads images with mixup: mixes row i and its target, with weight `share`, and row rows - 1 - i of the whole batch, with
/// weight 1 - `share`. Both images are augmented, each by its own draws.
///
/// # Panics
/// As for [`ingest`], and if `work` is shorter than [`mixed_workspace`].
#[allow(clippy::too_many_arguments)]
pub fn ingest_mixed<T: Stored>(
    workers: &Workers,
    spec: &Ingest,
    images: &[u8],
    labels: &[u8],
    order: &[u32],
    counters: &Counters,
    share: f32,
    x: &mut [T],
    targets: &mut [f32],
    weights: &mut [f32],
    work: &mut [f32],
) {
    let image = spec.c * spec.h * spec.w;
    let tables = tables::<f32>(spec);
    let rows = images_a_job(image);
    let rest = 1.0 - share;
    let len = x.len();
    let (x, work) = (Parts::new(x), Parts::new(work));
    workers.pool.run(len.div_ceil(rows * image), |job, thread| {
        let start = job * rows * image;
        // SAFETY: the jobs' ranges follow one another without overlap, and each job runs once; a thread has one job at a time,
        // and scratch of its own.
        let (x, scratch) = unsafe {
            (x.part(start..(start + rows * image).min(len)), work.part(2 * thread * image..2 * (thread + 1) * image))
        };
        let (own, other) = scratch.split_at_mut(image);
        for (i, x) in x.chunks_exact_mut(image).enumerate() {
            let row = Row::of(spec, counters, job * rows + i);
            show(spec, images, counters, order[row.own], &tables, own);
            show(spec, images, counters, order[row.partner], &tables, other);
            for ((x, own), other) in x.iter_mut().zip(&*own).zip(&*other) {
                *x = T::round(share * own + rest * other);
            }
        }
    });
    split(workers, [(targets, rows * spec.classes), (weights, rows)], |job, [targets, weights]| {
        for (i, (target, weight)) in targets.chunks_exact_mut(spec.classes).zip(weights).enumerate() {
            let row = Row::of(spec, counters, job * rows + i);
            target.fill(0.0);
            target[usize::from(labels[order[row.own] as usize])] += share;
            target[usize::from(labels[order[row.partner] as usize])] += rest;
            *weight = row.weight;
        }
    });
}

/// Positions in the order of the image of one row, and of the one that mixup mixes it with; its weight.
struct Row {
    own: usize,
    partner: usize,
    weight: f32,
}

impl Row {
    /// Returns row `i` of the call.
    fn of(spec: &Ingest, counters: &Counters, i: usize) -> Row {
        let (row, first) = (spec.offset + i, counters.first as usize);
        let last = (counters.rows as usize).saturating_sub(1);
        let own = row.min(last);
        Row { own: first + own, partner: first + last - own, weight: f32::from(u8::from(row < counters.rows as usize)) }
    }
}

/// Writes one image, augmented, to x `[h, w, c]`.
fn show<T: Stored>(
    spec: &Ingest,
    images: &[u8],
    counters: &Counters,
    sample: u32,
    tables: &[[T; 256]; 4],
    x: &mut [T],
) {
    let crop = Crop::draw(&spec.augment, counters, sample);
    let bytes = &images[sample as usize * x.len()..][..x.len()];
    for (channel, (plane, table)) in bytes.chunks_exact(spec.h * spec.w).zip(tables).enumerate() {
        crop.read(spec, plane, table, channel, x);
    }
    crop.cut(spec, x);
}

/// The normalised value of each byte, by channel, as it is stored.
fn tables<T: Stored>(spec: &Ingest) -> [[T; 256]; 4] {
    assert!(spec.c <= 4, "ingest of {} channels; at most 4 are possible", spec.c);
    let mut tables = [[T::round(0.0); 256]; 4];
    for (table, (mean, std)) in tables.iter_mut().zip(spec.mean.iter().zip(&spec.std)).take(spec.c) {
        for (byte, value) in table.iter_mut().enumerate() {
            *value = T::round((byte as f32 / 255.0 - mean) / std);
        }
    }
    tables
}

/// The part of the padded image that is taken, its mirroring, and the square cut out of it then.
struct Crop {
    pad: usize,
    reflect: bool,
    /// Corner of the part within the padded image, 0 to 2 * pad.
    dx: usize,
    dy: usize,
    flip: bool,
    /// Side of the square that is cut out, and a word whose halves place its centre.
    cutout: usize,
    centre: u32,
}

impl Crop {
    fn draw(augment: &Augment, counters: &Counters, sample: u32) -> Crop {
        let [dx, dy, flip, centre] = rng::draw(counters.seed, STREAM, counters.epoch, sample, 0);
        let positions = 2 * augment.crop as u32 + 1;
        Crop {
            pad: augment.crop,
            reflect: augment.reflect,
            dx: rng::below(dx, positions) as usize,
            dy: rng::below(dy, positions) as usize,
            flip: augment.flip && flip >> 31 == 1,
            cutout: augment.cutout,
            centre,
        }
    }

    /// Sets the square, as far as it lies in x `[h, w, c]`, to zero.
    fn cut<T: Stored>(&self, spec: &Ingest, x: &mut [T]) {
        // Rows by the lower half of the word, columns by the upper one.
        let span = |half: u32, len: usize| {
            let centre = rng::below(half << 16, len as u32) as usize;
            let end = (centre + self.cutout - self.cutout / 2).min(len);
            centre.saturating_sub(self.cutout / 2)..end
        };
        let (rows, columns) = (span(self.centre, spec.h), span(self.centre >> 16, spec.w));
        for row in x.chunks_exact_mut(spec.w * spec.c).skip(rows.start).take(rows.len()) {
            row[columns.start * spec.c..columns.end * spec.c].fill(T::round(0.0));
        }
    }

    /// Writes one channel of x `[h, w, c]` from a plane `[h, w]` of bytes.
    fn read<T: Stored>(&self, spec: &Ingest, plane: &[u8], table: &[T; 256], channel: usize, x: &mut [T]) {
        let zero = T::round(0.0);
        let (h, w) = (spec.h, spec.w);
        for (row, x) in x.chunks_exact_mut(w * spec.c).enumerate() {
            let bytes = self.source(row + self.dy, h).map(|r| &plane[r * w..][..w]);
            let mut put = |column: usize, value: T| {
                let column = if self.flip { w - 1 - column } else { column };
                x[column * spec.c + channel] = value;
            };
            let Some(bytes) = bytes else {
                (0..w).for_each(|column| put(column, zero));
                continue;
            };
            // Columns within the image are one run of bytes; those in the padding are looked up one by one.
            let inside = self.pad.saturating_sub(self.dx).min(w)..(w + self.pad).saturating_sub(self.dx).min(w);
            for column in (0..inside.start).chain(inside.end..w) {
                put(column, self.source(column + self.dx, w).map_or(zero, |s| table[usize::from(bytes[s])]));
            }
            for (column, byte) in inside.zip(&bytes[self.dx.saturating_sub(self.pad).min(w)..]) {
                put(column, table[usize::from(*byte)]);
            }
        }
    }

    /// The row (or column) of the image, of `len`, that lies at `place` of the padded one; none where it is zero there.
    fn source(&self, place: usize, len: usize) -> Option<usize> {
        match place.checked_sub(self.pad) {
            Some(inside) if inside < len => Some(inside),
            _ if !self.reflect => None,
            Some(behind) => Some(2 * (len - 1) - behind),
            None => Some(self.pad - place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    const SAMPLES: usize = 50;

    fn spec(n: usize, c: usize, augment: Augment) -> Ingest {
        let (mean, std) = ([0.2, 0.4, 0.6, 0.0], [0.5, 0.25, 1.5, 1.0]);
        Ingest { n, h: 7, w: 9, c, classes: 5, offset: 0, mean, std, augment }
    }

    fn dataset(spec: &Ingest) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
        let len = SAMPLES * spec.c * spec.h * spec.w;
        let images = (0..len).map(|i| (rng::philox([i as u32, 0, 0, 0], [1, 2])[0] >> 24) as u8).collect();
        let labels = (0..SAMPLES).map(|i| (i * i % spec.classes) as u8).collect();
        (images, labels, rng::permutation(3, 0, SAMPLES))
    }

    /// x, targets and weights of a batch, one after the other.
    fn run(spec: &Ingest, counters: &Counters) -> [Vec<f32>; 3] {
        let (images, labels, order) = dataset(spec);
        let (x_len, t_len) = (spec.n * spec.h * spec.w * spec.c, spec.n * spec.classes);
        let all = same_for_all(|workers| {
            let (mut x, mut t, mut w) = (poisoned(x_len), poisoned(t_len), poisoned(spec.n));
            ingest(workers, spec, &images, &labels, &order, counters, &mut x, &mut t, &mut w);
            [x, t, w].concat()
        });
        [all[..x_len].to_vec(), all[x_len..x_len + t_len].to_vec(), all[x_len + t_len..].to_vec()]
    }

    /// Pads the whole image, cuts, mirrors: step by step, pixel by pixel.
    fn naive_pixel(spec: &Ingest, plane: &[u8], words: [u32; 4], channel: usize, row: usize, column: usize) -> f32 {
        let crop = spec.augment.crop as i64;
        let (side, halves) = (spec.augment.cutout as i64, [words[3] & 0xFFFF, words[3] >> 16]);
        let mut from_centre = [(row, spec.h), (column, spec.w)].into_iter().zip(halves).map(|((at, len), half)| {
            let centre = (u64::from(half) * len as u64) >> 16;
            at as i64 - centre as i64
        });
        if from_centre.all(|d| (-(side / 2)..side - side / 2).contains(&d)) {
            return 0.0;
        }
        let flipped = spec.augment.flip && words[2] >= 1 << 31;
        let column = if flipped { spec.w - 1 - column } else { column };
        let shift = |word: u32| i64::from(rng::below(word, 2 * crop as u32 + 1)) - crop;
        let (mut r, mut q) = (row as i64 + shift(words[1]), column as i64 + shift(words[0]));
        let (h, w) = (spec.h as i64, spec.w as i64);
        if spec.augment.reflect {
            let mirror = |p: i64, len: i64| {
                if p < 0 {
                    -p
                } else if p >= len {
                    2 * len - 2 - p
                } else {
                    p
                }
            };
            (r, q) = (mirror(r, h), mirror(q, w));
        }
        if r < 0 || r >= h || q < 0 || q >= w {
            return 0.0;
        }
        let byte = plane[(r * w + q) as usize];
        (f32::from(byte) / 255.0 - spec.mean[channel]) / spec.std[channel]
    }

    #[test]
    fn crop_flip_reflect_and_cutout_are_what_they_say() {
        let counters = Counters { seed: 9, epoch: 4, dataset: 0, first: 10, rows: 40 };
        for c in [1, 3, 4] {
            for (crop, reflect, flip, cutout) in [
                (0, false, false, 0),
                (0, false, true, 0),
                (2, false, true, 0),
                (4, true, true, 4),
                (6, true, false, 1),
                (11, false, true, 5),
                (0, false, false, 30),
            ] {
                let spec = spec(40, c, Augment { crop, reflect, flip, cutout, mixup: false });
                let (images, labels, order) = dataset(&spec);
                let [x, targets, weights] = run(&spec, &counters);
                assert_eq!(weights, [1.0; 40]);
                let pixels = spec.h * spec.w;
                for (i, sample) in order[10..50].iter().enumerate() {
                    let words = rng::draw(9, rng::stream("ingest"), 4, *sample, 0);
                    for at in 0..pixels * c {
                        let (row, column, channel) = (at / c / spec.w, at / c % spec.w, at % c);
                        let plane = &images[(*sample as usize * c + channel) * pixels..][..pixels];
                        let expected = naive_pixel(&spec, plane, words, channel, row, column);
                        assert_eq!(x[i * pixels * c + at], expected, "{:?}, image {i}, {row} {column}", spec.augment);
                    }
                    let mut one_hot = [0.0; 5];
                    one_hot[usize::from(labels[*sample as usize])] = 1.0;
                    assert_eq!(targets[i * 5..][..5], one_hot);
                }
            }
        }
    }

    #[test]
    fn a_batch_in_groups_is_the_whole_batch() {
        let counters = Counters { seed: 1, epoch: 2, dataset: 0, first: 20, rows: 30 };
        let whole = spec(30, 3, Augment { crop: 2, reflect: true, flip: true, cutout: 3, mixup: false });
        let groups =
            [(0, 10), (10, 15), (25, 5)].map(|(offset, n)| run(&Ingest { offset, n, ..whole.clone() }, &counters));
        for (part, expected) in run(&whole, &counters).into_iter().enumerate() {
            assert_eq!(groups.iter().flat_map(|g| g[part].clone()).collect::<Vec<f32>>(), expected);
        }
    }

    #[test]
    fn mixup_mixes_each_row_with_its_mirror_image_in_the_whole_batch_also_in_groups() {
        let counters = Counters { seed: 1, epoch: 2, dataset: 0, first: 20, rows: 29 };
        let augment = Augment { crop: 2, reflect: true, flip: true, cutout: 3, mixup: false };
        let plain = spec(29, 3, augment);
        let mixed = Ingest { augment: Augment { mixup: true, ..augment }, ..plain.clone() };
        let (images, labels, order) = dataset(&plain);
        let mix = |spec: &Ingest, share: f32| {
            let (x_len, t_len) = (spec.n * 3 * 63, spec.n * spec.classes);
            let all = same_for_all(|workers| {
                let (mut x, mut t, mut w) = (poisoned(x_len), poisoned(t_len), poisoned(spec.n));
                let (order, work) = (&order, &mut poisoned(mixed_workspace(workers, spec))[..]);
                ingest_mixed(workers, spec, &images, &labels, order, &counters, share, &mut x, &mut t, &mut w, work);
                [x, t, w].concat()
            });
            [all[..x_len].to_vec(), all[x_len..x_len + t_len].to_vec(), all[x_len + t_len..].to_vec()]
        };
        let [x, targets, weights] = run(&plain, &counters);
        let whole = mix(&mixed, 0.7);
        assert_eq!(whole[2], weights);
        let rest = 1.0 - 0.7f32;
        for row in 0..29 {
            let both = |values: &[f32], len: usize| -> Vec<f32> {
                let [own, other] = [row, 28 - row].map(|row| &values[row * len..][..len]);
                own.iter().zip(other).map(|(a, b)| 0.7 * a + rest * b).collect()
            };
            assert_eq!(whole[0][row * 189..][..189], both(&x, 189));
            assert_eq!(whole[1][row * 5..][..5], both(&targets, 5));
        }
        assert_eq!(mix(&mixed, 1.0)[..2], [x, targets]);
        let groups = [(0, 10), (10, 15), (25, 4)].map(|(offset, n)| mix(&Ingest { offset, n, ..mixed.clone() }, 0.7));
        for (part, expected) in whole.into_iter().enumerate() {
            assert_eq!(groups.iter().flat_map(|g| g[part].clone()).collect::<Vec<f32>>(), expected);
        }
    }

    #[test]
    fn a_short_last_batch_repeats_its_last_row_with_weight_zero() {
        let counters = Counters { seed: 1, epoch: 2, dataset: 0, first: 47, rows: 3 };
        let spec = spec(8, 1, Augment::default());
        let [x, targets, weights] = run(&spec, &counters);
        assert_eq!(weights, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        for i in 3..8 {
            assert_eq!(x[i * 63..][..63], x[2 * 63..][..63]);
            assert_eq!(targets[i * 5..][..5], targets[2 * 5..][..5]);
        }
        assert_ne!(x[63..126], x[126..189]);
    }

    #[test]
    fn an_epoch_of_augmented_images_differs_from_the_next() {
        let spec = spec(20, 1, Augment { crop: 2, flip: true, ..Augment::default() });
        let at = |epoch| run(&spec, &Counters { seed: 1, epoch, dataset: 0, first: 0, rows: 20 });
        assert_ne!(at(0)[0], at(1)[0]);
        assert_eq!(at(0)[0], at(0)[0]);
    }
}
