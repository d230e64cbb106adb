//! Profile of a step: the time of each call of its program, and its share of the machine's limits.

use super::limits::Limits;
use super::operations::{CallTime, number_repeated_parts};
use super::steps::{Steps, WARM_UP, Work};
use super::{Spread, repeat, rounded, timed};
use crate::device::Device;
use crate::error::Result;
use crate::ops::call::{Call, Kernel};
use serde_json::{Value, json};
use std::time::Duration;

/// One call of a step's program.
#[derive(Clone, Debug, PartialEq)]
pub struct Profiled {
    /// Its part is the call's label: "pass1.conv2.forward"; of several calls with one label the later ones are numbered.
    pub time: CallTime,
    /// See [`kind`].
    pub kind: &'static str,
    /// "128x28x28x32 -> 64, 3x3, stride 1, pad 1"; empty where the operands' sizes say all.
    pub shape: String,
    /// Elements of each operand.
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
}

/// Times of the calls of one step.
#[derive(Clone, Debug)]
pub struct Profile {
    pub work: Work,
    /// Seconds of whole steps, as training runs them, in turns with the steps that were run call by call.
    pub whole: Spread,
    /// In the order of the program.
    pub calls: Vec<Profiled>,
    /// Seconds of each call in each step that was run call by call.
    pub steps: Vec<Vec<f64>>,
}

/// A call, all calls of a kind, or all calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub calls: usize,
    /// Seconds of all of them together in one step.
    pub seconds: Spread,
    pub flops: u64,
    pub bytes: u64,
    /// Share of the step: the calls' medians over the sum of all calls' medians.
    pub share: f64,
    /// The least time by the machine's limits over the time taken; see [`CallTime::share`].
    pub of_limit: f64,
    /// "fma" or "copy", whichever most of that least time is due to.
    pub limit: &'static str,
}

impl Row {
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.seconds.median / 1e9
    }
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds.median / 1e9
    }

    /// The result under the name of its work.
    fn to_json(&self, work: &Work) -> Value {
        json!({
            "name": format!("profile of {}: {}", work.name(), self.name),
            "ms": self.seconds.times(1e3).to_json(),
            "calls": self.calls,
            "share_of_step": rounded(self.share),
            "flops": self.flops,
            "bytes": self.bytes,
            "gflops": rounded(self.gflops()),
            "gb_per_s": rounded(self.gb_per_s()),
            "limit": self.limit,
            "share_of_limit": rounded(self.of_limit),
        })
    }
}

impl Profile {
    /// Each call, that with the largest share first.
    pub fn rows(&self, limits: &Limits) -> Vec<Row> {
        let row = |i: usize| self.row(self.calls[i].time.part.clone(), &[i], limits);
        by_share((0..self.calls.len()).map(row).collect())
    }

    /// The calls of each kind together, the kind with the largest share first.
    pub fn kinds(&self, limits: &Limits) -> Vec<Row> {
        let mut kinds: Vec<&'static str> = Vec::new();
        for call in &self.calls {
            if !kinds.contains(&call.kind) {
                kinds.push(call.kind);
            }
        }
        let row = |kind: &&'static str| {
            let of: Vec<usize> = (0..self.calls.len()).filter(|i| self.calls[*i].kind == *kind).collect();
            self.row(format!("kind {kind}"), &of, limits)
        };
        by_share(kinds.iter().map(row).collect())
    }

    pub fn total(&self, limits: &Limits) -> Row {
        let all: Vec<usize> = (0..self.calls.len()).collect();
        self.row("all calls".into(), &all, limits)
    }

    fn row(&self, name: String, of: &[usize], limits: &Limits) -> Row {
        let median = |i: usize| self.calls[i].time.seconds.median;
        let all: f64 = (0..self.calls.len()).map(median).sum();
        let sums: Vec<f64> = self.steps.iter().map(|step| of.iter().map(|i| step[*i]).sum()).collect();
        let seconds = Spread::of(&sums);
        let (mut least, mut compute) = (0.0, 0.0);
        let (mut flops, mut bytes) = (0, 0);
        for i in of {
            let time = &self.calls[*i].time;
            let (seconds, limit) = limits.least_seconds(time.flops, time.bytes);
            least += seconds;
            compute += if limit == "fma" { seconds } else { 0.0 };
            (flops, bytes) = (flops + time.flops, bytes + time.bytes);
        }
        Row {
            name,
            calls: of.len(),
            seconds,
            flops,
            bytes,
            share: of.iter().map(|i| median(*i)).sum::<f64>() / all,
            of_limit: least / seconds.median,
            limit: if compute > 0.5 * least { "fma" } else { "copy" },
        }
    }

    /// A result for each call, for each kind of call, and for all together.
    pub fn to_json(&self, limits: &Limits) -> Vec<Value> {
        let mut total = self.total(limits).to_json(&self.work);
        total["whole_step_ms"] = self.whole.times(1e3).to_json();
        total["steps"] = self.steps.len().into();
        let rows = self.rows(limits).into_iter().chain(self.kinds(limits));
        rows.map(|row| row.to_json(&self.work)).chain([total]).collect()
    }
}

