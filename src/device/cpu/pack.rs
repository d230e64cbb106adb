//! Operand B in the order in which blocks read it: panels of [`tile::panel`] columns, each `[depth][width]`.
//!
//! A panel's width is its columns rounded up to whole vectors, zeros behind them. Every panel but the last is full, so
//! panel p starts at element `p * panel * depth`.

use super::simd::Isa;
use super::stored::Stored;
use super::tile;
use std::ops::Range;

/// Elements of `[depth, columns]` in panels.
pub fn packed_len(isa: Isa, depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(tile::lanes(isa))
}

/// Columns of each panel.
pub fn panels(isa: Isa, columns: usize) -> impl Iterator<Item = Range<usize>> {
    let most = tile::panel(isa);
    (0..columns).step_by(most).map(move |first| first..(first + most).min(columns))
}

/// Width of a panel that holds `columns`.
pub fn width(isa: Isa, columns: usize) -> usize {
    columns.next_multiple_of(tile::lanes(isa))
}

/// `to[t][j] = from[t * stride + j]` for `j < columns`, zeros up to `width`.
#[inline(always)]
pub fn copy<T: Stored>(from: &[T], stride: usize, columns: usize, to: &mut [f32], width: usize) {
    for (t, to) in to.chunks_exact_mut(width).enumerate() {
        let (values, zeros) = to.split_at_mut(columns);
        let from = &from[t * stride..t * stride + columns];
        values.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
        zeros.fill(0.0);
    }
}

/// `to[t][j] = from[j * stride + t]` for `j < columns`, zeros up to `width`.
pub fn transpose<T: Stored>(from: &[T], stride: usize, columns: usize, to: &mut [f32], width: usize) {
    // Eight source rows at a time: their cache lines fit the eight ways of one L1 set even if `stride` is a power of 2.
    const GROUP: usize = 8;
    let depth = to.len() / width;
    for first in (0..width).step_by(GROUP) {
        let rows: [&[T]; GROUP] = std::array::from_fn(|g| {
            let j = first + g;
            if j < columns { &from[j * stride..j * stride + depth] } else { &[] }
        });
        if rows.iter().all(|r| r.len() == depth) {
            for (t, to) in to.chunks_exact_mut(width).enumerate() {
                for (to, row) in to[first..first + GROUP].iter_mut().zip(&rows) {
                    *to = row[t].widen();
                }
            }
        } else {
            for (t, to) in to.chunks_exact_mut(width).enumerate() {
                for (to, row) in to[first..].iter_mut().zip(&rows) {
                    *to = row.get(t).map_or(0.0, |v| v.widen());
                }
            }
        }
    }
}
