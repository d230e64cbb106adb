//! SAM's relatives against plain transcriptions of their papers.

use super::oracle::*;
use samcore::check::relative_error;
use samcore::graph::Graph;
use samcore::optim::{self, Options};
use samcore::step::{Division, EMA, EMA_RUNNING, W};

/// Settings of all of them, far from values that would hide a mistake.
const SLOTS: [(&str, f32); 12] = [
    ("lr", 0.5),
    ("rho", 0.3),
    ("momentum", 0.9),
    ("weight_decay", 0.01),
    ("clip", 0.4),
    ("eta", 0.05),
    ("sigma", 0.8),
    ("lambda", 0.6),
    ("theta", 0.3),
    ("alpha", 0.7),
    ("rho_min", 0.1),
    ("head_lr", 0.0),
];

/// The device's state after the steps of the optimizer `name`, the batch in groups of `m`, passes of at most `part` rows.
fn on_device(g: &Graph, name: &str, slots: &Slots, every: usize, [m, part]: [usize; 2]) -> State {
    let optimizer = (optim::find(name).unwrap().build)(&Options { every, ..Options::default() });
    let division = Division { rows: ROWS, group: m, part };
    let record = |recorder: &mut samcore::step::Recorder<'_>| {
        let phases = 0..optimizer.phases();
        phases.map(|p| recorder.program(name, division, |step| optimizer.record(p, step)).unwrap()).collect()
    };
    in_phases(g, slots, &data(), record, |t| optimizer.phase(t)).0
}

/// A transcription over steps and groups: `step` gets the state, the step's number and a function that gives gradient and
/// statistics of each group at weights of its own, and returns the gradient to descend with and the statistics to keep.
fn by_hand(
    g: &Graph,
    m: usize,
    mut step: impl FnMut(&State, usize, &[Group<'_>]) -> (Vec<f64>, Vec<Vec<f64>>),
) -> State {
    let oracle = Oracle { g, data: data() };
    let mut state = start(g);
    for t in 0..STEPS {
        let groups: Vec<Group<'_>> =
            (0..ROWS).step_by(m).map(|first| Group { oracle: &oracle, rows: first..first + m, t }).collect();
        let (gradient, statistics) = step(&state, t, &groups);
        descend(&mut state, &gradient, &SLOTS, true);
        statistics.iter().for_each(|s| fold(&mut state, s));
    }
    state
}

struct Group<'a> {
    oracle: &'a Oracle<'a>,
    rows: std::ops::Range<usize>,
    t: usize,
}

impl Group<'_> {
    fn at(&self, w: &[f64]) -> Loss {
        self.oracle.over(self.rows.clone(), None, w, None, self.t)
    }
}