fn by_share(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| b.share.total_cmp(&a.share));
    rows
}

/// Runs steps for about `budget`, in turns as a whole and call by call, at least three of each.
///
/// Between two calls nothing is prefetched and threads may fall asleep, so that the calls together take a little longer
/// than a whole step; [`Profile::whole`] says how much.
///
/// # Errors
/// Unknown names; a model that does not fit its images; too little memory.
pub fn profile(work: &Work, device: Box<dyn Device>, budget: Duration) -> Result<Profile> {
    let graph = work.graph()?;
    let mut steps = Steps::new(work, &graph, device)?;
    let together = steps.together();
    steps.steps(WARM_UP.max(together))?;
    let rounds = repeat(budget, || {
        // A GPU repeats a call to time it, which leaves weights that no step would.
        steps.begin_again(&graph)?;
        let whole = timed(|| steps.steps(together))? / together as f64;
        Ok((whole, steps.time_calls()?))
    })?;
    let (whole, times): (Vec<f64>, Vec<Vec<f64>>) = rounds.into_iter().unzip();
    let time = |(i, call): (usize, &Call)| CallTime {
        part: call.label.clone(),
        seconds: Spread::of(&times.iter().map(|step| step[i]).collect::<Vec<f64>>()),
        repeats: times.len(),
        flops: call.flops(),
        bytes: call.bytes(),
    };
    let mut named: Vec<CallTime> = steps.calls().iter().enumerate().map(time).collect();
    number_repeated_parts(&mut named);
    let lens = |locs: &[crate::ops::call::Loc]| locs.iter().map(|loc| loc.len).collect();
    let profiled = |(time, call): (CallTime, &Call)| Profiled {
        time,
        kind: kind(&call.kernel),
        shape: shape(&call.kernel),
        reads: lens(&call.reads),
        writes: lens(&call.writes),
    };
    let calls = named.into_iter().zip(steps.calls()).map(profiled).collect();
    Ok(Profile { work: work.clone(), whole: Spread::of(&whole), calls, steps: times })
}

/// The family that a kernel's time is counted under.
pub fn kind(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Ingest(_) => "ingest",
        Kernel::ConvForward(_) => "conv forward",
        Kernel::ConvBackwardData { .. } => "conv backward data",
        Kernel::ConvBackwardWeight(_) => "conv backward weight",
        Kernel::BatchStats { .. } | Kernel::MergeStats { .. } | Kernel::NormApply(_) | Kernel::FoldStats { .. } => {
            "norm forward"
        }
        Kernel::NormBackwardSums(_) | Kernel::MergeSums { .. } | Kernel::NormBackwardData { .. } => "norm backward",
        Kernel::MaxPool(_) | Kernel::MaxPoolBackward { .. } | Kernel::AvgPool(_) | Kernel::AvgPoolBackward { .. } => {
            "pooling"
        }
        Kernel::LinearForward(_) | Kernel::LinearBackwardData { .. } | Kernel::LinearBackwardWeight(_) => "linear",
        Kernel::Relu
        | Kernel::ReluBackward { .. }
        | Kernel::Add
        | Kernel::Copy { .. }
        | Kernel::PadShortcut(_)
        | Kernel::PadShortcutBackward { .. }
        | Kernel::Dropout { .. }
        | Kernel::MixRows(_)
        | Kernel::ScaleRows { .. }
        | Kernel::Tap { .. }
        | Kernel::TapBackward { .. }
        | Kernel::TapDelta { .. } => "pointwise",
        Kernel::CrossEntropy { .. } | Kernel::MeanLoss { .. } | Kernel::CrossEntropyBackward { .. } => "loss",
        Kernel::Norm(_)
        | Kernel::Dot(_)
        | Kernel::Set { .. }
        | Kernel::Perturbation { .. }
        | Kernel::Largest { .. }
        | Kernel::PgdStep(_)
        | Kernel::Unscale(_)
        | Kernel::Scalar(_)
        | Kernel::Guard
        | Kernel::Update(_) => "vectors",
    }
}

