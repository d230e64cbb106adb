//! How long work will take, before it begins.

use super::limits::fma_gflops;
use crate::device::Device;
use crate::output::note;
use crate::train::Session;
use std::time::Duration;

/// Share of the multiply-add limit that whole training steps reach: 0.6 to 0.8 for the models in the table, less for
/// narrow ones, whose steps wait for memory.
pub const EFFICIENCY: f64 = 0.6;

/// Time for `flops` (see [`Program::flops`](crate::step::Program::flops)) on a machine whose multiply-add limit is
/// `fma_gflops` (see [`fma_gflops()`]).
///
///     # use samcore::bench::estimate;
///     let (steps, step_flops, gflops) = (78_200, 603e9, 233.0);
///     let time = estimate::duration(f64::from(steps) * step_flops, gflops);
///     assert_eq!(estimate::about(time), "about 4 days");
pub fn duration(flops: f64, fma_gflops: f64) -> Duration {
    Duration::try_from_secs_f64(flops / (EFFICIENCY * 1e9 * fma_gflops)).unwrap_or(Duration::MAX)
}

/// Returns how long `flops` take on `device`, by a short measurement. None of a GPU: its speed is not known before it has
/// worked.
pub fn on_device(device: &dyn Device, flops: f64) -> Option<Duration> {
    Some(duration(flops, fma_gflops(device, 30)?))
}

/// Tells on stderr, before a session trains, how long that takes if it is over an hour.
pub fn warn(session: &Session) {
    let time = on_device(session.device(), session.flops_left());
    if let Some(time) = time.filter(|time| *time > Duration::from_secs(3600)) {
        let about = about(time);
        note(&format!("this will take {about} on this machine, by an estimate; Ctrl-C saves, and --resume continues"));
    }
}

/// Units and from how many seconds on they are used.
const UNITS: [(f64, f64, &str); 4] = [
    (3.0 * 86_400.0, 86_400.0, "days"),
    (2.0 * 3600.0, 3600.0, "hours"),
    (120.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
];

/// A time as people say it: "about 64 hours". It is an estimate, so it has no fractions.
pub fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (_, length, unit) = *UNITS.iter().find(|u| seconds >= u.0).unwrap_or(&UNITS[3]);
    format!("about {:.0} {unit}", (seconds / length).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_said_in_the_unit_that_people_use_and_never_overflow() {
        for (seconds, words) in [
            (0.0, "about 1 seconds"),
            (90.0, "about 90 seconds"),
            (150.0, "about 2 minutes"),
            (5400.0, "about 90 minutes"),
            (64.0 * 3600.0, "about 64 hours"),
            (300.0 * 3600.0, "about 12 days"),
        ] {
            assert_eq!(about(Duration::from_secs_f64(seconds)), words);
        }
        // 0.6 of 100 GFLOP/s.
        assert_eq!(duration(120e9, 100.0), Duration::from_secs(2));
        for (flops, gflops) in [(1.0, 0.0), (f64::MAX, 1e-9), (f64::NAN, 1.0), (1.0, -1.0)] {
            assert_eq!(duration(flops, gflops), Duration::MAX);
        }
    }
}
