//! The tables that `samcore bench` shows.

use crate::bench::Spread;
use crate::bench::compare::{Comparison, Pair};
use crate::bench::limits::Limits;
use crate::bench::loading::{Augmenting, Loading};
use crate::bench::operations::CallTime;
use crate::bench::steps::StepTimes;
use crate::bench::tune::Timed;
use crate::output::printable;
use std::path::Path;

/// Three digits, of whole numbers all; not below a millionth.
pub(super) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let decimals = 2.0 - value.abs().max(1e-9).log10().floor();
    format!("{value:.*}", decimals.clamp(0.0, 6.0) as usize)
}

/// "(12.0 to 13.1)"
pub(super) fn extremes(spread: Spread) -> String {
    format!("({} to {})", figure(spread.min), figure(spread.max))
}

/// A figure where there is something to count, else "-".
pub(super) fn or_dash(amount: u64, value: f64) -> String {
    if amount == 0 { "-".into() } else { figure(value) }
}

pub fn limits(l: &Limits) -> String {
    let line = |what: &str, spread: Spread, unit: &str| {
        format!("{what:<27} {:>9} {unit:<8} {}\n", figure(spread.median), extremes(spread))
    };
    let compute = match l.fma_one {
        Some(one) => {
            line("  multiply-add, 1 thread", one, "GFLOP/s")
                + &line(&format!("  multiply-add, all ({})", l.threads), l.fma, "GFLOP/s")
        }
        None => line("  matrix product, ours", l.fma, "GFLOP/s"),
    };
    format!("limits of {}\n", l.device) + &compute + &line("  copy, read + write", l.copy, "GB/s")
}

/// A convolution on one rung.
pub fn tuned(t: &Timed) -> String {
    let (ms, rate) = (t.seconds.times(1e3), figure(t.gflops()));
    format!("{:<72} {:<6} {:>9} ms {rate:>9} GFLOP/s\n", t.key, t.rung.name(), figure(ms.median))
}

/// Head of the table of operations; see [`case`].
pub const OPERATIONS: &str = "
case and its calls                       ms (min to max)              GFLOP/s      GB/s   of limit
";

pub const OPERATIONS_FOOT: &str = "
GB/s: every operand once. Of limit: the least time by flops (fma) or by bytes (copy) at the best that was measured of
that limit, whichever is longer, over the time taken; above 100 % where operands stay in the caches or an algorithm saves
multiplications.
";

/// A case's name and a line for each of its calls.
pub fn case(name: &str, calls: &[CallTime], limits: &Limits) -> String {
    let mut text = format!("{name}\n");
    for call in calls {
        let ms = call.seconds.times(1e3);
        let part = if call.part.is_empty() { "whole" } else { &call.part };
        let (share, limit) = call.share(limits);
        text += &format!(
            "  {part:<30} {:>10} {:<22} {:>13} {:>9} {:>6.0} % {limit}\n",
            figure(ms.median),
            extremes(ms),
            or_dash(call.flops, call.gflops()),
            figure(call.gb_per_s()),
            100.0 * share,
        );
    }
    text
}

/// Head of the table of steps; see [`step`].
pub const STEPS: &str = "
step                                  images/s (min to max)           ms/step   GFLOP/s   of fma   peak MiB   arena  vectors
";

pub fn step(times: &StepTimes, limits: &Limits) -> String {
    let rates = times.images_per_s();
    let mebi = |bytes: f64| figure(bytes / f64::from(1 << 20));
    let name = times.work.name();
    format!(
        "{:<35} {:>10} {:<22} {:>9} {:>9} {:>6.0} % {:>10} {:>7} {:>8}\n",
        name.strip_prefix("step ").unwrap_or(&name),
        figure(rates.median),
        extremes(rates),
        figure(1e3 * times.seconds.median),
        figure(times.gflops()),
        100.0 * times.share(limits),
        times.peak_rss.map_or("-".into(), |bytes| mebi(bytes as f64)),
        mebi(times.arena_bytes as f64),
        mebi(times.vector_bytes as f64),
    )
}

