//! m-sharpness: by how much the loss of groups of m training images grows within a small distance of the trained weights.
//!
//! For each group of m images (Foret et al. 2021, arXiv:2010.01412, section 4.1; Andriushchenko and Flammarion 2022,
//! arXiv:2206.06232) the maximum of L(w + e) within the radius rho is approximated by SAM's one step, e = rho g/|g| with the
//! group's own g; the sharpness is the mean over the groups of L(w + e) - L(w). The adaptive one (Kwon et al. 2021,
//! arXiv:2102.11600) takes e with |T^-1 e| = rho, e = rho T^2 g/|T g|, T = |w| elementwise, which does not change when
//! weights are rescaled without changing the function.

mod report;

use super::{Probe, norm};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::graph::Graph;
use crate::study::journal::Journal;
use crate::train::engine::TRAIN;
use serde_json::{Value, json};

/// Within what the loss grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ball: |e| = rho.
    Plain,
    /// An ellipsoid whose axes are the weights' magnitudes.
    Adaptive,
}

impl Kind {
    /// Names as flags and results have them.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Adaptive => "adaptive",
        }
    }
}

/// Parameters that the adaptive kind scales by their magnitudes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scaled {
    /// All, as in the paper's formula: a parameter that is 0 stays.
    #[default]
    All,
    /// Parameters named `.weight`, batch-norm's among them; biases have T = 1, as in the authors' code.
    Weights,
}

impl Scaled {
    pub const ALL: [Scaled; 2] = [Scaled::All, Scaled::Weights];
    /// Names as flags have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["all", "weights"];
}

/// Settings of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Kinds, and of each the grid of rho, ascending.
    pub kinds: Vec<(Kind, Vec<f64>)>,
    /// Sizes of groups.
    pub m: Vec<usize>,
    /// Numbers of the training images, cut into groups in this order; what is left over is left out.
    pub images: Vec<u32>,
    /// Ascent steps: the first one goes all the way, each further one goes on by rho and is projected back; the largest loss
    /// on the way counts.
    pub steps: usize,
    pub scaled: Scaled,
}

impl Settings {
    /// Returns the number of measurements: one for each group.
    pub fn measurements(&self) -> usize {
        self.m.iter().map(|m| self.images.len() / m).sum()
    }

    /// Returns the settings for the study's journal.
    pub fn to_json(&self) -> Value {
        let kinds = self.kinds.iter().map(|(kind, grid)| json!([kind.name(), grid])).collect::<Vec<_>>();
        let scaled = Scaled::NAMES[Scaled::ALL.iter().position(|s| *s == self.scaled).unwrap_or(0)];
        json!({"kinds": kinds, "m": self.m, "measured": self.images.len(), "steps": self.steps, "scaled": scaled})
    }

    /// # Errors
    /// Usage: a group is larger than the number of images.
    pub fn check(&self) -> Result<()> {
        let images = self.images.len();
        match self.m.iter().find(|m| !(1..=images).contains(*m)) {
            Some(m) => Err(Error::usage(format!("--m {m} is more than the {images} images that are measured"))),
            None => Ok(()),
        }
    }
}

/// The sharpness of one kind for groups of one size within one radius.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub kind: Kind,
    pub m: usize,
    pub groups: usize,
    /// Groups whose gradient is 0: e has no direction there, so that they add 0 whatever the loss does around w.
    pub flat: usize,
    pub rho: f64,
    /// Mean over the groups of L(w + e) - L(w); None where all gradients are 0.
    pub sharpness: Option<f64>,
    /// Standard error of that mean; 0 for a single group, None as for `sharpness`.
    pub standard_error: Option<f64>,
    /// Mean over the groups of L(w + e).
    pub loss: f64,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    pub settings: Settings,
    /// Mean loss of all images at the trained weights, and the gradient's norm.
    pub loss: f64,
    pub gradient_norm: f64,
    pub weight_norm: f64,
    pub rows: Vec<Row>,
}

