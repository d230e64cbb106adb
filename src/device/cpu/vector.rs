//! Norms, sums and updates of whole parameter vectors, and the scalars between them.

use super::Workers;
use super::cast::{CastMut, PlaceMut};
use super::pointwise::put;
use super::simd::per_isa;
use super::split::{CHUNK, split, within};
use super::stored::Stored;
use crate::ops::call::{BLOCK, MAX_GROUPS, Map, Scale, Term, Update};
use std::ops::Range;

/// Elements whose terms make one partial sum of [`sums`].
const PARTIAL: usize = 8_192;

/// Terms a sum of [`set`] may have; the longest among published optimizers has four.
pub const MAX_TERMS: usize = 16;

/// Scratch of [`sums`], in cells: `count` partial sums in f64 for each window of 8,192 elements.
pub(super) fn sums_workspace(ranges: &[Range<usize>], count: usize) -> usize {
    2 * count * ranges.last().map_or(0, |r| r.end.div_ceil(PARTIAL))
}

/// Scratch of [`norm`] and [`dot`], in cells.
pub fn dot_workspace(ranges: &[Range<usize>]) -> usize {
    sums_workspace(ranges, 1)
}

/// |v| over `ranges`.
pub fn norm(workers: &Workers, ranges: &[Range<usize>], v: &[f32], out: &mut f32, work: &mut [f32]) {
    *out = inner(workers, ranges, v, v, work).sqrt() as f32;
}

/// a . b over `ranges`.
pub fn dot(workers: &Workers, ranges: &[Range<usize>], a: &[f32], b: &[f32], out: &mut f32, work: &mut [f32]) {
    *out = inner(workers, ranges, a, b, work) as f32;
}

fn inner(workers: &Workers, ranges: &[Range<usize>], a: &[f32], b: &[f32], work: &mut [f32]) -> f64 {
    let [sum] = sums(workers, ranges, work, |r, [sum]| dot_run(workers.isa, &a[r.clone()], &b[r], sum));
    sum
}

/// Sums over `ranges`, to which `add` adds those of one range: windows of fixed place, each summed in f64 by one job, then
/// added up in order.
pub(super) fn sums<const N: usize>(
    workers: &Workers,
    ranges: &[Range<usize>],
    work: &mut [f32],
    add: impl Fn(Range<usize>, &mut [f64; N]) + Sync,
) -> [f64; N] {
    let partials = &mut work[..sums_workspace(ranges, N)];
    split(workers, [(&mut *partials, 2 * N)], |job, [slots]| {
        let mut sums = [0.0; N];
        within(ranges, job * PARTIAL..(job + 1) * PARTIAL).for_each(|r| add(r, &mut sums));
        for (slot, sum) in slots.chunks_exact_mut(2).zip(sums) {
            // An f64 kept as the bits of two f32, as scratch is f32.
            let bits = f64::to_bits(sum);
            (slot[0], slot[1]) = (f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32));
        }
    });
    let mut totals = [0.0; N];
    for slots in partials.chunks_exact(2 * N) {
        for (total, slot) in totals.iter_mut().zip(slots.chunks_exact(2)) {
            *total += f64::from_bits(u64::from(slot[0].to_bits()) << 32 | u64::from(slot[1].to_bits()));
        }
    }
    totals
}

per_isa! { fn dot_run(a: &[f32], b: &[f32], sum: &mut f64) = add_dot; }

#[inline(always)]
fn add_dot(a: &[f32], b: &[f32], sum: &mut f64) {
    *sum += dot_body(a, b);
}