fn setting(name: &str) -> f64 {
    get(&SLOTS, name)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn mean(vectors: &[Vec<f64>]) -> Vec<f64> {
    let sum = vectors.iter().fold(vec![0.0; vectors[0].len()], |sum, v| moved(&sum, 1.0, v));
    sum.iter().map(|x| x / vectors.len() as f64).collect()
}

fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// A step of SAM's kind: each group's gradient at w + rho d / |d|, d being what `direction` makes of w and the gradient there.
fn ascent(
    state: &State,
    groups: &[Group<'_>],
    direction: impl Fn(&[f64], &[f64]) -> Vec<f64>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (mut all, mut statistics) = (vec![], vec![]);
    for group in groups {
        let first = group.at(&state.w);
        let d = direction(&state.w, &first.gradient);
        all.push(group.at(&moved(&state.w, setting("rho") / norm(&d), &d)).gradient);
        statistics.push(first.statistics);
    }
    (mean(&all), statistics)
}

/// Groups, and the parts of their passes.
const DIVISIONS: [[usize; 2]; 2] = [[ROWS, ROWS], [4, 4]];

#[test]
fn asam_is_its_transcription() {
    let g = network();
    for [m, part] in DIVISIONS {
        let hand = by_hand(&g, m, |state, _, groups| {
            let (mut all, mut statistics) = (vec![], vec![]);
            for group in groups {
                let first = group.at(&state.w);
                let mut t = vec![1.0; state.w.len()];
                for p in g.params().list().iter().filter(|p| p.name.ends_with("weight")) {
                    let place = p.offset..p.offset + p.len();
                    let scaled = state.w[place.clone()].iter().map(|w| w.abs() + setting("eta"));
                    t.splice(place, scaled);
                }
                let tg = product(&t, &first.gradient);
                let climb = product(&t, &tg);
                all.push(group.at(&moved(&state.w, setting("rho") / norm(&tg), &climb)).gradient);
                statistics.push(first.statistics);
            }
            (mean(&all), statistics)
        });
        assert_same(&format!("asam, m {m}"), &g, &on_device(&g, "asam", &SLOTS, 1, [m, part]), &hand);
    }
}

#[test]
fn sam_on_perturbs_batch_norms_alone() {
    let g = network();
    for [m, part] in DIVISIONS {
        let norms_of = |gradient: &[f64]| {
            let mut d = vec![0.0; gradient.len()];
            for p in g.params().list().iter().filter(|p| p.name.starts_with("bn.")) {
                d[p.offset..p.offset + p.len()].copy_from_slice(&gradient[p.offset..p.offset + p.len()]);
            }
            d
        };
        let hand = by_hand(&g, m, |state, _, groups| ascent(state, groups, |_, gradient| norms_of(gradient)));
        assert_same(&format!("sam-on, m {m}"), &g, &on_device(&g, "sam-on", &SLOTS, 1, [m, part]), &hand);
    }
}

#[test]
fn f_sam_and_vasso_are_their_transcriptions() {
    let g = network();
    let (sigma, lambda, theta) = (setting("sigma"), setting("lambda"), setting("theta"));
    for [m, part] in DIVISIONS {
        for name in ["f-sam", "vasso"] {
            let mut kept: Option<Vec<f64>> = None;
            let hand = by_hand(&g, m, |state, _, groups| {
                let direction = |_: &[f64], gradient: &[f64]| match (&kept, name) {
                    (None, _) => gradient.to_vec(),
                    (Some(kept), "f-sam") => moved(gradient, -sigma, kept),
                    (Some(kept), _) => moved(&moved(kept, -theta, kept), theta, gradient),
                };
                let result = ascent(state, groups, direction);
                let new = mean(&groups.iter().map(|group| group.at(&state.w).gradient).collect::<Vec<_>>());
                let keep = if name == "f-sam" { lambda } else { 1.0 - theta };
                kept = Some(match &kept {
                    None => new,
                    Some(old) => moved(&moved(old, keep - 1.0, old), 1.0 - keep, &new),
                });
                result
            });
            assert_same(&format!("{name}, m {m}"), &g, &on_device(&g, name, &SLOTS, 1, [m, part]), &hand);
        }
    }
}

#[test]
fn msam_is_its_transcription_whatever_its_parts() {
    let g = network();
    for part in [ROWS, 4] {
        let hand = by_hand(&g, part, |state, t, groups| {
            let w = if t == 0 { state.w.clone() } else { moved(&state.w, -setting("rho") / norm(&state.m), &state.m) };
            let all: Vec<Loss> = groups.iter().map(|group| group.at(&w)).collect();
            let gradients: Vec<_> = all.iter().map(|loss| loss.gradient.clone()).collect();
            (mean(&gradients), all.into_iter().map(|loss| loss.statistics).collect())
        });
        assert_same(&format!("msam in parts of {part}"), &g, &on_device(&g, "msam", &SLOTS, 1, [ROWS, part]), &hand);
    }
}

#[test]
fn gsam_is_its_transcription() {
    let g = network();
    for [m, part] in DIVISIONS {
        let hand = by_hand(&g, m, |state, _, groups| {
            let (mut all, mut statistics) = (vec![], vec![]);
            for group in groups {
                let first = group.at(&state.w);
                let gradient = first.gradient;
                let gs = group.at(&moved(&state.w, setting("rho") / norm(&gradient), &gradient)).gradient;
                let across = moved(&gradient, -dot(&gradient, &gs) / dot(&gs, &gs), &gs);
                all.push(moved(&gs, -setting("alpha"), &across));
                statistics.push(first.statistics);
            }
            (mean(&all), statistics)
        });
        assert_same(&format!("gsam, m {m}"), &g, &on_device(&g, "gsam", &SLOTS, 1, [m, part]), &hand);
    }
}

#[test]
fn gsams_radius_follows_the_learning_rate() {
    for row in optim::OPTIMIZERS {
        let optimizer = (row.build)(&Options::default());
        let expected = if row.name == "gsam" { [0.3, 0.2, 0.1] } else { [0.3; 3] };
        let got = [1.0, 0.5, 0.0].map(|share| optimizer.radius([0.1, 0.3], share));
        assert!(
            got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-12),
            "{}: {got:?}",
            row.name
        );
    }
}

#[test]
fn looksam_and_sam_in_every_second_step_are_their_transcriptions() {
    let g = network();
    for [m, part] in DIVISIONS {
        for name in ["looksam", "sam"] {
            let mut across = vec![];
            let hand = by_hand(&g, m, |state, t, groups| {
                let plain: Vec<Loss> = groups.iter().map(|group| group.at(&state.w)).collect();
                let gradient = mean(&plain.iter().map(|loss| loss.gradient.clone()).collect::<Vec<_>>());
                if t % 2 == 0 {
                    let (gs, statistics) = ascent(state, groups, |_, gradient| gradient.to_vec());
                    across = moved(&gs, -dot(&gs, &gradient) / dot(&gradient, &gradient), &gradient);
                    return (gs, statistics);
                }
                let alpha = if name == "looksam" { setting("alpha") } else { 0.0 };
                let descent = moved(&gradient, alpha * norm(&gradient) / norm(&across), &across);
                (descent, plain.into_iter().map(|loss| loss.statistics).collect())
            });
            assert_same(&format!("{name}, m {m}"), &g, &on_device(&g, name, &SLOTS, 2, [m, part]), &hand);
        }
    }
}

#[test]
fn a_radius_of_zero_has_the_bits_of_sgd() {
    let g = network();
    let bits = |name: &str, slots: &Slots| {
        let state = on_device(&g, name, slots, 2, [ROWS, ROWS]);
        [state.w, state.m, state.running].concat().into_iter().map(f64::to_bits).collect::<Vec<u64>>()
    };
    let none = SLOTS.map(|(name, value)| (name, if name == "rho" { 0.0 } else { value }));
    let plain = bits("sgd", &SLOTS);
    for row in optim::OPTIMIZERS.iter().filter(|row| row.settings.contains(&"rho")) {
        assert!(bits(row.name, &none) == plain, "{} with rho 0", row.name);
        assert!(bits(row.name, &SLOTS) != plain, "{} perturbs nothing", row.name);
    }
}

#[test]
fn parameters_that_are_frozen_are_not_perturbed() {
    let g = network();
    for row in optim::OPTIMIZERS.iter().filter(|row| row.settings.contains(&"rho")) {
        let optimizer = (row.build)(&Options::default());
        let run = |frozen: &'static str| {
            recorded(&g, &SLOTS, &data(), |recorder| {
                recorder.freeze(|p| p.name == frozen);
                recorder.program("step", Division::whole(ROWS), |step| optimizer.record(0, step)).unwrap()
            })
        };
        // Frozen weights stay in the compute copy too, which the second pass reads.
        let (_, mut exec) = run("fc.weight");
        let initial = g.params().init(1);
        let fc = g.params().list().iter().find(|p| p.name == "fc.weight").unwrap();
        let place = fc.offset..fc.offset + fc.len();
        let copy = exec.download(samcore::step::C).unwrap();
        assert_eq!(copy[place.clone()], initial[place], "{}", row.name);
    }
}

