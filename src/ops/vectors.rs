//! Vector kernels: norm, inner product, masked sums, the optimizer's update and the folding of statistics.
//!
//! They are the words in which optimizers are written; see `step.rs`. Here are their definitions in f64 and their cases.

use super::call::{BLOCK, Kernel, MAX_GROUPS, Map, Ranges, Scale, Term, Update};
use super::case::{Body, Case, Values, VectorCase, VectorSpec as Spec};

/// Elements of the vectors in the cases: about as many as `cnn` has parameters, in an odd number of blocks.
const LONG: usize = 1837 * BLOCK;

fn ranges(list: &[std::ops::Range<usize>]) -> Ranges {
    list.to_vec().into()
}

fn whole(len: usize) -> Ranges {
    std::iter::once(0..len).collect()
}

/// A label, the length of the vectors, and what of them is visited.
type Masked = (&'static str, usize, Ranges);

/// The whole vector, a masked part of it, and a single block.
fn masks() -> Vec<Masked> {
    vec![
        ("all", LONG, whole(LONG)),
        ("masked", 40 * BLOCK, ranges(&[BLOCK..3 * BLOCK, 7 * BLOCK..8 * BLOCK, 20 * BLOCK..39 * BLOCK])),
        ("one block", BLOCK, whole(BLOCK)),
    ]
}

/// All parameters of the models that are timed; WRN-16-4 has 2.75 million.
fn bench_masks() -> Vec<Masked> {
    [("cnn", LONG), ("WRN-16-4", 10_750 * BLOCK)].map(|(label, len)| (label, len, whole(len))).into()
}

fn elements(ranges: &Ranges) -> impl Iterator<Item = usize> + '_ {
    ranges.iter().flat_map(|r| r.clone())
}

/// Longer ones than those that are checked repeat themselves: to be timed they need not be drawn, which takes longer.
pub(super) fn normal(name: &str, len: usize) -> Vec<f32> {
    let drawn = Values::Normal.draw(1, name, 1, len.min(LONG));
    drawn.into_iter().cycle().take(len).collect()
}

pub(super) fn case(label: String, kernel: Kernel, reads: Vec<Vec<f32>>, writes: Vec<Vec<f32>>, spec: Spec) -> Case {
    let vector = VectorCase { kernel, reads, writes, shared: vec![], spec };
    Case { label, rows: 1, running: false, body: Body::Vector(vector) }
}

pub(super) fn norm_cases() -> Vec<Case> {
    norms(masks())
}

pub(super) fn norm_bench() -> Vec<Case> {
    norms(bench_masks())
}

fn norms(masks: Vec<Masked>) -> Vec<Case> {
    let spec: Spec = |kernel, reads, _| {
        let Kernel::Norm(ranges) = kernel else { return vec![] };
        vec![vec![elements(ranges).map(|i| reads[0][i] * reads[0][i]).sum::<f64>().sqrt()]]
    };
    masks
        .into_iter()
        .map(|(label, len, ranges)| {
            case(label.into(), Kernel::Norm(ranges), vec![normal("v", len)], vec![vec![0.0]], spec)
        })
        .collect()
}

pub(super) fn dot_cases() -> Vec<Case> {
    dots(masks())
}

pub(super) fn dot_bench() -> Vec<Case> {
    dots(bench_masks())
}

fn dots(masks: Vec<Masked>) -> Vec<Case> {
    let spec: Spec = |kernel, reads, _| {
        let Kernel::Dot(ranges) = kernel else { return vec![] };
        vec![vec![elements(ranges).map(|i| reads[0][i] * reads[1][i]).sum()]]
    };
    masks
        .into_iter()
        .map(|(label, len, ranges)| {
            // Correlated vectors: the relative error of an inner product near 0 says nothing.
            let a = normal("a", len);
            let b = normal("b", len).iter().zip(&a).map(|(b, a)| a + 0.5 * b).collect();
            case(label.into(), Kernel::Dot(ranges), vec![a, b], vec![vec![0.0]], spec)
        })
        .collect()
}

/// Value of a postfix expression over `scalars`, and how many of its divisions were refused.
pub fn evaluate(expression: &[Scale], scalars: &[f64]) -> (f64, usize) {
    let (mut stack, mut dropped) = (Vec::new(), 0);
    for step in expression {
        let mut pop = || stack.pop().unwrap_or(f64::NAN);
        let value = match step {
            Scale::Const(v) => f64::from(*v),
            Scale::Read(i) => scalars[*i],
            Scale::Sqrt => pop().sqrt(),
            Scale::Neg => -pop(),
            Scale::Mul => pop() * pop(),
            Scale::Add => pop() + pop(),
            Scale::Min => pop().min(pop()),
            Scale::Max => pop().max(pop()),
            Scale::Div => {
                let (denominator, numerator) = (pop(), pop());
                let quotient = numerator / denominator;
                // A coefficient is f32; numerators are finite in all cases.
                if denominator == 0.0 || !denominator.is_finite() || !(quotient as f32).is_finite() {
                    dropped += 1;
                    0.0
                } else {
                    quotient
                }
            }
            Scale::Select => {
                let (condition, otherwise, then) = (pop(), pop(), pop());
                if condition > 0.0 { then } else { otherwise }
            }
        };
        stack.push(value);
    }
    (stack.pop().unwrap_or(f64::NAN), dropped)
}

