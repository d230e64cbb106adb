//! Axes: from values to a place between 0 and 1, with ticks at round numbers.

/// Values beyond this leave a gap like NaN does, so that no difference of two overflows.
const LARGEST: f64 = 1e100;

/// Numbers of ticks that an axis aims at in turn, until their labels fit; between half and twice as many come out.
const AIMS: [f64; 4] = [5.0, 4.0, 3.0, 2.0];

/// A tick at a place between 0 (low end) and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub place: f64,
    pub label: String,
}

/// A linear or logarithmic range.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    pub ticks: Vec<Tick>,
}

impl Axis {
    /// An axis of places (epochs, steps): whole ticks for whole values, hardly any room at the ends.
    pub fn of_x(values: &[f64], aim: f64) -> Option<Axis> {
        let (least, most) = range(values.iter().copied())?;
        let whole = values.iter().filter(|v| usable(**v)).all(|v| v.fract() == 0.0);
        let (low, high) = widen(least, most, whole);
        let room = 0.02 * (high - low);
        Some(Axis::linear(low - room, high + room, if whole { 1.0 } else { 0.0 }, aim))
    }

    /// An axis of measured values: it begins at 0 where that costs little room.
    pub fn of_y(values: &[f64], log: bool, aim: f64) -> Option<Axis> {
        if log {
            let (least, most) = range(values.iter().map(|v| v.log10()))?;
            let (low, high) = widen(least, most, false);
            return Some(Axis::logarithmic(low - 0.05 * (high - low), high + 0.05 * (high - low), aim));
        }
        let (least, most) = range(values.iter().copied())?;
        let (low, high) = widen(least, most, false);
        let room = 0.05 * (high - low);
        let from_zero = least >= 0.0 && least <= 0.25 * most;
        Some(Axis::linear(if from_zero { 0.0 } else { low - room }, high + room, 0.0, aim))
    }

    /// An axis of things that have names, at 0, 1, 2 and so on.
    pub fn of_names(names: &[String]) -> Axis {
        let mut axis = Axis { low: -0.5, high: names.len() as f64 - 0.5, log: false, ticks: Vec::new() };
        axis.ticks = axis.put(names.iter().enumerate().map(|(i, name)| (i as f64, name.clone())));
        axis
    }

    /// The axis that `of` makes with as many ticks as fit: `roomy` says whether two neighbours do. Where fewer than two would
    /// be left, every other one of a denser axis is taken.
    pub fn fitting(of: impl Fn(f64) -> Option<Axis>, roomy: impl Fn(&Tick, &Tick) -> bool) -> Option<Axis> {
        let fits = |axis: &Axis| axis.ticks.windows(2).all(|pair| roomy(&pair[0], &pair[1]));
        let axes: Vec<Axis> = AIMS.into_iter().filter_map(of).collect();
        if let Some(axis) = axes.iter().find(|axis| axis.ticks.len() > 1 && fits(axis)) {
            return Some(axis.clone());
        }
        let thinned = axes.into_iter().map(|mut axis| {
            while !fits(&axis) {
                let mut kept = false;
                axis.ticks.retain(|_| {
                    kept = !kept;
                    kept
                });
            }
            axis
        });
        // The first of those with the most ticks.
        thinned.reduce(|best, axis| if axis.ticks.len() > best.ticks.len() { axis } else { best })
    }

    fn linear(low: f64, high: f64, least_step: f64, aim: f64) -> Axis {
        let step = nice_step((high - low) / aim).max(least_step);
        let mut axis = Axis { low, high, log: false, ticks: Vec::new() };
        axis.ticks = axis.put(multiples(low, high, step).map(|v| (v, label(v, step, low.abs().max(high.abs())))));
        axis
    }

    /// `low` and `high` are decimal logarithms.
    fn logarithmic(low: f64, high: f64, aim: f64) -> Axis {
        let mut axis = Axis { low, high, log: true, ticks: Vec::new() };
        let stride = ((high - low) / (aim + 1.0)).ceil().max(1.0);
        let decades: Vec<f64> = multiples(low, high, stride).collect();
        if decades.len() >= 2 {
            let plain = low >= -3.1 && high <= 4.1;
            axis.ticks = axis.put(decades.into_iter().map(|k| {
                let value = 10f64.powf(k);
                (value, if plain { label(value, value, value) } else { power_of_ten("", k) })
            }));
            return axis;
        }
        // Less than two decades: 1, 2 and 5 of each; in a narrower range still, equal steps.
        let steps = (low.floor() as i32..=high.floor() as i32).flat_map(|k| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(k)));
        axis.ticks = axis.put(steps.map(|v| (v, label(v, v, v))));
        if axis.ticks.len() < 3 {
            let (low, high) = (10f64.powf(low), 10f64.powf(high));
            let step = nice_step((high - low) / aim);
            axis.ticks = axis.put(multiples(low, high, step).map(|v| (v, label(v, step, high))));
        }
        axis
    }

    /// Returns ticks for the values that lie on the axis.
    fn put(&self, values: impl Iterator<Item = (f64, String)>) -> Vec<Tick> {
        let on = values.filter_map(|(value, label)| Some(Tick { place: self.place(value)?, label }));
        on.filter(|tick| (-1e-9..=1.0 + 1e-9).contains(&tick.place)).collect()
    }

    /// Returns the place of `value`, 0 at the low end and 1 at the high one; None if it cannot be drawn.
    pub fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        usable(value).then(|| (value - self.low) / (self.high - self.low))
    }
}

