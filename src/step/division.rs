//! The batch of a step, and how it is divided: m-SAM's groups, and the parts of accumulation.

use super::{At, By, C, Expr, Part, Pass, PassStats, Scalar, Space, Step, Vector, W};
use crate::error::{Error, Result};
use crate::ops::call::Map;

/// Division of a step's images into groups and parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Images of a step.
    pub rows: usize,
    /// Images of a group: each group has a perturbation of its own, "m" in Foret et al. 2021, section 4.1.
    pub group: usize,
    /// Most images that one pass takes at once.
    pub part: usize,
}

impl Division {
    /// Returns the division into one group with one part.
    pub fn whole(rows: usize) -> Division {
        Division { rows, group: rows, part: rows }
    }

    /// Groups of `m` images (0: one group), and no pass with more than `rows / accumulate` of them.
    ///
    /// # Errors
    /// Usage: m or the number of parts does not divide the batch, or the parts do not divide a group.
    pub fn of(rows: usize, m: usize, accumulate: usize) -> Result<Division> {
        let divisors = || {
            let all: Vec<String> = (1..=rows).filter(|d| rows.is_multiple_of(*d)).map(|d| d.to_string()).collect();
            all.join(", ")
        };
        let group = if m == 0 { rows } else { m };
        if group > rows || !rows.is_multiple_of(group) {
            return Err(Error::usage(format!(
                "--m {m} does not divide the batch of {rows} images into groups of equal size; m may be {}",
                divisors()
            )));
        }
        if accumulate == 0 || !rows.is_multiple_of(accumulate) {
            return Err(Error::usage(format!(
                "--accumulate {accumulate} does not divide the batch of {rows} images; the number of parts may be {}",
                divisors()
            )));
        }
        let part = (rows / accumulate).min(group);
        if !group.is_multiple_of(part) {
            return Err(Error::usage(format!(
                "--accumulate {accumulate} makes parts of {part} images, which do not divide a group of --m {group}"
            )));
        }
        Ok(Division { rows, group, part })
    }
}

/// Contribution of one group to a step.
#[derive(Clone, Debug)]
pub struct Share {
    /// The gradient to descend with.
    pub g: Vector,
    /// The statistics that move the running ones.
    pub stats: Vec<PassStats>,
    pub hits: Scalar,
    /// Values for the log, averaged over groups: "loss", "grad_norm".
    pub values: Vec<(&'static str, Scalar)>,
}

impl Step<'_, '_> {
    /// Groups of the batch.
    pub fn group_count(&self) -> usize {
        self.division.rows / self.division.group
    }

    /// The gradient of `group` at the weights, as [`Step::pass`] has it, in a vector that only the next group overwrites,
    /// and the sum of those of all groups so far in the vector `sum`.
    ///
    /// # Errors
    /// Those of the pass.
    pub fn first_pass(&mut self, group: Part, sum: Vector) -> Result<Pass> {
        if self.group_count() == 1 {
            return self.pass(At::of(C), By::params(), group, sum);
        }
        let own = self.vector("own_gradient", Space::Params);
        let pass = self.pass(At::of(C), By::params(), group, own)?;
        match group.offset {
            0 => self.set(sum, pass.g)?,
            _ => self.set(sum, sum + pass.g)?,
        }
        Ok(pass)
    }

    /// Records `share` for each group of the batch and returns their mean, reported to the log.
    ///
    /// Each group starts from the weights: the compute copy is cast anew where a group before may have moved it. With one
    /// group nothing is added to what `share` records.
    ///
    /// # Errors
    /// Those of `share`.
    pub fn groups(&mut self, share: impl Fn(&mut Self, Part) -> Result<Share>) -> Result<Share> {
        let (count, rows) = (self.group_count(), self.division.group);
        let mut shares = Vec::with_capacity(count);
        for i in 0..count {
            if i > 0 {
                self.set(C, W)?;
            }
            let one = share(self, Part { offset: i * rows, rows })?;
            if count > 1 {
                let sum = self.vector("group_gradient", Space::Params);
                self.add_up(Vector { mask: one.g.mask, ..sum }, one.g, i, count)?;
            }
            shares.push(one);
        }
        let mut all = shares[0].clone();
        if count > 1 {
            let sum = self.vector("group_gradient", Space::Params);
            all.g = Vector { mask: all.g.mask, ..sum };
            all.stats = shares.iter().flat_map(|s| s.stats.clone()).collect();
            all.hits = self.total(&shares.iter().map(|s| s.hits).collect::<Vec<_>>());
            for (i, value) in all.values.iter_mut().enumerate() {
                value.1 = self.mean(&shares.iter().map(|s| s.values[i].1).collect::<Vec<_>>());
            }
        }
        all.values.iter().for_each(|(name, scalar)| self.report(name, *scalar));
        self.report("hits", all.hits);
        Ok(all)
    }

