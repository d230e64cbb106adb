//! Curvature of the mean loss at the trained weights.

mod product;

pub use product::{GRID, Operator, Products, Step};
