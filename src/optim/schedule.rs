//! The learning rate of each step: a pure function of the step and the number of all steps.

use std::f64::consts::PI;

/// The shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Half a cosine from the peak down to the final rate (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts).
    Cosine,
    /// The peak times a factor for every milestone passed.
    Step,
    /// The peak throughout.
    Constant,
    /// Linear up from 1/25 of the peak, then half a cosine down (Smith and Topin, "Super-Convergence", 2017).
    OneCycle,
}

impl Shape {
    pub const ALL: [Shape; 4] = [Shape::Cosine, Shape::Step, Shape::Constant, Shape::OneCycle];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 4] = ["cosine", "step", "constant", "one-cycle"];
}

/// The share of a one-cycle run in which the rate rises, where no warm-up is given.
pub const ONE_CYCLE_RISE: f64 = 0.25;
/// The rate that a one-cycle run starts from, relative to its peak.
pub const ONE_CYCLE_START: f64 = 1.0 / 25.0;

/// A learning-rate schedule. All lengths are shares of the run, so that it does not depend on the number of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub shape: Shape,
    /// The peak.
    pub lr: f64,
    /// Share of all steps with linear warm-up, 0 to below 1; for one-cycle the rise (0: [`ONE_CYCLE_RISE`]).
    pub warmup: f64,
    /// The rate that cosine and one-cycle reach at the end, relative to the peak.
    pub final_lr: f64,
    /// Shares of the run at which `Shape::Step` multiplies the rate by `decay`, ascending.
    pub milestones: Vec<f64>,
    pub decay: f64,
}

impl Schedule {
    /// The learning rate of step `step` (from 0) of `total`.
    ///
    /// Warm-up takes `warmup * total` steps, rounded, and always leaves one step at the peak. Its first step is above
    /// zero, for a step with rate zero is a step wasted; for the same reason the final rate belongs to `step == total`,
    /// just behind the last step. Any later step has the final rate too.
    pub fn lr(&self, step: u64, total: u64) -> f32 {
        let total = total.max(1);
        let step = step.min(total);
        let rise_share = match self.shape {
            Shape::OneCycle if self.warmup == 0.0 => ONE_CYCLE_RISE,
            _ => self.warmup,
        };
        let rise = ((rise_share * total as f64).round() as u64).min(total - 1);
        let factor = if step < rise { self.rising(step, rise) } else { 1.0 };
        let fall = (step.max(rise) - rise) as f64 / (total - rise) as f64;
        let shape = match self.shape {
            Shape::Cosine | Shape::OneCycle => self.final_lr + (1.0 - self.final_lr) * 0.5 * (1.0 + (PI * fall).cos()),
            Shape::Step => {
                // A quotient of whole numbers is rounded like the decimal it equals, so 30 of 100 steps is exactly 0.3.
                let share = step as f64 / total as f64;
                self.decay.powi(self.milestones.iter().filter(|m| share >= **m).count() as i32)
            }
            Shape::Constant => 1.0,
        };
        (self.lr * factor * shape) as f32
    }

    /// The part of the peak in step `step` of the `rise` steps before it.
    fn rising(&self, step: u64, rise: u64) -> f64 {
        match self.shape {
            Shape::OneCycle => ONE_CYCLE_START + (1.0 - ONE_CYCLE_START) * step as f64 / rise as f64,
            _ => (step + 1) as f64 / (rise + 1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape, warmup: f64) -> Schedule {
        Schedule { shape, lr: 0.5, warmup, final_lr: 0.01, milestones: vec![0.3, 0.6, 0.8], decay: 0.2 }
    }

    #[test]
    fn rates_at_start_peak_and_end() {
        use Shape::*;
        for (shape, warmup, step, total, relative) in [
            (Cosine, 0.0, 0, 100, 1.0),
            (Cosine, 0.0, 50, 100, 0.505),
            (Cosine, 0.0, 100, 100, 0.01),
            (Cosine, 0.0, 1000, 100, 0.01),
            (Cosine, 0.1, 0, 100, 1.0 / 11.0),
            (Cosine, 0.1, 9, 100, 10.0 / 11.0),
            (Cosine, 0.1, 10, 100, 1.0),
            (Cosine, 0.1, 55, 100, 0.505),
            (Step, 0.0, 29, 100, 1.0),
            (Step, 0.0, 30, 100, 0.2),
            (Step, 0.0, 59, 100, 0.2),
            (Step, 0.0, 60, 100, 0.04),
            (Step, 0.0, 80, 100, 0.008),
            (Step, 0.5, 0, 1, 1.0),
            (Step, 0.04, 0, 100, 0.2),
            (Constant, 0.0, 99, 100, 1.0),
            (Constant, 0.5, 0, 4, 1.0 / 3.0),
            (OneCycle, 0.0, 0, 100, 0.04),
            (OneCycle, 0.0, 25, 100, 1.0),
            (OneCycle, 0.0, 100, 100, 0.01),
            (OneCycle, 0.4, 20, 100, 0.52),
            (OneCycle, 0.4, 40, 100, 1.0),
            (OneCycle, 0.4, 70, 100, 0.505),
        ] {
            let (lr, expected) = (f64::from(schedule(shape, warmup).lr(step, total)), 0.5 * relative);
            assert!((lr - expected).abs() < 1e-7, "{shape:?} {warmup} step {step} of {total}: {lr}, not {expected}");
        }
    }

    #[test]
    fn any_step_of_any_total_has_a_rate_within_zero_and_the_peak() {
        for shape in Shape::ALL {
            for warmup in [0.0, 0.1, 0.5, 0.999] {
                let s = schedule(shape, warmup);
                for total in 0..40 {
                    for step in (0..total + 3).chain([u64::MAX]) {
                        let lr = s.lr(step, total);
                        assert!(lr > 0.0 && lr <= 0.5, "{shape:?} {warmup} step {step} of {total}: {lr}");
                    }
                    let peak = (0..total.max(1)).map(|t| s.lr(t, total)).fold(0.0, f32::max);
                    assert!(shape == Shape::Step || peak == 0.5, "{shape:?} {warmup} of {total} peaks at {peak}");
                }
            }
        }
    }

    #[test]
    fn smooth_shapes_move_by_little_from_step_to_step() {
        for (shape, warmup) in [(Shape::Cosine, 0.1), (Shape::Constant, 0.1), (Shape::OneCycle, 0.0)] {
            let s = schedule(shape, warmup);
            for step in 0..1000 {
                let change = (s.lr(step + 1, 1000) - s.lr(step, 1000)).abs();
                assert!(change <= 0.5 * 1.01 / 100.0, "{shape:?} jumps by {change} behind step {step}");
            }
        }
    }
}
