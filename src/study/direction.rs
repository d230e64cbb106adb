//! Corruptions of parameters as Sun et al. (2021, "Exploring the Vulnerability of Deep Neural Networks: A Study of Parameter
//! Corruption", arXiv:2006.05620) define them: vectors a with |a|_p = eps and at most n entries that are not 0.

use super::Layer;
use crate::error::{Error, Result};
use crate::optim::Norm;
use crate::rng::{Draws, stream};
use std::fmt;

/// Largest number of parameters of a layer that are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entries {
    All,
    /// A share, above 0 to below 1, rounded up to a whole number.
    Share(f64),
    Number(usize),
}

impl Entries {
    /// # Errors
    /// Usage, phrased to stand behind a flag's name.
    pub fn parse(word: &str) -> Result<Entries> {
        let percent = |digits: &str| digits.parse::<f64>().ok().filter(|p| *p > 0.0 && *p < 100.0);
        let read = match (word, word.strip_suffix('%')) {
            ("all", _) => Some(Entries::All),
            (_, Some(digits)) => percent(digits).map(|p| Entries::Share(p / 100.0)),
            _ => word.parse().ok().filter(|n| *n > 0).map(Entries::Number),
        };
        let shown = "must be numbers of parameters such as all, 1% or 100, with commas between them";
        read.ok_or_else(|| Error::usage(format!("{shown}, not '{word}'")))
    }

    /// Returns the number for a layer of `len` parameters.
    pub fn of(self, len: usize) -> usize {
        match self {
            Entries::All => len,
            Entries::Share(share) => ((share * len as f64).ceil() as usize).clamp(1, len.max(1)),
            Entries::Number(n) => n.min(len),
        }
    }
}

/// As it is given: "all", "1%", "100".
impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entries::All => f.write_str("all"),
            // 0.07 * 100 is 7.000000000000001.
            Entries::Share(share) => write!(f, "{}%", (share * 1e10).round() / 1e8),
            Entries::Number(n) => write!(f, "{n}"),
        }
    }
}

/// Distribution of a random corruption's entries before scaling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draw {
    /// N(0, 1), as in the paper. With p = inf the largest alone then comes to eps.
    #[default]
    Normal,
    /// 1 or -1, so that with p = inf every entry comes to eps, as in a gradient-based corruption.
    Signs,
}

impl Draw {
    pub const ALL: [Draw; 2] = [Draw::Normal, Draw::Signs];
    /// Names as flags have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["normal", "signs"];
}

/// A sparse vector u with |u|_p = 1; corruptions are eps u.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Direction {
    /// Ascending places in the parameter vector.
    at: Vec<usize>,
    unit: Vec<f64>,
}