/// a . b in f64, with 16 running sums: always the same additions, whatever the width of the CPU's vectors.
#[inline(always)]
pub(super) fn dot_body(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for (a, b) in a.zip(b) {
        for k in 0..16 {
            sums[k] += f64::from(a[k]) * f64::from(b[k]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Values a scalar expression may hold at once.
const DEPTH: usize = 16;

/// The value of a postfix expression over `scalars`, worked out in f64, and how many of its divisions were
/// refused (their value is 0): by zero, by a number not finite, or by one so small that the quotient is beyond f32.
///
/// # Panics
/// If the expression is malformed, which is a mistake of the optimizer that recorded it.
pub fn evaluate(expression: &[Scale], scalars: &[f32]) -> (f32, u32) {
    let (mut stack, mut len, mut dropped) = ([0f64; DEPTH], 0, 0);
    for (i, scale) in expression.iter().enumerate() {
        let operands = match scale {
            Scale::Const(_) | Scale::Read(_) => 0,
            Scale::Sqrt | Scale::Neg => 1,
            Scale::Mul | Scale::Div | Scale::Add | Scale::Min | Scale::Max => 2,
            Scale::Select => 3,
        };
        assert!(len >= operands, "scalar expression {expression:?}: {scale:?} at {i} lacks operands");
        len -= operands;
        let (x, y, z) = (stack[len], stack[(len + 1) % DEPTH], stack[(len + 2) % DEPTH]);
        let value =
            match *scale {
                Scale::Const(v) => f64::from(v),
                Scale::Read(n) => f64::from(*scalars.get(n).unwrap_or_else(|| {
                    panic!("scalar expression {expression:?} reads operand {n} of {}", scalars.len())
                })),
                Scale::Mul => x * y,
                Scale::Div => quotient(x, y).unwrap_or_else(|| {
                    dropped += 1;
                    0.0
                }),
                Scale::Add => x + y,
                Scale::Min => x.min(y),
                Scale::Max => x.max(y),
                Scale::Sqrt => x.sqrt(),
                Scale::Neg => -x,
                Scale::Select => {
                    if z > 0.0 {
                        x
                    } else {
                        y
                    }
                }
            };
        stack[len] = value;
        len += 1;
        assert!(len < DEPTH, "scalar expression {expression:?} needs more than {} values at once", DEPTH - 1);
    }
    assert!(len == 1, "scalar expression {expression:?} leaves {len} values, not 1");
    (stack[0] as f32, dropped)
}

/// x / y; None where y is 0 or not finite, or so small that the quotient of a finite x is beyond f32.
fn quotient(x: f64, y: f64) -> Option<f64> {
    let quotient = x / y;
    let lost = x.is_finite() && !(quotient as f32).is_finite();
    (y != 0.0 && y.is_finite() && !lost).then_some(quotient)
}

/// The value of `expression`; adds to `dropped` the number of its divisions that were refused.
pub fn scalar(expression: &[Scale], scalars: &[f32], out: &mut f32, dropped: &mut f32) {
    let (value, count) = evaluate(expression, scalars);
    *out = value;
    *dropped += count as f32;
}

/// `fault` = 1 where any of `scalars` is not finite.
pub fn guard(scalars: &[f32], fault: &mut f32) {
    if scalars.iter().any(|v| !v.is_finite()) {
        *fault = 1.0;
    }
}

/// dst = sum of coefficient * map(source) * factor over `ranges`: a source for each term, then one for each factor; `None` is
/// dst as it was before.
///
/// A term whose coefficient divides by zero or by something not finite is left out, and counted once in `dropped`.
pub fn set(
    workers: &Workers,
    ranges: &[Range<usize>],
    terms: &[Term],
    sources: &[Option<&[f32]>],
    scalars: &[f32],
    dst: CastMut<'_>,
    dropped: &mut f32,
) {
    assert!(terms.len() <= MAX_TERMS, "a sum of {} terms; at most {MAX_TERMS} are possible", terms.len());
    assert_eq!(Term::vectors(terms), sources.len(), "a sum needs one vector for each term, and for each factor");
    let mut kept = [Summand { coefficient: 0.0, of: (Map::Identity, None), factor: None }; MAX_TERMS];
    let mut count = 0;
    for ((term, source), factor) in terms.iter().zip(sources).zip(Term::factors(terms)) {
        match evaluate(&term.coefficient, scalars) {
            (coefficient, 0) => {
                let factor = term.factor.zip(factor).map(|(map, at)| (map, sources[at]));
                kept[count] = Summand { coefficient, of: (term.map, *source), factor };
                count += 1;
            }
            _ => *dropped += 1.0,
        }
    }
    let kept = &kept[..count];
    workers.pool.run(dst.len().div_ceil(CHUNK), |job, _| {
        // SAFETY: the jobs' windows follow one another without overlap, and each job runs once.
        let places = within(ranges, job * CHUNK..(job + 1) * CHUNK).flat_map(|r| unsafe { dst.places(r) });
        for (r, dst) in places {
            match dst {
                PlaceMut::Wide(dst) => set_run(workers.isa, kept, r.start, dst),
                PlaceMut::Low(dst) => set_run(workers.isa, kept, r.start, dst),
            }
        }
    });
}

/// A map of a vector; `None` is dst.
type Mapped<'a> = (Map, Option<&'a [f32]>);

#[derive(Clone, Copy)]
struct Summand<'a> {
    coefficient: f32,
    of: Mapped<'a>,
    factor: Option<Mapped<'a>>,
}

per_isa! { fn set_run<T: Stored>(terms: &[Summand], start: usize, dst: &mut [T]) = set_body; }

#[inline(always)]
fn set_body<T: Stored>(terms: &[Summand], start: usize, dst: &mut [T]) {
    for (tile, dst) in dst.chunks_mut(BLOCK).enumerate() {
        // The sum is complete before dst, which may be one of its sources, is written.
        let mut sum = [0f32; BLOCK];
        let sum = &mut sum[..dst.len()];
        let mut buffers = [[0f32; BLOCK]; 2];
        for (i, term) in terms.iter().enumerate() {
            let at = start + tile * BLOCK;
            let Some(factor) = term.factor else {
                add(i > 0, sum, term.of, at, dst, term.coefficient);
                continue;
            };
            let [product, other] = &mut buffers;
            let (product, other) = (&mut product[..dst.len()], &mut other[..dst.len()]);
            add(false, product, term.of, at, dst, 1.0);
            add(false, other, factor, at, dst, 1.0);
            product.iter_mut().zip(&*other).for_each(|(p, o)| *p *= o);
            accumulate(i > 0, sum, product, term.coefficient, |v| v);
        }
        put(false, sum, dst);
    }
}

/// sum += (or, for the first term, =) coefficient * map(vector), the vector's elements from `at` on.
#[inline(always)]
fn add<T: Stored>(add: bool, sum: &mut [f32], (map, source): Mapped, at: usize, dst: &[T], coefficient: f32) {
    match source {
        Some(s) => mapped(add, sum, &s[at..][..dst.len()], coefficient, map),
        None => mapped(add, sum, dst, coefficient, map),
    }
}

#[inline(always)]
fn mapped<T: Stored>(add: bool, sum: &mut [f32], source: &[T], coefficient: f32, map: Map) {
    match map {
        Map::Identity => accumulate(add, sum, source, coefficient, |v| v),
        Map::Abs => accumulate(add, sum, source, coefficient, f32::abs),
        Map::Sign => accumulate(add, sum, source, coefficient, sign),
        Map::Square => accumulate(add, sum, source, coefficient, |v| v * v),
    }
}

/// The first term is written, not added to 0, so that a plain copy keeps every bit (-0 + 0 is +0).
#[inline(always)]
fn accumulate<T: Stored>(add: bool, sum: &mut [f32], source: &[T], coefficient: f32, map: impl Fn(f32) -> f32) {
    for (sum, v) in sum.iter_mut().zip(source) {
        let term = coefficient * map(v.widen());
        *sum = if add { *sum + term } else { term };
    }
}

/// -1, 0 or 1; NaN stays NaN.
#[inline(always)]
fn sign(v: f32) -> f32 {
    if v > 0.0 {
        1.0
    } else if v < 0.0 {
        -1.0
    } else {
        v
    }
}

/// One descent step with momentum (see [`crate::ops::call::Kernel::Update`] for the formula); `scalars` are fault, norm
/// (of g), momentum and clip, `rates` the learning rate and the decay of each group; what moves are w, m and the
/// compute copy c.
pub fn update(
    workers: &Workers,
    u: &Update,
    g: &[f32],
    scalars: [f32; 4],
    rates: [[f32; 2]; MAX_GROUPS],
    [w, m]: [&mut [f32]; 2],
    c: CastMut<'_>,
) {
    let [fault, norm, momentum, clip] = scalars;
    let halted = fault > 0.0;
    let factor = if clip > 0.0 { (clip / norm).min(1.0) } else { 1.0 };
    let common = [factor, momentum];
    split(workers, [(w, CHUNK), (m, CHUNK)], |job, [w, m]| {
        let base = job * CHUNK;
        // SAFETY: the jobs' windows follow one another without overlap, and each job runs once.
        for (r, c) in within(&u.ranges, base..base + w.len()).flat_map(|r| unsafe { c.places(r) }) {
            let groups = &u.groups[r.start / BLOCK..];
            let local = r.start - base..r.end - base;
            let (g, w, m) = (&g[r], &mut w[local.clone()], &mut m[local]);
            match c {
                // The next step begins at w, where this one may have left the compute copy perturbed.
                PlaceMut::Wide(c) if halted => c.copy_from_slice(w),
                PlaceMut::Low(c) if halted => c.iter_mut().zip(w).for_each(|(c, w)| *c = Stored::round(*w)),
                PlaceMut::Wide(c) => update_run(workers.isa, u.nesterov, common, rates, groups, g, w, m, c),
                PlaceMut::Low(c) => update_run(workers.isa, u.nesterov, common, rates, groups, g, w, m, c),
            }
        }
    });
}

per_isa! {
    fn update_run<T: Stored>(
        nesterov: bool,
        common: [f32; 2],
        rates: [[f32; 2]; MAX_GROUPS],
        groups: &[u8],
        g: &[f32],
        w: &mut [f32],
        m: &mut [f32],
        c: &mut [T],
    ) = update_body;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn update_body<T: Stored>(
    nesterov: bool,
    [factor, momentum]: [f32; 2],
    rates: [[f32; 2]; MAX_GROUPS],
    groups: &[u8],
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
    c: &mut [T],
) {
    let blocks = g.chunks(BLOCK).zip(w.chunks_mut(BLOCK)).zip(m.chunks_mut(BLOCK)).zip(c.chunks_mut(BLOCK));
    for ((((g, w), m), c), group) in blocks.zip(groups) {
        let [lr, decay] = rates[usize::from(*group)];
        for (((g, w), m), c) in g.iter().zip(w).zip(m).zip(c) {
            let d = factor * *g + decay * *w;
            let moved = momentum * *m + d;
            let step = if nesterov { d + momentum * moved } else { moved };
            *m = moved;
            *w -= lr * step;
            *c = T::round(*w);
        }
    }
}

#[cfg(test)]
#[path = "vector_tests.rs"]
mod tests;
