//! The Lanczos algorithm with full reorthogonalisation (Golub and Van Loan, section 10.3).

use super::eigen::{Eigen, tridiagonal};
use super::product::dot;
use super::shelf::Shelf;
use crate::error::{Error, Result};
use crate::study::journal::Journal;

/// Multiplies a vector by the matrix.
pub type Multiply<'a> = &'a mut dyn FnMut(&[f32]) -> Result<Vec<f32>>;

/// A tridiagonal matrix T = Qᵀ H Q and the basis Q that makes it.
pub struct Lanczos {
    pub diagonal: Vec<f64>,
    /// Beside the diagonal; the last one would join the next vector of the basis.
    pub off: Vec<f64>,
    /// Largest norm of what T should have as 0, or twice alike, if products were those of a symmetric matrix.
    pub asymmetry: f64,
    /// Vectors of the basis that are in memory; those behind them are on the shelf with these checksums.
    basis: Vec<Vec<f32>>,
    sums: Vec<f64>,
}

/// Share of T's largest entry below which a vector has nothing new: its direction would be that of rounding.
const EXHAUSTED: f64 = 1e-9;

impl Lanczos {
    /// Does up to `steps` steps from `start`, each a measurement `key/j` of the journal. It ends early where the basis spans
    /// all that the products reach.
    ///
    /// # Errors
    /// Those of the products, the journal and the shelf.
    pub fn run(
        start: Vec<f32>,
        steps: usize,
        key: &str,
        multiply: Multiply<'_>,
        journal: &mut Journal<'_>,
        shelf: &mut Shelf,
    ) -> Result<Lanczos> {
        let mut it = Lanczos { diagonal: vec![], off: vec![], asymmetry: 0.0, basis: vec![start], sums: vec![] };
        for j in 0..steps {
            let key = format!("{key}/{j}");
            if !journal.has(&key) {
                it.load(shelf)?;
            }
            let mut next = None;
            let values = journal.measure(&key, || {
                let (values, vector) = it.step(multiply)?;
                let sum = shelf.put(j * vector.len(), &vector)?;
                next = Some(vector);
                Ok([&values[..], &[sum]].concat())
            })?;
            let [alpha, beta, asymmetry, sum] = values[..] else { return Err(Error::internal("a step of Lanczos")) };
            it.diagonal.push(alpha);
            it.off.push(beta);
            it.asymmetry = it.asymmetry.max(asymmetry);
            if beta == 0.0 {
                break;
            }
            it.sums.push(sum);
            it.basis.extend(next);
        }
        Ok(it)
    }

    /// Returns alpha, beta, and the asymmetry of the next step, and the next vector of the basis.
    fn step(&self, multiply: Multiply<'_>) -> Result<([f64; 3], Vec<f32>)> {
        let j = self.diagonal.len();
        let product = multiply(&self.basis[j])?;
        let basis = &self.basis[..=j];
        let alpha = dot(&self.basis[j], &product);
        let mut rest: Vec<f64> = product.iter().map(|v| f64::from(*v)).collect();
        let mut asymmetry = 0.0;
        // Twice is enough (Kahan and Parlett): what rounding leaves of the first pass, the second takes away.
        for pass in 0..2 {
            for (i, q) in basis.iter().enumerate() {
                let along: f64 = q.iter().zip(&rest).map(|(q, r)| f64::from(*q) * r).sum();
                rest.iter_mut().zip(q).for_each(|(r, q)| *r -= along * f64::from(*q));
                if pass == 0 && i < j {
                    let expected = if i + 1 == j { self.off[i] } else { 0.0 };
                    asymmetry += (along - expected).powi(2);
                }
            }
        }
        let beta = rest.iter().map(|r| r * r).sum::<f64>().sqrt();
        let largest = self.diagonal.iter().chain(&self.off).fold(alpha.abs(), |most, x| most.max(x.abs()));
        let beta = if beta <= EXHAUSTED * largest || basis.len() == rest.len() { 0.0 } else { beta };
        let next = if beta > 0.0 { rest.iter().map(|r| (r / beta) as f32).collect() } else { vec![0.0; rest.len()] };
        Ok(([alpha, beta, f64::sqrt(asymmetry)], next))
    }

    /// Brings the vectors of the basis that are on the shelf into memory.
    fn load(&mut self, shelf: &mut Shelf) -> Result<()> {
        let len = self.basis[0].len();
        while self.basis.len() <= self.sums.len() {
            let j = self.basis.len() - 1;
            self.basis.push(shelf.get(j * len, len, self.sums[j])?);
        }
        Ok(())
    }

