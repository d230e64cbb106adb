//! Every operation of the table at the sizes of its `bench` column, call by call.

use super::limits::Limits;
use super::{Spread, repeat, rounded};
use crate::check::ready;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::case::{Body, Case};
use crate::ops::{OPS, Row};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Seed of the values that are computed on; times do not depend on them.
const SEED: u64 = 1;

/// One call of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTime {
    /// "forward", "backward_data"; empty where the case is this one call.
    pub part: String,
    pub seconds: Spread,
    pub repeats: usize,
    pub flops: u64,
    /// The least that must move: every operand once.
    pub bytes: u64,
}

impl CallTime {
    /// Share of the limit that binds, and which that is. Above 1 where operands stay in the caches, or where an algorithm
    /// needs fewer multiplications than the definition.
    pub fn share(&self, limits: &Limits) -> (f64, &'static str) {
        let (least, limit) = limits.least_seconds(self.flops, self.bytes);
        (least / self.seconds.median, limit)
    }
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.seconds.median / 1e9
    }
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds.median / 1e9
    }

    /// The result under the name of its case.
    pub fn to_json(&self, case: &str, limits: &Limits) -> Value {
        let name = if self.part.is_empty() { case.to_owned() } else { format!("{case}: {}", self.part) };
        let (share, limit) = self.share(limits);
        json!({
            "name": name,
            "ms": self.seconds.times(1e3).to_json(),
            "repeats": self.repeats,
            "flops": self.flops,
            "bytes": self.bytes,
            "gflops": rounded(self.gflops()),
            "gb_per_s": rounded(self.gb_per_s()),
            "limit": limit,
            "share_of_limit": rounded(share),
        })
    }
}

/// The cases of a row that `filter` chooses, by name: "conv2d 128x28x28x1 -> 32, 3x3, stride 1, pad 1". The name of an
/// operation chooses that operation's, any other text those whose names contain it.
pub fn cases(row: &Row, filter: &str) -> Vec<(String, Case)> {
    let operation = OPS.iter().any(|other| other.name == filter);
    if operation && row.name != filter {
        return vec![];
    }
    let named = (row.bench)().into_iter().map(|case| (format!("{} {}", row.name, case.label), case));
    named.filter(|(name, _)| name.contains(filter)).collect()
}

/// The names of all cases that contain `filter`.
///
/// # Errors
/// Usage: no name does.
pub fn names(filter: &str) -> Result<Vec<String>> {
    let names: Vec<String> = OPS.iter().flat_map(|row| cases(row, filter)).map(|(name, _)| name).collect();
    match names.is_empty() {
        false => Ok(names),
        true => {
            let rows: Vec<&str> = OPS.iter().map(|row| row.name).collect();
            Err(Error::usage(format!("no case has '{filter}' in its name; --list shows all, of {}", rows.join(", "))))
        }
    }
}

/// Times the calls of a case, forward and backward as training runs them: once untimed, then in order again and again
/// until `budget` is used up, each call by itself.
///
/// # Errors
/// If the case cannot be run.
pub fn time_case(case: &Case, device: Box<dyn Device>, budget: Duration) -> Result<Vec<CallTime>> {
    let mut ready = ready(case, device, SEED)?;
    let count = ready.calls().len();
    let runs: Vec<Vec<f64>> = repeat(budget, || (0..count).map(|call| ready.time(call)).collect::<Result<Vec<f64>>>())?;
    let time = |i: usize| {
        let call = &ready.calls()[i];
        let seconds = Spread::of(&runs.iter().map(|run| run[i]).collect::<Vec<f64>>());
        let part = part(&case.body, &call.label);
        CallTime { part, seconds, repeats: runs.len(), flops: call.flops(), bytes: call.bytes() }
    };
    let mut calls: Vec<CallTime> = (0..count).map(time).collect();
    number_repeated_parts(&mut calls);
    Ok(calls)
}

/// The name of a call within its case: "op0.forward" is "forward" in a case of one operation, "0 conv2d forward" in others.
fn part(body: &Body, label: &str) -> String {
    let Body::Graph(graph) = body else { return String::new() };
    let Some((node, part)) = label.split_once('.') else { return label.into() };
    let number = node.strip_prefix("op").and_then(|n| n.parse::<usize>().ok());
    match number.and_then(|n| Some((n, graph.ops.get(n)?.0.operation()?.name()))) {
        Some(_) if graph.ops.len() == 1 => part.into(),
        Some((n, operation)) => format!("{n} {operation} {part}"),
        None => label.into(),
    }
}

/// Results are found by name, so a name occurs once.
pub(super) fn number_repeated_parts(calls: &mut [CallTime]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for call in calls {
        let count = seen.entry(call.part.clone()).or_default();
        *count += 1;
        if *count > 1 {
            call.part += &format!(" ({count})");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use std::collections::HashSet;

    #[test]
    fn every_case_has_a_name_of_its_own_that_filters_find() {
        let all = names("").unwrap();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        for row in OPS {
            assert!(all.iter().any(|name| name.starts_with(row.name)), "{} is not timed", row.name);
        }
        assert_eq!(names("-> 32, 3x3").unwrap().len(), 2);
        let message = names("conv3d").unwrap_err().to_string();
        assert!(message.starts_with("no case has 'conv3d' in its name; --list shows all, of conv2d, "), "{message}");
    }

    /// On the small cases of the checks, which are the same graphs.
    #[test]
    fn every_call_of_a_case_is_timed_under_its_own_name() {
        for row in OPS {
            let case = &(row.cases)()[0];
            let device = Box::new(CpuDevice::new(2).unwrap());
            let calls = time_case(case, device, Duration::ZERO).unwrap();
            let parts: HashSet<&str> = calls.iter().map(|call| &call.part[..]).collect();
            assert_eq!(parts.len(), calls.len(), "{}: {parts:?}", row.name);
            for call in &calls {
                assert!(call.seconds.min > 0.0 && call.bytes > 0 && call.repeats == 3, "{}: {call:?}", row.name);
            }
            if row.name == "conv2d" {
                assert_eq!(parts, HashSet::from(["forward", "backward_weight", "backward_data"]));
                assert!(calls.iter().all(|call| call.flops == calls[0].flops && call.flops > 0), "{calls:?}");
            }
        }
    }
}