#[test]
fn decay_in_the_loss_is_in_both_passes_and_nowhere_else() {
    let g = network();
    for name in ["sgd", "sam", "msam"] {
        let optimizer = (optim::find(name).unwrap().build)(&Options::default());
        let (device, _) = recorded(&g, &SLOTS, &data(), |recorder| {
            recorder.decay_in_loss().unwrap();
            recorder.program("step", Division::whole(ROWS), |step| optimizer.record(0, step)).unwrap()
        });
        let oracle = Oracle { g: &g, data: data() };
        let mut hand = start(&g);
        let undecayed = SLOTS.map(|(name, value)| (name, if name == "weight_decay" { 0.0 } else { value }));
        for t in 0..STEPS {
            let at = |w: &[f64]| {
                let loss = oracle.at(w, None, t);
                (moved(&loss.gradient, setting("weight_decay"), w), loss.statistics)
            };
            let rho = setting("rho");
            let w = match name {
                "msam" if t > 0 => moved(&hand.w, -rho / norm(&hand.m), &hand.m),
                _ => hand.w.clone(),
            };
            let (mut gradient, statistics) = at(&w);
            if name == "sam" {
                gradient = at(&moved(&w, rho / norm(&gradient), &gradient)).0;
            }
            descend(&mut hand, &gradient, &undecayed, true);
            fold(&mut hand, &statistics);
        }
        assert_same(name, &g, &device, &hand);
    }
}