fn set_spec(kernel: &Kernel, reads: &[Vec<f64>], writes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let Kernel::Set { ranges, terms, .. } = kernel else { return vec![] };
    let scalars: Vec<f64> = reads[Term::vectors(terms)..].iter().map(|s| s[0]).collect();
    let factors: Vec<Option<usize>> = Term::factors(terms).collect();
    let (mut dst, mut count) = (writes[0].clone(), writes[1][0]);
    let coefficients: Vec<(f64, usize)> = terms.iter().map(|t| evaluate(&t.coefficient, &scalars)).collect();
    count += coefficients.iter().map(|c| c.1).sum::<usize>() as f64;
    for i in elements(ranges) {
        let value = |(term, (coefficient, dropped)): (usize, &(f64, usize))| {
            let factor = match (terms[term].factor, factors[term]) {
                (Some(map), Some(at)) => mapped(map, reads[at][i]),
                _ => 1.0,
            };
            if *dropped > 0 { 0.0 } else { coefficient * mapped(terms[term].map, reads[term][i]) * factor }
        };
        dst[i] = coefficients.iter().enumerate().map(value).sum();
    }
    vec![dst, vec![count]]
}

fn mapped(map: Map, v: f64) -> f64 {
    match map {
        Map::Identity => v,
        Map::Abs => v.abs(),
        Map::Sign if v == 0.0 => 0.0,
        Map::Sign => v.signum(),
        Map::Square => v * v,
    }
}

fn one(map: Map) -> Term {
    Term { coefficient: vec![Scale::Const(1.0)], map, factor: None }
}

/// SAM's perturbation: c = w + rho g / |g|, scalars (rho, |g|).
fn perturbation((label, len, ranges): &Masked, norm: f32, what: &str) -> Case {
    let coefficient = vec![Scale::Read(0), Scale::Read(1), Scale::Div];
    let climb = Term { coefficient, map: Map::Identity, factor: None };
    let reads = vec![normal("w", *len), normal("g", *len), vec![0.05], vec![norm]];
    let kernel = Kernel::Set { ranges: ranges.clone(), terms: vec![one(Map::Identity), climb], cast: None };
    let writes = vec![vec![0.5; *len], vec![2.0]];
    case(format!("{label}: w + rho g / |g|{what}"), kernel, reads, writes, set_spec)
}

pub(super) fn set_bench() -> Vec<Case> {
    bench_masks().iter().map(|mask| perturbation(mask, 3.7, "")).collect()
}

pub(super) fn set_cases() -> Vec<Case> {
    use Scale::{Const, Mul, Read};
    let mut cases = Vec::new();
    for mask in masks() {
        for (norm, what) in
            [(3.7, ""), (0.0, ", |g| = 0"), (f32::INFINITY, ", |g| infinite"), (1e-40, ", rho / |g| beyond f32")]
        {
            cases.push(perturbation(&mask, norm, what));
        }
        let (label, len, ranges) = mask;
        // In place, with every map: d = 0.9 d + |a| - sign(b) / 2 + 2 s a^2.
        let term = |coefficient: &[Scale], map| Term { coefficient: coefficient.to_vec(), map, factor: None };
        let terms = vec![
            term(&[Const(0.9)], Map::Identity),
            one(Map::Abs),
            term(&[Const(-0.5)], Map::Sign),
            term(&[Const(2.0), Read(0), Mul], Map::Square),
        ];
        let (a, b, d) = (normal("a", len), normal("b", len), normal("d", len));
        let reads = vec![d.clone(), a.clone(), b.clone(), a.clone(), vec![0.3]];
        let mut in_place = |what: &str, terms, reads, shared| {
            let kernel = Kernel::Set { ranges: ranges.clone(), terms, cast: None };
            let label = format!("{label}: in place, {what}");
            let mut case = case(label, kernel, reads, vec![d.clone(), vec![0.0]], set_spec);
            if let Body::Vector(v) = &mut case.body {
                v.shared = vec![(shared, 0)];
            }
            cases.push(case);
        };
        in_place("maps", terms, reads, 0);
        // Products, as in ASAM: d = a |d| + b + s a^2 sign(b), the factor being what is written.
        let times = |term: Term, factor| Term { factor: Some(factor), ..term };
        let terms = vec![
            times(one(Map::Identity), Map::Abs),
            one(Map::Identity),
            times(term(&[Read(0)], Map::Square), Map::Sign),
        ];
        in_place("products", terms, vec![a.clone(), b.clone(), a, d.clone(), b, vec![0.3]], 3);
    }
    cases
}