pub fn loading(l: &Loading) -> String {
    let mut text = format!("\n{}: {} training images\n", l.data, l.images);
    text += &format!("  read, checked and on the device in {:.2} s", l.load_seconds);
    if let Some(seconds) = l.since_start {
        text += &format!(", {seconds:.2} s after the start of the process");
    }
    let (rates, crop) = (l.images_per_s, l.augment.crop);
    text + &format!(
        "\n  ingest with crop {crop} and mirroring, batch {}: {} images/s {}\n",
        l.batch,
        figure(rates.median),
        extremes(rates)
    )
}

pub fn augmenting(a: &Augmenting) -> String {
    let rates = a.images_per_s;
    format!(
        "  AutoAugment, crop, mirroring and cutout on one core: {} images/s {}; AutoAugment alone {}\n",
        figure(rates.median),
        extremes(rates),
        figure(a.autoaugment.median)
    )
}

/// Most names that are listed because one result lacks them.
const MOST_NAMES: usize = 10;

pub fn comparison(c: &Comparison, file: &Path) -> String {
    let mut text =
        format!("\n{}\n", printable(&format!("speed now over speed in {}; above 1 is faster now", file.display())));
    let width = c.pairs.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
    for Pair { name, unit, then, now, speed } in &c.pairs {
        text += &format!("  {name:<width$} {speed:>7.2}  {:>9} then, {:>9} now {unit}\n", figure(*then), figure(*now));
    }
    match c.drift() {
        Some((fma, copy)) => {
            text +=
                &format!("the machine itself runs at {fma:.2} of its multiply-add speed then, {copy:.2} in copying\n");
        }
        None => text += "how the machine itself has changed is unknown: that file has none of its limits\n",
    }
    text + &names("measured then, but not now", &c.missing) + &names("new", &c.new)
}

fn names(what: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown = names.iter().take(MOST_NAMES).map(|name| format!("  {name}\n")).collect::<String>();
    let rest = match names.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!("  and {more} more\n"),
    };
    format!("{what}:\n{shown}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::Figure;
    use serde_json::json;

    #[test]
    fn columns_stand_below_their_heads_for_small_and_large_figures() {
        for (value, shown) in [
            (12_345.6, "12346"),
            (123.4, "123"),
            (12.345, "12.3"),
            (1.2345, "1.23"),
            (0.001234, "0.00123"),
            (1.3e-4, "0.000130"),
            (0.0, "0.000000"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(figure(value), shown);
        }
        let at = |v| Spread { median: v, min: v, max: v };
        let limits = Limits::example();
        for (seconds, flops) in [(1.3e-7, 0), (0.012, 123_000_000), (100.0, 1 << 50)] {
            let call = CallTime { part: "forward".into(), seconds: at(seconds), repeats: 3, flops, bytes: 1 << 20 };
            let text = case("conv", &[call], &limits);
            let line = text.lines().nth(1).unwrap();
            let head = OPERATIONS.trim();
            assert_eq!(line.find(" (").map(|at| &head[at..at + 5]), Some(" (min"), "{head}\n{line}");
            assert_eq!(line.find(" %").map(|at| &head[at - 4..at + 1]), Some("limit"), "{head}\n{line}");
        }
    }

    #[test]
    fn a_comparison_says_what_one_result_lacks_and_how_the_machine_drifted() {
        let figure = |name: &str, ms: f64| Figure::of(&json!({"name": name, "ms": {"median": ms}})).unwrap();
        let then: Vec<Figure> = (0..14).map(|i| figure(&format!("case {i}"), 2.0)).collect();
        let now = [figure("case 0", 1.0), figure("other", 1.0)];
        let text = comparison(&Comparison::of(&then, &now), Path::new("old.json"));
        assert!(
            text.contains("case 0    2.00 ") && text.contains("and 3 more") && text.contains("new:\n  other\n"),
            "{text}"
        );
        assert!(text.contains("unknown: that file has none of its limits"), "{text}");
    }
}