fn usable(value: f64) -> bool {
    value.is_finite() && value.abs() <= LARGEST
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| usable(*v)).map(|v| (v, v)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// Makes room around values that are all (but for rounding) the same.
fn widen(low: f64, high: f64, whole: bool) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    if high - low > 1e-9 * size {
        return (low, high);
    }
    let half = if whole {
        1f64.max(1e-6 * size)
    } else if size == 0.0 {
        1.0
    } else {
        0.1 * size
    };
    (low - half, high + half)
}

/// 1, 2 or 5 times a power of ten, near `about`.
fn nice_step(about: f64) -> f64 {
    let power = 10f64.powf(about.log10().floor());
    match about / power {
        f if f < 1.5 => power,
        f if f < 3.5 => 2.0 * power,
        f if f < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

/// The multiples of `step` in a range; counted by whole numbers, so that rounding does not add up.
fn multiples(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    (0..=(last - first).clamp(-1.0, 50.0) as i64).map(move |i| (first + i as f64) * step)
}

/// Writes `value` with the digits that `step` needs, as a power of ten if plain digits would be many; `size` is the largest
/// magnitude on the axis, which all its labels share the power of.
fn label(value: f64, step: f64, size: f64) -> String {
    let decimals = |step: f64| (-(step.log10() + 1e-9).floor()).clamp(0.0, 17.0) as usize;
    if value.abs() < 1e-9 * step {
        return "0".into();
    }
    if step >= 0.9e-4 && size < 1e6 {
        return format!("{value:.*}", decimals(step)).replace('-', "−");
    }
    let exponent = (size.log10() + 1e-9).floor();
    let power = 10f64.powf(exponent);
    power_of_ten(&format!("{:.*}×", decimals(step / power), value / power), exponent)
}

/// `factor` (with its times sign, or empty) and 10 with a raised exponent. Raised digits and the true minus are characters of
/// Unicode: not every program that draws SVG places raised text well.
fn power_of_ten(factor: &str, exponent: f64) -> String {
    let raise = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    };
    let raised: String = format!("{exponent:.0}").chars().map(raise).collect();
    format!("{}10{raised}", factor.replace('-', "−"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Option<Axis>) -> String {
        let ticks = axis.unwrap().ticks;
        assert!(ticks.iter().all(|t| (-1e-6..=1.0 + 1e-6).contains(&t.place)));
        assert!(ticks.windows(2).all(|t| t[1].place - t[0].place > 0.04), "{ticks:?}");
        ticks.into_iter().map(|tick| tick.label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_numbers_with_the_digits_they_need() {
        let y = |values: &[f64], log| labels(Axis::of_y(values, log, 5.0));
        assert_eq!(y(&[0.2, 1.3], false), "0 0.2 0.4 0.6 0.8 1.0 1.2");
        assert_eq!(y(&[0.85, 0.93], false), "0.86 0.88 0.90 0.92");
        assert_eq!(y(&[-30.0, 30.0], false), "−30 −20 −10 0 10 20 30");
        assert_eq!(y(&[0.0, 5e-5], false), "0 1×10⁻⁵ 2×10⁻⁵ 3×10⁻⁵ 4×10⁻⁵ 5×10⁻⁵");
        assert_eq!(y(&[0.0, 2e6], false), "0 0.5×10⁶ 1.0×10⁶ 1.5×10⁶ 2.0×10⁶");
        assert_eq!(y(&[-2e12, 0.0], false), "−2.0×10¹² −1.5×10¹² −1.0×10¹² −0.5×10¹² 0");
        assert_eq!(y(&[7.0], false), "6.4 6.6 6.8 7.0 7.2 7.4 7.6");
        assert_eq!(y(&[0.0], false), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(y(&[0.01, 3.0], true), "0.01 0.1 1");
        assert_eq!(y(&[1e-8, 1.0], true), "10⁻⁸ 10⁻⁶ 10⁻⁴ 10⁻² 10⁰");
        assert_eq!(y(&[0.3, 4.0], true), "0.5 1 2");
        assert_eq!(y(&[1.0, 1.1], true), "1.00 1.02 1.04 1.06 1.08 1.10");
        assert_eq!(labels(Axis::of_x(&[1.0, 2.0, 3.0], 5.0)), "1 2 3");
        assert_eq!(labels(Axis::of_x(&[4.0], 5.0)), "3 4 5");
        assert_eq!(labels(Axis::of_x(&[1.0, 200.0], 5.0)), "0 50 100 150 200");
    }

    #[test]
    fn hostile_ranges_still_give_an_axis() {
        let mut values =
            vec![f64::MIN_POSITIVE, 1e-300, 1.0, 1.0 + 1e-15, 1e15, 1e15 + 0.1, 1e99, 0.0, -3.0, 12345.678];
        values.extend([f64::NAN, f64::INFINITY, f64::MAX, f64::MIN]);
        for a in &values {
            for b in &values {
                let both = [*a, *b];
                let axes = [false, true].map(|log| Axis::of_y(&both, log, 5.0));
                for axis in axes.into_iter().chain([Axis::of_x(&both, 5.0)]) {
                    let Some(axis) = axis else { continue };
                    assert!(axis.ticks.len() <= 16, "{a} {b}: {:?}", axis.ticks);
                    for v in [a, b] {
                        assert!(axis.place(*v).is_none_or(|p| (-1e-6..=1.0 + 1e-6).contains(&p)), "{a} {b}");
                    }
                }
            }
        }
        assert!(Axis::of_y(&[f64::NAN, -1.0, 0.0], true, 5.0).is_none());
        assert!(Axis::of_x(&[], 5.0).is_none());
    }
}
