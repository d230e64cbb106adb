use super::super::testing::*;
use super::*;
use std::sync::Arc;

const LEN: usize = 40_000;

/// Ranges within one window, across windows, and up to the last element.
fn range_sets() -> Vec<Vec<Range<usize>>> {
    vec![vec![], whole(LEN), vec![3..5, 7..8], vec![256..512, 8_000..8_448, 16_000..33_024, 39_936..LEN]]
}

/// Returns the single range `0..len`, as the functions take it.
fn whole(len: usize) -> Vec<Range<usize>> {
    std::iter::once(0..len).collect()
}

/// A vector that is f32 throughout, as the functions take it.
fn wide_mut(values: &mut [f32]) -> CastMut<'_> {
    CastMut::new(values, None)
}

fn inside(ranges: &[Range<usize>], i: usize) -> bool {
    ranges.iter().any(|r| r.contains(&i))
}

#[test]
fn norm_and_dot_sum_what_the_ranges_hold() {
    let (mut a, b) = (normal(1, LEN), normal(2, LEN));
    a[9_000] = f32::NAN; // outside all ranges but the full one
    for ranges in range_sets() {
        let sums = |a: &[f32], b: &[f32]| {
            same_for_all(|workers| {
                let (mut out, mut work) = ([f32::NAN; 2], poisoned(dot_workspace(&ranges)));
                let [first, second] = &mut out;
                norm(workers, &ranges, a, first, &mut work);
                dot(workers, &ranges, a, b, second, &mut work);
                out.to_vec()
            })
        };
        if inside(&ranges, 9_000) {
            assert!(sums(&a, &b).iter().all(|v| v.is_nan()));
            continue;
        }
        let product = |x: &[f32], y: &[f32]| -> f64 {
            let at = (0..LEN).filter(|i| inside(&ranges, *i));
            at.map(|i| f64::from(x[i]) * f64::from(y[i])).sum()
        };
        assert_close("norm and dot", &sums(&a, &b), &[product(&a, &a).sqrt(), product(&a, &b)], 1e-7);
    }
}

/// The square of this norm is beyond f32's range; the norm is not.
#[test]
fn a_large_norm_does_not_overflow() {
    for workers in all_workers() {
        let (mut out, mut work) = (0.0, poisoned(2));
        norm(&workers, &whole(4), &[1e30; 4], &mut out, &mut work[..]);
        assert_eq!(out, 2e30);
    }
}

use Scale::*;

#[test]
fn expressions_are_evaluated_in_postfix_order() {
    let cases: [(&[Scale], f32, u32); 11] = [
        (&[Const(2.0), Read(1), Mul, Read(0), Add], 13.0, 0),
        (&[Read(1), Read(0), Div], 5.0 / 3.0, 0),
        (&[Read(1), Read(2), Div], 0.0, 1),
        (&[Read(1), Read(3), Div, Read(1), Const(0.0), Div, Add], 0.0, 2),
        (&[Read(0), Read(1), Min, Neg], -3.0, 0),
        (&[Read(0), Read(1), Max, Sqrt], 2.236_068, 0),
        (&[Const(10.0), Const(20.0), Read(0), Select], 10.0, 0),
        (&[Const(10.0), Const(20.0), Read(2), Select], 20.0, 0),
        (&[Const(1e30), Const(1e30), Mul, Const(1e30), Div], 1e30, 0), // beyond f32 in between
        (&[Const(0.05), Const(1e-40), Div], 0.0, 1),                   // beyond f32 as a whole
        (&[Read(3), Const(2.0), Div], f32::INFINITY, 0),               // what was infinite before stays so
    ];
    for (expression, value, count) in cases {
        let (mut out, mut dropped) = (f32::NAN, 1.0);
        scalar(expression, &[3.0, 5.0, 0.0, f32::INFINITY], &mut out, &mut dropped);
        assert_eq!((out, dropped), (value, 1.0 + count as f32), "{expression:?}");
    }
}

#[test]
fn a_malformed_expression_is_refused_in_clear_words() {
    let deep = vec![Const(1.0); DEPTH];
    let cases: [(&[Scale], &str); 5] = [
        (&[], "leaves 0 values"),
        (&[Read(0), Add], "lacks operands"),
        (&[Read(0), Read(0)], "leaves 2 values"),
        (&[Read(7)], "reads operand 7 of 1"),
        (&deep, "more than 15 values"),
    ];
    for (expression, words) in cases {
        let panic = std::panic::catch_unwind(|| evaluate(expression, &[1.0])).unwrap_err();
        let text = panic.downcast_ref::<String>().expect("a panic with a text");
        assert!(text.contains(words), "{text}");
    }
}

fn term(coefficient: &[Scale], map: Map) -> Term {
    Term { coefficient: coefficient.to_vec(), map, factor: None }
}

#[test]
fn set_sums_mapped_terms_over_the_ranges_alone_and_may_read_what_it_writes() {
    let (mut a, b, before) = (normal(1, LEN), normal(2, LEN), normal(3, LEN));
    a[40] = 0.0;
    let terms = [
        term(&[Read(0)], Map::Identity),
        term(&[Const(1.0), Read(1), Div], Map::Abs),
        term(&[Const(0.5)], Map::Sign),
        term(&[Const(-1.0)], Map::Square),
    ];
    for ranges in range_sets() {
        let got = same_for_all(|workers| {
            let (mut dst, mut dropped) = (before.clone(), 0.0);
            let sources = [None, Some(&a[..]), Some(&a[..]), Some(&b[..])];
            set(workers, &ranges, &terms, &sources, &[0.9, 4.0], wide_mut(&mut dst), &mut dropped);
            assert_eq!(dropped, 0.0);
            dst
        });
        for i in 0..LEN {
            let sign = if a[i] == 0.0 { 0.0 } else { a[i].signum() };
            let sum = 0.9 * before[i] + 0.25 * a[i].abs() + 0.5 * sign - b[i] * b[i];
            assert_eq!(got[i], if inside(&ranges, i) { sum } else { before[i] }, "element {i}");
        }
    }
}