    /// A pass over `whole` in parts of [`Division::part`] rows: `run` makes one of them.
    pub(super) fn in_parts(
        &mut self,
        whole: Part,
        into: Vector,
        run: impl Fn(&mut Self, Part, Vector) -> Result<Pass>,
    ) -> Result<Pass> {
        let rows = self.division.part;
        let count = whole.rows / rows;
        let mut passes = Vec::with_capacity(count);
        for i in 0..count {
            let part = Part { offset: whole.offset + i * rows, rows };
            // The first part writes where the sum will stand.
            let to = if i == 0 { into } else { self.vector("part_gradient", Space::Params) };
            let pass = run(self, part, to)?;
            if i > 0 {
                self.add_up(Vector { mask: pass.g.mask, ..into }, pass.g, i, count)?;
            }
            passes.push(pass);
        }
        let each = |get: fn(&Pass) -> Scalar| passes.iter().map(get).collect::<Vec<_>>();
        let (loss, hits, weight) =
            (self.mean(&each(|p| p.loss)), self.total(&each(|p| p.hits)), self.total(&each(|p| p.weight)));
        let stats = PassStats { first: passes[0].stats.first, count };
        Ok(Pass { g: Vector { mask: passes[0].g.mask, ..into }, loss, hits, weight, stats })
    }

    /// Adds summand `i` of `count` to `sum`; the first is copied, the last makes the sum a mean.
    fn add_up(&mut self, sum: Vector, summand: Vector, i: usize, count: usize) -> Result<()> {
        if sum == summand {
            return Ok(());
        }
        if i == 0 {
            return self.set(sum, summand);
        }
        let share = if i + 1 == count { 1.0 / count as f32 } else { 1.0 };
        let scaled = |v: Vector| Expr::constant(share) * v.mapped(Map::Identity);
        self.set(sum, scaled(sum) + scaled(summand))
    }

    fn total(&mut self, scalars: &[Scalar]) -> Scalar {
        let mut sum = scalars[0];
        for next in &scalars[1..] {
            sum = self.scalar(Expr::from(sum) + *next);
        }
        sum
    }

    fn mean(&mut self, scalars: &[Scalar]) -> Scalar {
        let total = self.total(scalars);
        self.scalar(Expr::from(total) * Expr::constant(1.0 / scalars.len() as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_divides_evenly_or_says_what_would() {
        let division = |rows, group, part| Division { rows, group, part };
        assert_eq!(Division::of(128, 0, 1).unwrap(), division(128, 128, 128));
        assert_eq!(Division::of(128, 32, 1).unwrap(), division(128, 32, 32));
        assert_eq!(Division::of(128, 32, 8).unwrap(), division(128, 32, 16));
        assert_eq!(Division::of(128, 0, 4).unwrap(), division(128, 128, 32));
        assert_eq!(Division::of(12, 4, 2).unwrap(), division(12, 4, 4));
        for (rows, m, accumulate, message) in [
            (
                128,
                48,
                1,
                "--m 48 does not divide the batch of 128 images into groups of equal size; m may be 1, 2, 4, 8,",
            ),
            (8, 16, 1, "m may be 1, 2, 4, 8"),
            (10, 0, 3, "--accumulate 3 does not divide the batch of 10 images; the number of parts may be 1, 2, 5, 10"),
            (12, 4, 4, "--accumulate 4 makes parts of 3 images, which do not divide a group of --m 4"),
        ] {
            let error = Division::of(rows, m, accumulate).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
