//! The n entries of largest magnitude of a vector, by radix selection on the bits of |v|, which are ordered as the magnitudes.
//!
//! Digit after digit of eight bits, from the highest: each job counts the digits of its own stretch of the vector among the
//! elements that agree with what is known of the n-th largest magnitude; the sums say the next digit. Counts are exact, so
//! nothing depends on the number of threads.

use super::Workers;
use super::split::{split, within};
use crate::ops::call::BLOCK;
use std::ops::Range;

/// Stretches of the vector, a job each.
const JOBS: usize = 16;
/// Values of a digit.
const DIGITS: usize = 256;

/// Cells of scratch: the counts of each job.
pub fn largest_workspace() -> usize {
    JOBS * DIGITS
}

/// Elements of a job's stretch.
fn stretch(ranges: &[Range<usize>]) -> usize {
    let end = ranges.last().map_or(0, |r| r.end);
    end.div_ceil(JOBS).next_multiple_of(BLOCK)
}

fn magnitude(v: f32) -> u32 {
    v.to_bits() & 0x7fff_ffff
}

/// u = v at the `n` places of largest |v| within `ranges`, those of lower index first among equals; 0 at the others. Without
/// `v` u itself is taken.
pub fn largest(
    workers: &Workers,
    ranges: &[Range<usize>],
    n: usize,
    v: Option<&[f32]>,
    u: &mut [f32],
    work: &mut [f32],
) {
    if let Some(v) = v {
        ranges.iter().for_each(|r| u[r.clone()].copy_from_slice(&v[r.clone()]));
    }
    let stretch = stretch(ranges);
    if stretch == 0 {
        return;
    }
    let elements: usize = ranges.iter().map(Range::len).sum();
    let (mut known, mut left) = (0, n.min(elements));
    let counts = &mut work[..largest_workspace()];
    let mut digit = 0;
    for shift in [24, 16, 8, 0] {
        let values = &*u;
        split(workers, [(&mut *counts, DIGITS)], |job, [counts]| {
            let mut found = [0; DIGITS];
            for r in within(ranges, job * stretch..(job + 1) * stretch) {
                for v in &values[r] {
                    let bits = magnitude(*v);
                    // In 64 bits, for the highest digit has none above it.
                    if u64::from(bits) >> (shift + 8) == u64::from(known) >> (shift + 8) {
                        found[(bits >> shift) as usize % DIGITS] += 1;
                    }
                }
            }
            // Counts kept as the bits of f32, as scratch is f32.
            counts.iter_mut().zip(found).for_each(|(count, found)| *count = f32::from_bits(found));
        });
        let sum = |digit: usize| (0..JOBS).map(|job| count(counts, job, digit)).sum::<usize>();
        // With n = 0 the search still runs and keeps nothing.
        let mut above = 0;
        digit = DIGITS - 1;
        while digit > 0 && above + sum(digit) < left.max(1) {
            above += sum(digit);
            digit -= 1;
        }
        known |= (digit as u32) << shift;
        left = left.saturating_sub(above);
    }
    split(workers, [(u, stretch)], |job, [u]| {
        let base = job * stretch;
        let mut equals: usize = (0..job).map(|before| count(counts, before, digit)).sum();
        for r in within(ranges, base..base + u.len()) {
            for v in &mut u[r.start - base..r.end - base] {
                let bits = magnitude(*v);
                let keep = bits > known || bits == known && equals < left;
                equals += usize::from(bits == known);
                if !keep {
                    *v = 0.0;
                }
            }
        }
    });
}

fn count(counts: &[f32], job: usize, digit: usize) -> usize {
    counts[job * DIGITS + digit].to_bits() as usize
}