fn update_spec(kernel: &Kernel, reads: &[Vec<f64>], writes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let Kernel::Update(update) = kernel else { return vec![] };
    let [fault, norm, momentum, clip] = [3, 4, 5, 6].map(|i: usize| reads[i][0]);
    let (mut w, mut m, mut c) = (writes[0].clone(), writes[1].clone(), writes[2].clone());
    if fault > 0.0 {
        elements(&update.ranges).for_each(|i| c[i] = w[i]);
        return vec![w, m, c];
    }
    let factor = if clip > 0.0 { (clip / norm).min(1.0) } else { 1.0 };
    for i in elements(&update.ranges) {
        let group = usize::from(update.groups[i / BLOCK]);
        let (lr, decay) = (reads[7 + 2 * group][0], reads[8 + 2 * group][0]);
        let d = factor * reads[0][i] + decay * w[i];
        m[i] = momentum * m[i] + d;
        w[i] -= lr * if update.nesterov { d + momentum * m[i] } else { m[i] };
        c[i] = w[i];
    }
    vec![w, m, c]
}

pub(super) fn update_cases() -> Vec<Case> {
    let kinds = [(false, 0.0, 0.0), (true, 0.5, 0.0), (false, 1e9, 0.0), (true, 0.0, 1.0)];
    masks().iter().flat_map(|mask| kinds.map(|(nesterov, clip, fault)| update(mask, nesterov, clip, fault))).collect()
}

pub(super) fn update_bench() -> Vec<Case> {
    bench_masks().iter().map(|mask| update(mask, true, 0.0, 0.0)).collect()
}

/// Learning rate and decay of each group, all of them different.
const RATES: [[f32; 2]; MAX_GROUPS] =
    [[0.1, 5e-4], [0.01, 0.0], [1.0, 0.1], [0.5, 0.01], [0.02, 0.2], [0.3, 1e-3], [0.05, 0.05], [0.7, 0.4]];

fn update((label, len, ranges): &Masked, nesterov: bool, clip: f32, fault: f32) -> Case {
    let len = *len;
    let groups: Vec<u8> = (0..len / BLOCK).map(|b| (b % RATES.len()) as u8).collect();
    let (w, m, c) = (normal("w", len), normal("m", len), vec![0.5; len]);
    let mut reads = vec![normal("g", len), w.clone(), m.clone()];
    reads.extend([fault, 7.0, 0.9, clip].iter().chain(RATES.as_flattened()).map(|s| vec![*s]));
    let update = Update { ranges: ranges.clone(), groups: groups.into(), nesterov, cast: None };
    let label = format!("{label}, nesterov {nesterov}, clip {clip}, fault {fault}");
    let mut update = case(label, Kernel::Update(update), reads, vec![w, m, c], update_spec);
    if let Body::Vector(v) = &mut update.body {
        v.shared = vec![(1, 0), (2, 1)];
    }
    update
}

fn fold_spec(kernel: &Kernel, reads: &[Vec<f64>], writes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let &Kernel::FoldStats { c, momentum_bits } = kernel else { return vec![] };
    let momentum = f64::from(f32::from_bits(momentum_bits));
    let mut running = writes[0].clone();
    if reads[1][0] > 0.0 {
        return vec![running];
    }
    for j in 0..c {
        let (count, mean, m2) = (reads[0][j], reads[0][c + j], reads[0][2 * c + j]);
        running[j] += 1.0;
        running[c + j] += momentum * (mean - running[c + j]);
        running[2 * c + j] += momentum * (m2 / (count - 1.0) - running[2 * c + j]);
    }
    vec![running]
}

pub(super) fn perturbation_cases() -> Vec<Case> {
    perturbations(masks())
}

pub(super) fn perturbation_bench() -> Vec<Case> {
    perturbations(bench_masks())
}

fn perturbations(masks: Vec<Masked>) -> Vec<Case> {
    let spec: Spec = |kernel, reads, _| {
        let Kernel::Perturbation { ranges, .. } = kernel else { return vec![] };
        let [mut moved, mut along, mut size] = [0.0; 3];
        for i in elements(ranges) {
            let (e, g) = (reads[1][i] - reads[0][i], reads[2][i]);
            (moved, along, size) = (moved + e * e, along + e * g, size + g * g);
        }
        vec![vec![moved.sqrt()], vec![along / (moved * size).sqrt()]]
    };
    masks
        .into_iter()
        .map(|(label, len, ranges)| {
            let (w, g) = (normal("w", len), normal("g", len));
            // Steps of a few units in the last place of bf16.
            let c = w.iter().zip(&g).map(|(w, g)| w + 0.02 * g).collect();
            let kernel = Kernel::Perturbation { ranges, cast: None };
            case(label.into(), kernel, vec![w, c, g], vec![vec![0.0], vec![0.0]], spec)
        })
        .collect()
}