/// Measures the model of `graph`, whose weights are `weights`, on the training images that `probe` has; each
/// group is a measurement of `journal`.
///
/// # Errors
/// Usage: a group is larger than the number of images. NotFinite: a gradient is not finite. Those of the device.
pub fn run(
    probe: &mut Probe,
    graph: &Graph,
    weights: &[f32],
    settings: Settings,
    journal: &mut Journal<'_>,
) -> Result<Study> {
    settings.check()?;
    let slope = probe.slope(weights, TRAIN, &settings.images)?;
    let scales: Vec<Scale> =
        settings.kinds.iter().map(|(kind, _)| Scale::of(*kind, settings.scaled, graph, weights)).collect();
    let mut rows = Vec::new();
    for m in &settings.m {
        let mut gains: Vec<Vec<Climbed>> =
            settings.kinds.iter().flat_map(|(_, grid)| grid.iter().map(|_| vec![])).collect();
        for (number, group) in settings.images.chunks_exact(*m).enumerate() {
            let values = journal.measure(&format!("m{m}/group{number}"), || {
                let here = probe.scores(weights, TRAIN, group)?.loss;
                let gradient = probe.slope(weights, TRAIN, group)?.gradient;
                let mut values = vec![here];
                for ((_, grid), scale) in settings.kinds.iter().zip(&scales) {
                    let direction = scale.direction(&gradient)?;
                    values.push(f64::from(u8::from(direction.iter().all(|d| *d == 0.0))));
                    for rho in grid {
                        let ascent = Ascent { weights, scale, rho: *rho };
                        values.push(ascent.climb(probe, group, &direction, settings.steps)?);
                    }
                }
                Ok(values)
            })?;
            // L(w), then for each kind whether its direction is 0 and L(w + e) for each rho.
            let mut values = values.into_iter();
            let mut next = || values.next().ok_or_else(|| Error::internal("a group's measurements"));
            let here = next()?;
            let mut at = gains.iter_mut();
            for (_, grid) in &settings.kinds {
                let flat = next()? != 0.0;
                for gains in at.by_ref().take(grid.len()) {
                    gains.push(Climbed { here, there: next()?, flat });
                }
            }
        }
        let radii = settings.kinds.iter().flat_map(|(kind, grid)| grid.iter().map(move |rho| (*kind, *rho)));
        rows.extend(radii.zip(&gains).map(|((kind, rho), gains)| row(kind, *m, rho, gains)));
    }
    let (gradient_norm, weight_norm) = (norm(&slope.gradient), norm(weights));
    Ok(Study { settings, loss: slope.loss, gradient_norm, weight_norm, rows })
}

/// The losses of one group.
struct Climbed {
    /// L(w)
    here: f64,
    /// L(w + e)
    there: f64,
    /// The gradient at w is 0.
    flat: bool,
}

/// Returns the means over the groups.
fn row(kind: Kind, m: usize, rho: f64, groups: &[Climbed]) -> Row {
    let n = groups.len() as f64;
    let flat = groups.iter().filter(|g| g.flat).count();
    let sharpness = groups.iter().map(|g| g.there - g.here).sum::<f64>() / n;
    let squares = groups.iter().map(|g| (g.there - g.here - sharpness).powi(2)).sum::<f64>();
    let standard_error = if groups.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
    let loss = groups.iter().map(|g| g.there).sum::<f64>() / n;
    let measured = |value: f64| (flat < groups.len()).then_some(value);
    Row {
        kind,
        m,
        groups: groups.len(),
        flat,
        rho,
        sharpness: measured(sharpness),
        standard_error: measured(standard_error),
        loss,
    }
}

/// The diagonal of T; None for the identity.
struct Scale(Option<Vec<f32>>);

impl Scale {
    fn of(kind: Kind, scaled: Scaled, graph: &Graph, weights: &[f32]) -> Scale {
        if kind == Kind::Plain {
            return Scale(None);
        }
        let mut scale = vec![0.0; weights.len()];
        for p in graph.params().list() {
            let by_size = scaled == Scaled::All || p.name.ends_with(".weight");
            let place = p.offset..p.offset + p.len();
            for (t, w) in scale[place.clone()].iter_mut().zip(&weights[place]) {
                *t = if by_size { w.abs() } else { 1.0 };
            }
        }
        Scale(Some(scale))
    }

    fn at(&self, i: usize) -> f64 {
        self.0.as_ref().map_or(1.0, |scale| f64::from(scale[i]))
    }

    /// T g/|T g|, zeros where T g is 0.
    ///
    /// # Errors
    /// NotFinite: g is not.
    fn direction(&self, g: &[f32]) -> Result<Vec<f64>> {
        let mut v: Vec<f64> = g.iter().enumerate().map(|(i, g)| self.at(i) * f64::from(*g)).collect();
        let length = length(&v);
        if !length.is_finite() {
            return Err(Error::new(ErrorKind::NotFinite, "the gradient of a group is not finite"));
        }
        if length > 0.0 {
            v.iter_mut().for_each(|v| *v /= length);
        }
        Ok(v)
    }
}

