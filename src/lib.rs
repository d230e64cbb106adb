//! samcore: a training engine to study why some trained networks generalize and others do not.

pub mod check;
pub mod cli;
pub mod clock;
pub mod data;
pub mod device;
pub mod error;
pub mod exec;
pub mod files;
pub mod graph;
pub mod interp;
mod lower;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod params;
pub mod plan;
pub mod plot;
pub mod recipe;
pub mod rng;
pub mod safetensors;
pub mod step;
pub mod train;
