//! samcore: a training engine to study why some trained networks generalize and others do not.

pub mod device;
pub mod error;
pub mod ops;
pub mod rng;