impl Direction {
    /// The u with at most `n` entries in `layer` for which u . g is the largest: in the places of the n largest |g|
    /// (the first ones among equals) g/|g| for p = 2, sign(g) for p = inf. Empty where g is 0 throughout.
    pub fn steepest(gradient: &[f32], layer: &Layer, n: usize, norm: Norm) -> Direction {
        let mut at: Vec<usize> = layer.indices().filter(|i| gradient[*i] != 0.0).collect();
        if n == 0 {
            at.clear();
        } else if n < at.len() {
            let size = |i: &usize| gradient[*i].abs();
            at.select_nth_unstable_by(n - 1, |a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
            at.truncate(n);
            at.sort_unstable();
        }
        let values = at.iter().map(|i| f64::from(gradient[*i]));
        let values = match norm {
            Norm::Two => values.collect(),
            Norm::Infinity => values.map(f64::signum).collect(),
        };
        Direction { at, unit: values }.scaled(norm)
    }

    /// A random u: `n` places in `layer`, drawn without replacement by `seed`, and a value of `draw` in each.
    pub fn random(seed: u64, layer: &Layer, n: usize, norm: Norm, draw: Draw) -> Direction {
        let mut at: Vec<usize> = layer.indices().collect();
        let mut draws = Draws::new(seed, stream("corruption places"), 0, 0);
        let n = n.min(at.len());
        if n < at.len() {
            for i in 0..n {
                let other = i + draws.below((at.len() - i) as u32) as usize;
                at.swap(i, other);
            }
            at.truncate(n);
            at.sort_unstable();
        }
        let mut draws = Draws::new(seed, stream("corruption values"), 0, 0);
        let mut value = |_| match draw {
            Draw::Normal => draws.normal(),
            Draw::Signs => 1.0 - 2.0 * f64::from(draws.below(2)),
        };
        let unit = (0..n).map(&mut value).collect();
        Direction { at, unit }.scaled(norm)
    }

    fn scaled(mut self, norm: Norm) -> Direction {
        let length = match norm {
            Norm::Two => self.unit.iter().map(|v| v * v).sum::<f64>().sqrt(),
            Norm::Infinity => self.unit.iter().fold(0.0, |most: f64, v| most.max(v.abs())),
        };
        if length > 0.0 {
            self.unit.iter_mut().for_each(|v| *v /= length);
        }
        self
    }

    /// Entries that are not 0 by construction.
    pub fn len(&self) -> usize {
        self.at.len()
    }
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
    /// Each place and its value.
    pub fn entries(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.at.iter().copied().zip(self.unit.iter().copied())
    }

    /// w + eps u, rounded to f32 once.
    pub fn corrupted(&self, weights: &[f32], eps: f64) -> Vec<f32> {
        let mut moved = weights.to_vec();
        for (i, u) in self.entries() {
            moved[i] = (f64::from(moved[i]) + eps * u) as f32;
        }
        moved
    }

    /// u . g: by how much the loss grows for each unit of eps, to first order.
    pub fn along(&self, gradient: &[f32]) -> f64 {
        self.entries().map(|(i, u)| u * f64::from(gradient[i])).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(places: Vec<std::ops::Range<usize>>) -> Layer {
        Layer { name: "l".into(), places }
    }

    /// By hand: of (3, -4, 0, 12, 1) without the fourth place, the two largest are -4 and 3, of length 5.
    #[test]
    fn the_steepest_corruption_is_the_one_worked_out_by_hand() {
        let (g, layer) = ([3.0, -4.0, 0.0, 12.0, 1.0], layer(vec![0..3, 4..5]));
        let of = |n, norm| Direction::steepest(&g, &layer, n, norm).entries().collect::<Vec<_>>();
        assert_eq!(of(2, Norm::Two), [(0, 0.6), (1, -0.8)]);
        assert_eq!(of(1, Norm::Two), [(1, -1.0)]);
        assert_eq!(of(9, Norm::Infinity), [(0, 1.0), (1, -1.0), (4, 1.0)]);
        let two = Direction::steepest(&g, &layer, 2, Norm::Two);
        assert_eq!(two.along(&g), 5.0);
        assert_eq!(two.corrupted(&[1.0; 5], 10.0), [7.0, -7.0, 1.0, 1.0, 1.0]);
        assert_eq!(two.corrupted(&[1.0; 5], 0.0), [1.0; 5]);
        assert!(Direction::steepest(&[0.0; 5], &layer, 2, Norm::Two).is_empty());
    }

    #[test]
    fn corruptions_have_the_norm_and_the_entries_that_are_asked_for() {
        let g: Vec<f32> = Direction::random(7, &layer(vec![0..2500, 2500..5000]), 5000, Norm::Two, Draw::Normal)
            .entries()
            .map(|(_, v)| v as f32)
            .collect();
        let layer = layer(vec![10..1000, 2000..4500]);
        for norm in Norm::ALL {
            for n in [1, 2, 100, 3490, 9999] {
                let steepest = Direction::steepest(&g, &layer, n, norm);
                for seed in 0..4 {
                    for draw in Draw::ALL {
                        let random = Direction::random(seed, &layer, n, norm, draw);
                        for direction in [&random, &steepest] {
                            assert_eq!(direction.len(), n.min(3490));
                            assert!(direction.at.windows(2).all(|w| w[0] < w[1]), "no place twice");
                            assert!(direction.at.iter().all(|i| layer.places.iter().any(|p| p.contains(i))));
                            let length = match norm {
                                Norm::Two => direction.unit.iter().map(|v| v * v).sum::<f64>().sqrt(),
                                Norm::Infinity => direction.unit.iter().fold(0.0, |m: f64, v| m.max(v.abs())),
                            };
                            assert!((length - 1.0).abs() < 1e-12, "{norm:?} {n}: {length}");
                        }
                        assert!(steepest.along(&g) >= random.along(&g), "{norm:?} {n} seed {seed} {draw:?}");
                        assert_eq!(random, Direction::random(seed, &layer, n, norm, draw));
                    }
                }
            }
        }
        let other = |seed| Direction::random(seed, &layer, 5, Norm::Two, Draw::Normal);
        assert_ne!(other(0), other(1));
    }

    #[test]
    fn numbers_of_entries_are_read_and_shown_alike() {
        for (word, of_1000) in [("all", 1000), ("1%", 10), ("7%", 70), ("0.01%", 1), ("100", 100), ("5000", 1000)] {
            let entries = Entries::parse(word).unwrap();
            assert_eq!((entries.to_string().as_str(), entries.of(1000)), (word, of_1000));
        }
        for word in ["0", "-1", "0%", "100%", "some", "", "1.5", "nan%"] {
            assert!(Entries::parse(word).is_err(), "{word}");
        }
    }
}
