//! The table of a step's calls that `samcore bench --profile` shows.

use super::text::{extremes, figure, or_dash};
use crate::bench::limits::Limits;
use crate::bench::profile::{Profile, Row};
use crate::output::printable;
use std::path::Path;

/// Calls that take less of the step than this are counted together.
const SMALL: f64 = 0.001;

fn head(of: &str, width: usize) -> String {
    format!("{of:<width$} calls        ms (min to max)            of step   GFLOP/s      GB/s   of limit\n")
}

fn line(name: &str, row: &Row, width: usize) -> String {
    let ms = row.seconds.times(1e3);
    format!(
        "{name:<width$} {:>5} {:>9} {:<20} {:>8.1} % {:>9} {:>9} {:>6.0} % {}\n",
        row.calls,
        figure(ms.median),
        extremes(ms),
        100.0 * row.share,
        or_dash(row.flops, row.gflops()),
        figure(row.gb_per_s()),
        100.0 * row.of_limit,
        row.limit,
    )
}

/// The calls by their time, then the kinds of calls, then all together.
pub fn profile(p: &Profile, limits: &Limits) -> String {
    let (rows, kinds, total) = (p.rows(limits), p.kinds(limits), p.total(limits));
    let (shown, small): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.share >= SMALL);
    let width = shown.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(24);
    let mut text = format!("\n{}, call by call: medians of {} steps\n", p.work.name(), p.steps.len());
    text += &head("call", width);
    text.extend(shown.iter().map(|row| line(&row.name, row, width)));
    if !small.is_empty() {
        let share: f64 = small.iter().map(|row| row.share).sum();
        let calls = format!("below {} % each", 100.0 * SMALL);
        text += &format!("{calls:<width$} {:>5} {:>39.1} %\n", small.len(), 100.0 * share);
    }
    text += &format!("\n{}", head("kind", width));
    text.extend(kinds.iter().map(|row| line(row.name.trim_start_matches("kind "), row, width)));
    text += &line(&total.name, &total, width);
    let whole = p.whole.times(1e3);
    let ratio = total.seconds.median / p.whole.median;
    text + &format!(
        "{:<width$} {:>5} {:>9} {:<20} the calls take {ratio:.2} of it\n",
        "whole steps, in turns",
        "",
        figure(whole.median),
        extremes(whole)
    )
}

/// Returns the text below all profiles.
pub fn foot(trace: &Path) -> String {
    format!(
        "
GB/s and of limit as for operations: every operand once; above 100 % where operands stay in the caches.
trace: {}; open it in ui.perfetto.dev
",
        printable(&trace.display().to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::profile::profile as measure;
    use crate::bench::steps::{Task, Work};
    use crate::device::cpu::CpuDevice;
    use crate::dtype::DType;
    use std::time::Duration;

    #[test]
    fn every_kind_has_a_line_and_the_shares_shown_sum_to_the_whole() {
        let work = Work { model: "cnn".into(), task: Task::Train("sam".into()), batch: 2, dtype: DType::F32 };
        let limits = Limits::example();
        let profile_of = measure(&work, Box::new(CpuDevice::new(1).unwrap()), Duration::ZERO).unwrap();
        let text = profile(&profile_of, &limits);
        let (calls, kinds) = text.split_once("\nkind").unwrap();
        // The column "of step" is the first with a percent sign.
        let share = |line: &str| line.split_once(" %")?.0.split_whitespace().last()?.parse::<f64>().ok();
        let shares: Vec<f64> = calls.lines().skip(3).filter_map(share).collect();
        assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.06 * shares.len() as f64, "{text}");
        for row in profile_of.kinds(&limits) {
            let kind = row.name.trim_start_matches("kind ").to_owned();
            assert!(kinds.lines().any(|line| line.starts_with(&kind)), "{kind}: {text}");
        }
        let head = calls.lines().nth(2).unwrap();
        let first = calls.lines().nth(3).unwrap();
        assert_eq!(first.find(" %").map(|at| &head[at - 5..at + 2]), Some("of step"), "{text}");
        assert!(text.contains("all calls") && text.contains("whole steps, in turns"), "{text}");
    }
}
