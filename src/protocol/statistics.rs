//! Means over seeds and how far they can be trusted: Student's t.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// The share of repetitions whose interval holds the true mean.
pub const CONFIDENCE: f64 = 0.95;

/// Estimate of the mean of a normal distribution from a few values, one for each seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Number of values, at least 1.
    pub n: usize,
    pub mean: f64,
    /// Standard deviation with n - 1; `None` of a single value.
    pub deviation: Option<f64>,
    /// Half the width of the interval mean ± t s / sqrt(n) with confidence [`CONFIDENCE`]; `None` of a single value.
    pub half: Option<f64>,
    pub min: f64,
    pub max: f64,
}

impl Estimate {
    /// Returns the estimate from those of `values` that are finite; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let n = values.len();
        let (min, max) = values.iter().map(|v| (*v, *v)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        let deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        let half = deviation.map(|s| student_t(CONFIDENCE, n - 1) * s / (n as f64).sqrt());
        Some(Estimate { n, mean, deviation, half, min, max })
    }

    /// Low and high end of the interval.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.half.map(|half| (self.mean - half, self.mean + half))
    }

    /// Two-sided p-value of the hypothesis that the true mean is 0. `None` where values do not differ: of a single one,
    /// or of equal ones, there is no t.
    pub fn p_value(&self) -> Option<f64> {
        let error = self.deviation.filter(|s| *s > 0.0)? / (self.n as f64).sqrt();
        Some(1.0 - within((self.mean.abs() / error / ((self.n - 1) as f64).sqrt()).atan(), self.n - 1))
    }
}

/// The t between whose negative and itself lies the share `confidence` of Student's distribution with `df` degrees of
/// freedom.
pub fn student_t(confidence: f64, df: usize) -> f64 {
    // `within` grows with the angle. 60 halvings exhaust the bits of an angle.
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if within(middle, df) < confidence { low = middle } else { high = middle }
    }
    (df as f64).sqrt() * (0.5 * (low + high)).tan()
}

/// Returns the share of Student's distribution with `df` degrees of freedom between -t and t, where t = sqrt(df) tan(angle).
///
/// For whole degrees of freedom it is a finite sum (Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4).
fn within(angle: f64, df: usize) -> f64 {
    let (sin, cos) = angle.sin_cos();
    let odd = df % 2 == 1;
    let (mut power, mut term, mut sum) = if odd { (1, cos, 0.0) } else { (0, 1.0, 0.0) };
    while power + 2 <= df {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    if odd { FRAC_2_PI * (angle + sin * sum) } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(a: f64, b: f64, relative: f64) {
        assert!((a - b).abs() <= relative * b.abs(), "{a} instead of {b}");
    }

    /// Tables of the t distribution, as in any textbook.
    #[test]
    fn t_has_its_published_values() {
        for (df, t) in [
            (1, 12.706_205),
            (2, 4.302_653),
            (3, 3.182_446),
            (4, 2.776_445),
            (5, 2.570_582),
            (9, 2.262_157),
            (10, 2.228_139),
            (29, 2.045_230),
            (30, 2.042_272),
            (100, 1.983_972),
            (1000, 1.962_339),
        ] {
            close(student_t(0.95, df), t, 1e-6);
        }
        close(student_t(0.99, 4), 4.604_095, 1e-6);
        close(student_t(0.5, 1), 1.0, 1e-12);
        // Two degrees have a closed form: c sqrt(2 / (1 - c^2)).
        close(student_t(0.8, 2), 0.8 * (2.0f64 / 0.36).sqrt(), 1e-12);
    }

    /// By hand: 1, 2, 4 have mean 7/3 and variance 7/3, so the standard error is sqrt(7)/3 and t is sqrt(7).
    #[test]
    fn an_estimate_is_what_a_hand_comes_to() {
        let e = Estimate::of(&[1.0, 2.0, 4.0]).unwrap();
        assert_eq!((e.n, e.min, e.max), (3, 1.0, 4.0));
        close(e.mean, 7.0 / 3.0, 1e-15);
        close(e.deviation.unwrap(), (7.0f64 / 3.0).sqrt(), 1e-15);
        close(e.half.unwrap(), 4.302_653 * 7f64.sqrt() / 3.0, 1e-6);
        // With two degrees of freedom p is 1 - t / sqrt(2 + t^2).
        close(e.p_value().unwrap(), 1.0 - (7.0f64 / 9.0).sqrt(), 1e-12);
        assert_eq!(Estimate::of(&[-1.0, -2.0, -4.0]).unwrap().p_value(), e.p_value());
        assert_eq!(Estimate::of(&[-1.0, 1.0]).unwrap().p_value(), Some(1.0));
    }

    #[test]
    fn one_value_has_no_interval_and_equal_ones_no_p_value() {
        let one = Estimate::of(&[0.25]).unwrap();
        assert_eq!((one.mean, one.interval(), one.deviation, one.p_value()), (0.25, None, None, None));
        let equal = Estimate::of(&[0.25; 3]).unwrap();
        assert_eq!((equal.interval(), equal.p_value()), (Some((0.25, 0.25)), None));
        assert_eq!(Estimate::of(&[]), None);
        // A run that diverged has no number.
        assert_eq!(Estimate::of(&[f64::NAN, 0.25, f64::INFINITY]), Some(one));
        assert_eq!(Estimate::of(&[f64::NAN]), None);
    }
}
