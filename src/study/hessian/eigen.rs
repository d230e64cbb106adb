//! Eigenvalues and eigenvectors of a small symmetric matrix by cyclic Jacobi rotations (Golub and Van Loan, section 8.5).

/// Eigenvalues, ascending, and for each its eigenvector of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    pub values: Vec<f64>,
    pub vectors: Vec<Vec<f64>>,
}

/// Most sweeps; each squares what is left off the diagonal, so that a few are enough.
const MAX_SWEEPS: usize = 60;

/// Returns the eigenvalues and eigenvectors of the tridiagonal matrix with this diagonal and, beside it, `off`.
pub fn tridiagonal(diagonal: &[f64], off: &[f64]) -> Eigen {
    let n = diagonal.len();
    let mut a = vec![vec![0.0; n]; n];
    for i in 0..n {
        a[i][i] = diagonal[i];
        if i + 1 < n {
            (a[i][i + 1], a[i + 1][i]) = (off[i], off[i]);
        }
    }
    symmetric(a)
}

/// Returns the eigenvalues and eigenvectors of a symmetric matrix.
pub fn symmetric(mut a: Vec<Vec<f64>>) -> Eigen {
    let n = a.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let whole: f64 = a.iter().flatten().map(|x| x * x).sum();
    for _ in 0..MAX_SWEEPS {
        let rest: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if rest <= 1e-32 * whole {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] != 0.0 {
                    rotate(&mut a, &mut vectors, p, q);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| a[*i][*i].total_cmp(&a[*j][*j]));
    let values = order.iter().map(|i| a[*i][*i]).collect();
    Eigen { values, vectors: order.iter().map(|i| std::mem::take(&mut vectors[*i])).collect() }
}

/// Turns the plane of rows p and q such that `a[p][q]` becomes 0; the rows of `vectors` turn with it.
fn rotate(a: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    let turn = |x: f64, y: f64| (c * x - s * y, s * x + c * y);
    for row in a.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    for i in 0..a.len() {
        (a[p][i], a[q][i]) = turn(a[p][i], a[q][i]);
        (vectors[p][i], vectors[q][i]) = turn(vectors[p][i], vectors[q][i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix with 2 on the diagonal and -1 beside it has the eigenvalues 2 - 2 cos(i pi/(n + 1)).
    #[test]
    fn eigenvalues_of_the_second_difference_are_the_known_ones() {
        let n = 12;
        let found = tridiagonal(&vec![2.0; n], &vec![-1.0; n - 1]);
        for (i, (value, v)) in found.values.iter().zip(&found.vectors).enumerate() {
            let known = 2.0 - 2.0 * ((i + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
            assert!((value - known).abs() < 1e-13, "{value} {known}");
            for j in 0..n {
                let beside = [j.checked_sub(1).map(|j| v[j]), v.get(j + 1).copied()].into_iter().flatten().sum::<f64>();
                assert!((2.0 * v[j] - beside - value * v[j]).abs() < 1e-12);
            }
        }
        let one = tridiagonal(&[-3.0], &[]);
        assert_eq!((one.values, one.vectors), (vec![-3.0], vec![vec![1.0]]));
        assert_eq!(tridiagonal(&[0.0, 0.0], &[0.0]).values, [0.0, 0.0]);
    }
}
