//! The vocabulary of operations.

pub mod call;