    /// The basis: as many vectors as T has rows.
    ///
    /// # Errors
    /// Those of the shelf, where a stopped study continues.
    pub fn basis(&mut self, shelf: &mut Shelf) -> Result<&[Vec<f32>]> {
        self.load(shelf)?;
        Ok(&self.basis[..self.diagonal.len()])
    }

    /// Eigenvalues of T, ascending, and its eigenvectors.
    pub fn eigen(&self) -> Eigen {
        tridiagonal(&self.diagonal, &self.off)
    }
}

/// The combination of `basis` with these coefficients.
pub fn combine(basis: &[Vec<f32>], coefficients: &[f64]) -> Vec<f32> {
    let mut sum = vec![0f64; basis.first().map_or(0, Vec::len)];
    for (q, c) in basis.iter().zip(coefficients) {
        sum.iter_mut().zip(q).for_each(|(s, q)| *s += c * f64::from(*q));
    }
    sum.into_iter().map(|s| s as f32).collect()
}

/// Takes out of `v` what the orthonormal `basis` spans.
pub fn project_out(basis: &[Vec<f32>], v: &mut [f32]) {
    let mut rest: Vec<f64> = v.iter().map(|v| f64::from(*v)).collect();
    for _ in 0..2 {
        for q in basis {
            let along: f64 = q.iter().zip(&rest).map(|(q, r)| f64::from(*q) * r).sum();
            rest.iter_mut().zip(q).for_each(|(r, q)| *r -= along * f64::from(*q));
        }
    }
    v.iter_mut().zip(rest).for_each(|(v, r)| *v = r as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::journal::Progress;

    /// A diagonal matrix with an eigenvalue that stands out at each end: twelve steps of 400 find both.
    #[test]
    fn a_few_steps_find_both_ends_of_the_spectrum_and_moments_of_its_density() {
        let n = 400;
        let diagonal: Vec<f32> = (0..n)
            .map(|i| match i {
                0 => 50.0,
                1 => -7.0,
                _ => (i as f32 * 0.37).sin(),
            })
            .collect();
        let start: Vec<f32> = (0..n).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 } / (n as f32).sqrt()).collect();
        let mut multiply = |v: &[f32]| Ok(v.iter().zip(&diagonal).map(|(v, d)| v * d).collect());
        let mut told = |_: Progress| Ok(());
        let mut journal = Journal::in_memory(12, &mut told);
        let mut shelf = Shelf::default();
        let mut it = Lanczos::run(start, 12, "l", &mut multiply, &mut journal, &mut shelf).unwrap();
        let eigen = it.eigen();
        assert!((eigen.values[11] - 50.0).abs() < 1e-4 && (eigen.values[0] + 7.0).abs() < 1e-4, "{:?}", eigen.values);
        assert!(it.asymmetry < 1e-4, "{}", it.asymmetry);
        // Gauss's rule: with weights of the first entries squared, moments are those of the matrix.
        for power in 0..6 {
            let known = diagonal.iter().map(|d| f64::from(*d).powi(power)).sum::<f64>() / n as f64;
            let found: f64 = eigen.values.iter().zip(&eigen.vectors).map(|(x, v)| v[0] * v[0] * x.powi(power)).sum();
            assert!((found - known).abs() <= 1e-5 * known.abs().max(1.0), "{power}: {found} {known}");
        }
        let basis = it.basis(&mut shelf).unwrap();
        let top = combine(basis, &eigen.vectors[11]);
        assert!((top[0].abs() - 1.0).abs() < 1e-5, "{}", top[0]);
        let mut v: Vec<f32> = (0..n).map(|i| i as f32).collect();
        project_out(basis, &mut v);
        assert!(basis.iter().all(|q| dot(q, &v).abs() < 1e-3));
    }

    #[test]
    fn it_ends_where_the_products_reach_no_further() {
        let mut multiply = |v: &[f32]| Ok(vec![2.0 * v[0], 0.0, 0.0]);
        let mut told = |_: Progress| Ok(());
        let mut journal = Journal::in_memory(3, &mut told);
        let run =
            Lanczos::run(vec![0.6, 0.8, 0.0], 3, "l", &mut multiply, &mut journal, &mut Shelf::default()).unwrap();
        let values = run.eigen().values;
        assert_eq!(values.len(), 2);
        assert!(values[0].abs() < 1e-6 && (values[1] - 2.0).abs() < 1e-6, "{values:?}");
    }
}
