//! Ingest: bytes of a data set to normalised, augmented, mixed images, target rows and row weights, in one call.

use super::call::{Augment, Counters, Ingest};
use super::case::{Body, Case, IngestCase};
use crate::rng::{below, draw, stream};

/// Returns the output of ingest without mixup, in f64: images `[n, h, w, c]`, targets `[n, classes]`, weights `[n]`.
///
/// `images` are bytes `[count, c, h, w]`. The image is padded by `crop` pixels on each side (zero after normalisation, or
/// mirrored without repeating the border), a window of its own size is cut out at a drawn place, and that is mirrored
/// left-right with probability one half. Then a square of side
/// `cutout`, less what lies beyond the borders, becomes zero.
pub fn ingest_spec(
    spec: &Ingest,
    images: &[u8],
    labels: &[u8],
    order: &[u32],
    counters: &Counters,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let Ingest { n, h, w, c, classes, offset, augment, .. } = *spec;
    let Augment { crop, reflect, flip, cutout, .. } = augment;
    let mut out = (vec![0.0; n * h * w * c], vec![0.0; n * classes], vec![0.0; n]);
    for i in 0..n {
        let real = offset + i < counters.rows as usize;
        let position = counters.first as usize + (offset + i).min((counters.rows as usize).saturating_sub(1));
        let sample = order[position] as usize;
        out.1[i * classes + usize::from(labels[sample])] = 1.0;
        out.2[i] = f64::from(u8::from(real));
        let words = draw(counters.seed, stream("ingest"), counters.epoch, sample as u32, 0);
        let (dx, dy) = (below(words[0], 2 * crop as u32 + 1), below(words[1], 2 * crop as u32 + 1));
        let mirrored = flip && words[2] >> 31 == 1;
        // The halves of the fourth word place the square: 2^16 positions are many more than an image has.
        let centre = (below(words[3] << 16, h as u32) as usize, below(words[3] >> 16 << 16, w as u32) as usize);
        let cut = |at: usize, centre: usize| at + cutout / 2 >= centre && at + cutout / 2 < centre + cutout;
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            if cut(y, centre.0) && cut(x, centre.1) {
                continue;
            }
            let column = if mirrored { w - 1 - x } else { x };
            let place = (
                source(y as i64 + i64::from(dy) - crop as i64, h as i64, reflect),
                source(column as i64 + i64::from(dx) - crop as i64, w as i64, reflect),
            );
            let (Some(sy), Some(sx)) = place else { continue };
            for channel in 0..c {
                let byte = images[((sample * c + channel) * h + sy) * w + sx];
                let (mean, std) = (f64::from(spec.mean[channel]), f64::from(spec.std[channel]));
                out.0[((i * h + y) * w + x) * c + channel] = (f64::from(byte) / 255.0 - mean) / std;
            }
        }
    }
    out
}

/// Returns the output of ingest with mixup, in f64: each row and its target with weight `share`, plus the row at the mirrored
/// position of the batch with weight 1 - `share`.
pub fn mixup_spec(
    spec: &Ingest,
    images: &[u8],
    labels: &[u8],
    order: &[u32],
    counters: &Counters,
    share: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut x, mut targets, weights) = ingest_spec(spec, images, labels, order, counters);
    let mut turned = order.to_vec();
    turned[counters.first as usize..][..counters.rows as usize].reverse();
    let (other_x, other_targets, _) = ingest_spec(spec, images, labels, &turned, counters);
    for (own, other) in [(&mut x, other_x), (&mut targets, other_targets)] {
        own.iter_mut().zip(other).for_each(|(a, b)| *a = share * *a + (1.0 - share) * b);
    }
    (x, targets, weights)
}

/// Returns the pixel that a padded coordinate shows; None is zero.
fn source(at: i64, size: i64, reflect: bool) -> Option<usize> {
    let at = match at {
        _ if (0..size).contains(&at) => at,
        _ if !reflect => return None,
        _ if at < 0 => -at,
        _ => 2 * (size - 1) - at,
    };
    usize::try_from(at).ok()
}

pub(super) fn cases() -> Vec<Case> {
    let none = Augment::default();
    let zero = Augment { crop: 2, flip: true, ..none };
    let mirror = Augment { crop: 4, reflect: true, flip: true, ..none };
    [
        (8, 28, 28, 1, none),
        (8, 28, 28, 1, zero),
        (5, 32, 32, 3, mirror),
        (3, 7, 9, 2, zero),
        (4, 6, 5, 4, mirror),
        (8, 32, 32, 3, Augment { cutout: 16, ..mirror }),
        (6, 7, 9, 2, Augment { cutout: 3, ..none }),
        (8, 32, 32, 3, Augment { cutout: 16, mixup: true, ..mirror }),
        (5, 7, 9, 1, Augment { mixup: true, ..zero }),
    ]
    .into_iter()
    .map(|(rows, h, w, c, augment)| {
        // One row fewer than the batch is real, so that padding is covered.
        let counters = Counters { seed: 11, epoch: 3, dataset: 0, first: 5, rows: rows as u32 - 1 };
        case(rows, IngestCase { h, w, c, images: 20, augment, share: 0.7, counters })
    })
    .collect()
}

pub(super) fn bench() -> Vec<Case> {
    let zero = Augment { crop: 2, flip: true, ..Augment::default() };
    let mirror = Augment { crop: 4, reflect: true, flip: true, cutout: 16, mixup: false };
    [(128, 28, 28, 1, zero), (32, 32, 32, 3, mirror), (32, 32, 32, 3, Augment { mixup: true, ..mirror })]
        .into_iter()
        .map(|(rows, h, w, c, augment)| {
            let counters = Counters { seed: 11, epoch: 3, dataset: 0, first: 0, rows: rows as u32 };
            case(rows, IngestCase { h, w, c, images: 1024, augment, share: 0.7, counters })
        })
        .collect()
}

fn case(rows: usize, body: IngestCase) -> Case {
    let label = format!("{rows} x {}x{}x{}, {:?}", body.h, body.w, body.c, body.augment);
    Case { label, rows, running: false, body: Body::Ingest(body) }
}