/// The geometry of a kernel where the lengths of its operands leave it open.
fn shape(kernel: &Kernel) -> String {
    match kernel {
        Kernel::ConvForward(s) | Kernel::ConvBackwardWeight(s) | Kernel::ConvBackwardData { shape: s, .. } => {
            let (x, k) = (format!("{}x{}x{}x{}", s.n, s.h, s.w, s.ci), s.k);
            format!("{x} -> {}, {k}x{k}, stride {}, pad {}", s.co, s.stride, s.pad)
        }
        Kernel::LinearForward(s) | Kernel::LinearBackwardWeight(s) | Kernel::LinearBackwardData { shape: s, .. } => {
            format!("{}x{} -> {}", s.n, s.inputs, s.outputs)
        }
        Kernel::NormApply(s) | Kernel::NormBackwardSums(s) | Kernel::NormBackwardData { shape: s, .. } => {
            format!("{}x{}x{}x{}", s.n, s.h, s.w, s.c)
        }
        Kernel::MaxPool(s)
        | Kernel::AvgPool(s)
        | Kernel::MaxPoolBackward { shape: s, .. }
        | Kernel::AvgPoolBackward { shape: s, .. } => {
            let window = format!("{}x{}", s.window_h, s.window_w);
            format!("{}x{}x{}x{}, {window}, stride {}, pad {}", s.n, s.h, s.w, s.c, s.stride, s.pad)
        }
        Kernel::Ingest(s) => format!("{}x{}x{}x{}", s.n, s.h, s.w, s.c),
        _ => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::steps::Task;
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::dtype::DType;
    use std::collections::HashSet;

    pub(in crate::bench) fn example(task: Task) -> Profile {
        let work = Work { model: "cnn".into(), task, batch: 2, dtype: DType::F32 };
        profile(&work, Box::new(CpuDevice::new(2).unwrap()), Duration::ZERO).unwrap()
    }

    #[test]
    fn every_call_of_a_step_is_told_and_shares_sum_to_one() {
        let limits = Limits::example();
        for task in [Task::Train("sam".into()), Task::Gradient, Task::Evaluate] {
            let profile = example(task.clone());
            let graph = profile.work.graph().unwrap();
            let steps = Steps::new(&profile.work, &graph, Box::new(CpuDevice::new(2).unwrap())).unwrap();
            let labels: Vec<&str> = profile.calls.iter().map(|c| c.time.part.split(" (").next().unwrap()).collect();
            let program: Vec<&str> = steps.calls().iter().map(|c| &c.label[..]).collect();
            assert_eq!(labels, program, "{task:?}");
            let (rows, kinds, total) = (profile.rows(&limits), profile.kinds(&limits), profile.total(&limits));
            let names: HashSet<&str> = rows.iter().map(|row| &row.name[..]).collect();
            assert_eq!(names.len(), program.len(), "{task:?}: two calls share a name");
            for rows in [&rows, &kinds] {
                let share: f64 = rows.iter().map(|row| row.share).sum();
                assert!(
                    (share - 1.0).abs() < 1e-9 && rows.is_sorted_by(|a, b| a.share >= b.share),
                    "{task:?}: {share}"
                );
                assert_eq!(rows.iter().map(|row| row.calls).sum::<usize>(), program.len());
                assert_eq!(rows.iter().map(|row| row.flops).sum::<u64>(), total.flops);
                assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), total.bytes);
            }
            assert!(profile.whole.min > 0.0 && total.seconds.min > 0.0 && total.share == 1.0, "{total:?}");
        }
    }

    #[test]
    fn kinds_hold_a_row_against_the_limit_that_most_of_its_least_time_is_due_to() {
        let call = |part: &str, kind, flops, bytes| {
            let seconds = Spread { median: 1.0, min: 1.0, max: 1.0 };
            let time = CallTime { part: part.into(), seconds, repeats: 1, flops, bytes };
            Profiled { time, kind, shape: String::new(), reads: vec![], writes: vec![] }
        };
        let work = Work { model: "cnn".into(), task: Task::Gradient, batch: 1, dtype: DType::F32 };
        // 0.5 s at 100 GFLOP/s, 0.1 s and 0.2 s at 20 GB/s.
        let calls = vec![
            call("a", "conv forward", 50_000_000_000, 0),
            call("b", "conv forward", 0, 2_000_000_000),
            call("c", "pooling", 0, 4_000_000_000),
        ];
        let whole = Spread { median: 3.0, min: 3.0, max: 3.0 };
        let profile = Profile { work, whole, calls, steps: vec![vec![1.0, 1.0, 1.0]] };
        let kinds: Vec<_> = profile.kinds(&Limits::example()).iter().map(|r| (r.of_limit, r.limit, r.calls)).collect();
        assert_eq!(kinds, [(0.3, "fma", 2), (0.2, "copy", 1)]);
    }
}