/// SAM's ascent where the gradient vanishes: the weights stay, even if the dropped vector is not finite.
#[test]
fn a_term_with_a_bad_denominator_is_left_out_and_counted() {
    for denominator in [0.0, -0.0, f32::NAN, f32::INFINITY] {
        for workers in all_workers() {
            let (w, g) = (normal(1, 300), poisoned(300));
            let (mut c, mut dropped) = (poisoned(300), 2.0);
            let terms = [
                term(&[Const(1.0)], Map::Identity),
                term(&[Const(0.05), Read(0), Div, Const(1.0), Read(0), Div, Mul], Map::Identity),
            ];
            let ranges: Vec<Range<usize>> = [0..256, 256..300].into();
            set(&workers, &ranges, &terms, &[Some(&w), Some(&g)], &[denominator], wide_mut(&mut c), &mut dropped);
            assert_eq!((&c, dropped), (&w, 3.0));
            set(&workers, &ranges, &terms[1..], &[None], &[denominator], wide_mut(&mut c), &mut dropped);
            assert_eq!((c, dropped), (vec![0.0; 300], 4.0));
        }
    }
}

#[test]
fn setting_a_copy_keeps_every_bit() {
    let w = [-0.0, 1e-40, 3.5, -7.25];
    for workers in all_workers() {
        let mut c = [f32::NAN; 4];
        set(&workers, &whole(4), &[term(&[Const(1.0)], Map::Identity)], &[Some(&w)], &[], wide_mut(&mut c), &mut 0.0);
        assert_eq!(c.map(f32::to_bits), w.map(f32::to_bits));
    }
}

#[test]
fn a_guard_raises_the_fault_and_never_lowers_it() {
    for (scalars, before, after) in [
        ([1.0, f32::MAX], 0.0, 0.0),
        ([1.0, f32::MAX], 1.0, 1.0),
        ([f32::NAN, 0.0], 0.0, 1.0),
        ([0.0, f32::NEG_INFINITY], 0.0, 1.0),
    ] {
        let mut fault = before;
        guard(&scalars, &mut fault);
        assert_eq!(fault, after, "{scalars:?}");
    }
}

fn update_all(u: &Update, scalars: [f32; 4], rates: [[f32; 2]; MAX_GROUPS]) -> [Vec<f32>; 3] {
    let (g, w, m, c) = (normal(1, LEN), normal(2, LEN), normal(3, LEN), normal(4, LEN));
    let all = same_for_all(|workers| {
        let (mut w, mut m, mut c) = (w.clone(), m.clone(), c.clone());
        update(workers, u, &g, scalars, rates, [&mut w, &mut m], wide_mut(&mut c));
        [w, m, c].concat()
    });
    [all[..LEN].to_vec(), all[LEN..2 * LEN].to_vec(), all[2 * LEN..].to_vec()]
}

#[test]
fn update_is_its_formula_within_the_ranges_and_touches_nothing_else() {
    let ranges: Arc<[Range<usize>]> = [256..1_024, 16_128..33_024, 39_936..LEN].into();
    let groups: Arc<[u8]> = (0..LEN.div_ceil(BLOCK)).map(|b| (b % 3) as u8).collect();
    let mut rates = [[0.0; 2]; MAX_GROUPS];
    rates[..3].copy_from_slice(&[[0.1, 5e-4], [0.02, 0.0], [0.5, 0.1]]);
    let (g, w, m, c) = (normal(1, LEN), normal(2, LEN), normal(3, LEN), normal(4, LEN));
    for nesterov in [false, true] {
        let u = Update { ranges: ranges.clone(), groups: groups.clone(), nesterov, cast: None };
        for (norm, clip, factor) in [(8.0, 2.0, 0.25), (8.0, 0.0, 1.0), (1.0, 2.0, 1.0), (0.0, 2.0, 1.0)] {
            let momentum = 0.9;
            let got = update_all(&u, [0.0, norm, momentum, clip], rates);
            let mut expected = [wide(&w), wide(&m), wide(&c)];
            let momentum = f64::from(momentum);
            for i in (0..LEN).filter(|i| inside(&ranges, *i)) {
                let (g, w) = (f64::from(g[i]), f64::from(w[i]));
                let [lr, decay] = rates[usize::from(groups[i / BLOCK])].map(f64::from);
                let d = factor * g + decay * w;
                let m = momentum * f64::from(m[i]) + d;
                let step = if nesterov { d + momentum * m } else { m };
                (expected[0][i], expected[1][i], expected[2][i]) = (w - lr * step, m, w - lr * step);
            }
            for (got, expected) in got.iter().zip(&expected) {
                assert_close("update", got, expected, 1e-7);
            }
        }
    }
}

#[test]
fn after_a_fault_an_update_only_takes_a_perturbation_back() {
    let ranges: Arc<[Range<usize>]> = whole(LEN).into();
    let u = Update { ranges, groups: vec![0; LEN.div_ceil(BLOCK)].into(), nesterov: true, cast: None };
    let got = update_all(&u, [1.0, 1.0, 0.9, 0.0], [[0.1, 5e-4]; MAX_GROUPS]);
    assert_eq!(got, [normal(2, LEN), normal(3, LEN), normal(2, LEN)]);
}