fn length(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The ascent of one group within one radius, in v = T^-1 e.
struct Ascent<'a> {
    weights: &'a [f32],
    scale: &'a Scale,
    rho: f64,
}

impl Ascent<'_> {
    /// Returns the largest L(w + T v) on the way that begins in `direction`, that of the gradient at w.
    fn climb(&self, probe: &mut Probe, group: &[u32], direction: &[f64], steps: usize) -> Result<f64> {
        let mut v: Vec<f64> = direction.iter().map(|d| self.rho * d).collect();
        let mut moved = self.moved(&v);
        let mut largest = probe.scores(&moved, TRAIN, group)?.loss;
        for _ in 1..steps {
            let slope = probe.slope(&moved, TRAIN, group)?;
            for (v, d) in v.iter_mut().zip(self.scale.direction(&slope.gradient)?) {
                *v += self.rho * d;
            }
            let length = length(&v);
            if length > self.rho {
                v.iter_mut().for_each(|v| *v *= self.rho / length);
            }
            moved = self.moved(&v);
            largest = largest.max(probe.scores(&moved, TRAIN, group)?.loss);
        }
        Ok(largest)
    }

    /// w + T v
    fn moved(&self, v: &[f64]) -> Vec<f32> {
        let there = |(i, (w, v)): (usize, (&f32, &f64))| (f64::from(*w) + self.scale.at(i) * v) as f32;
        self.weights.iter().zip(v).enumerate().map(there).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: |w| = (3, 4) and g = (4, -3) give T g = (12, -12), of length 12 sqrt(2), so that e = rho (3, -4)/sqrt(2).
    #[test]
    fn the_adaptive_step_is_the_one_worked_out_by_hand() {
        let scale = Scale(Some(vec![3.0, 4.0]));
        let v: Vec<f64> = scale.direction(&[4.0, -3.0]).unwrap().iter().map(|d| d * 2f64.sqrt()).collect();
        let ascent = Ascent { weights: &[-3.0, 4.0], scale: &scale, rho: 1.0 };
        let moved = ascent.moved(&v);
        assert!(moved[0].abs() < 1e-6 && moved[1].abs() < 1e-6, "{moved:?}");
        assert_eq!(Scale(None).direction(&[3.0, -4.0]).unwrap(), [0.6, -0.8]);
        assert_eq!(scale.direction(&[0.0, 0.0]).unwrap(), [0.0, 0.0]);
        assert_eq!(scale.direction(&[f32::NAN, 0.0]).unwrap_err().kind, ErrorKind::NotFinite);
    }

    #[test]
    fn a_row_is_the_mean_over_groups() {
        let row = row_of(&[(1.0, false), (2.0, false), (3.0, false)]);
        assert_eq!((row.sharpness, row.loss, row.groups), (Some(1.5), 2.0, 3));
        assert!((row.standard_error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    fn row_of(there: &[(f64, bool)]) -> Row {
        let groups: Vec<Climbed> = there.iter().map(|&(there, flat)| Climbed { here: 0.5, there, flat }).collect();
        row(Kind::Plain, 8, 0.1, &groups)
    }

    #[test]
    fn groups_without_a_gradient_are_counted_and_alone_they_measure_nothing() {
        let some = row_of(&[(0.5, true), (1.5, false)]);
        assert_eq!((some.flat, some.sharpness), (1, Some(0.5)));
        let all = row_of(&[(0.5, true), (0.5, true)]);
        assert_eq!((all.flat, all.sharpness, all.standard_error, all.loss), (2, None, None, 0.5));
        let settings = Settings {
            kinds: vec![(Kind::Plain, vec![0.1])],
            m: vec![8],
            images: vec![0; 16],
            steps: 1,
            scaled: Scaled::All,
        };
        let study = Study { settings, loss: 84.0, gradient_norm: 0.0, weight_norm: 1.0, rows: vec![all] };
        assert!(
            study
                .to_text()
                .ends_with("     8           -\n  m = 8: the gradient is 0 in all 2 groups, nothing is measured\n")
        );
        assert!(study.to_csv().ends_with("\nplain,8,2,0.1,,,0.5,2\n"), "{}", study.to_csv());
    }
}