pub(super) fn largest_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (label, len, ranges) in masks() {
        let elements: usize = ranges.iter().map(|r| r.len()).sum();
        for n in [0, 1, 7, elements / 3, elements, elements + 1] {
            cases.push(largest(format!("{label}, n {n}"), normal("v", len), ranges.clone(), n, false));
        }
        cases.push(largest(format!("{label}, in place"), normal("v", len), ranges.clone(), elements / 10, true));
        // Five magnitudes with either sign: all are ties.
        let tied = normal("v", len).iter().map(|v| v.round().clamp(-2.0, 2.0)).collect();
        cases.push(largest(format!("{label}, ties"), tied, ranges.clone(), elements / 2, false));
        cases.push(largest(format!("{label}, zeros"), vec![0.0; len], ranges, 5, false));
    }
    cases
}

pub(super) fn largest_bench() -> Vec<Case> {
    let case = |(label, len, ranges): Masked| largest(label.into(), normal("v", len), ranges, len / 100, false);
    bench_masks().into_iter().map(case).collect()
}

fn largest(label: String, v: Vec<f32>, ranges: Ranges, n: usize, in_place: bool) -> Case {
    let spec: Spec = |kernel, reads, writes| {
        let Kernel::Largest { ranges, n } = kernel else { return vec![] };
        let mut order: Vec<usize> = elements(ranges).collect();
        order.sort_by(|a, b| reads[0][*b].abs().total_cmp(&reads[0][*a].abs()));
        let mut u = writes[0].clone();
        order.iter().enumerate().for_each(|(rank, i)| u[*i] = if rank < *n { reads[0][*i] } else { 0.0 });
        vec![u]
    };
    let u = if in_place { v.clone() } else { vec![0.5; v.len()] };
    let mut case = case(label, Kernel::Largest { ranges, n }, vec![v], vec![u], spec);
    if let Body::Vector(vector) = &mut case.body
        && in_place
    {
        vector.shared = vec![(0, 0)];
    }
    case
}

pub(super) fn unscale_cases() -> Vec<Case> {
    let overflowing = ("an infinity", 4 * BLOCK, whole(4 * BLOCK));
    unscales(masks().into_iter().chain([overflowing]).collect())
}

pub(super) fn unscale_bench() -> Vec<Case> {
    unscales(bench_masks())
}

fn unscales(masks: Vec<Masked>) -> Vec<Case> {
    let spec: Spec = |kernel, reads, writes| {
        let Kernel::Unscale(ranges) = kernel else { return vec![] };
        let mut g = writes[0].clone();
        elements(ranges).for_each(|i| g[i] /= reads[0][0]);
        let lost = |g: &f64| !(*g as f32).is_finite();
        let overflow = elements(ranges).any(|i| lost(&g[i]));
        // Overflowed values are not compared, because an infinity has no relative error.
        g.iter_mut().filter(|g| lost(g)).for_each(|g| *g = 0.0);
        vec![g, vec![f64::from(u8::from(overflow))]]
    };
    masks
        .into_iter()
        .map(|(label, len, ranges)| {
            let mut g = normal("g", len);
            if label.contains("infinity") {
                g[3 * BLOCK + 7] = f32::MAX;
            }
            let scale = if label.contains("infinity") { 1e-3 } else { 1024.0 };
            case(label.into(), Kernel::Unscale(ranges), vec![vec![scale]], vec![g, vec![0.0]], spec)
        })
        .collect()
}

pub(super) fn fold_cases() -> Vec<Case> {
    folds(&[(1, 0.0), (32, 0.0), (33, 0.0), (5, 1.0)])
}

pub(super) fn fold_bench() -> Vec<Case> {
    folds(&[(64, 0.0), (256, 0.0)])
}

fn folds(list: &[(usize, f32)]) -> Vec<Case> {
    list.iter()
        .map(|&(c, fault)| {
            let positive = |name: &str| normal(name, c).iter().map(|v| 10.0 + v).collect::<Vec<f32>>();
            let batch = [vec![100.0; c], normal("mean", c), positive("m2")].concat();
            let running = [vec![4.0; c], normal("running_mean", c), positive("running_var")].concat();
            let kernel = Kernel::FoldStats { c, momentum_bits: 0.1f32.to_bits() };
            let label = format!("{c} channels, fault {fault}");
            case(label, kernel, vec![batch, vec![fault]], vec![running], fold_spec)
        })
        .collect()
}