#[test]
fn averaged_weights_have_equal_shares_and_the_statistics_of_their_own_batches() {
    let g = network();
    let sgd = (optim::find("sgd").unwrap().build)(&Options::default());
    let mut others = vec![];
    let (device, mut exec) = recorded(&g, &SLOTS, &data(), |recorder| {
        let whole = Division::whole(ROWS);
        let step = recorder.program("step", whole, |step| sgd.record(0, step)).unwrap();
        let weights = recorder.program("average", whole, |step| step.average_weights()).unwrap();
        others = vec![weights, recorder.program("statistics", whole, |step| step.average_statistics()).unwrap()];
        step
    });
    let (average, mut expected) = (exec.vector(EMA).unwrap(), vec![0.0; device.w.len()]);
    let step = exec.programs().next().unwrap();
    for n in 0..3 {
        exec.run(step, &counters(n)).unwrap();
        let w: Vec<f64> = exec.download(W).unwrap().into_iter().map(f64::from).collect();
        expected = moved(&moved(&expected, -1.0 / (n + 1) as f64, &expected), 1.0 / (n + 1) as f64, &w);
        exec.set_slot("ema_keep", n as f32 / (n + 1) as f32).unwrap();
        exec.run(others[0], &counters(0)).unwrap();
    }
    let got = exec.download_from(average).unwrap();
    assert!(relative_error(&got, &expected) < 1e-6);
    // Twice the same batch has the mean of itself, with the unbiased variance that running statistics have.
    for n in 0..2 {
        exec.set_slot("ema_keep", n as f32 / (n + 1) as f32).unwrap();
        exec.run(others[1], &counters(0)).unwrap();
    }
    let running = exec.vector(EMA_RUNNING).unwrap();
    let got = exec.download_from(running).unwrap();
    let statistics = Oracle { g: &g, data: data() }.plain_statistics(&expected);
    let c = statistics.len() / 3;
    let variance: Vec<f64> = (0..c).map(|j| statistics[2 * c + j] / (statistics[j] - 1.0)).collect();
    assert!(relative_error(&got[c..2 * c], &statistics[c..2 * c]) < 1e-5);
    assert!(relative_error(&got[2 * c..3 * c], &variance) < 1e-5);
}
