//! samcore: a training engine to study why some trained networks generalize and others do not.
//!
//! A model is a function that records operations on a [`graph::Graph`] out of the layers in [`nn`]; [`train::Session`]
//! trains it by a [`recipe::Recipe`] and leaves a run folder:
//!
//! ```no_run
//! use samcore::{data, models, recipe::Recipe, train};
//!
//! let recipe = Recipe { opt: "sam".into(), rho: 0.05, ..Recipe::default() };
//! let fashion = data::load("fashion-mnist")?;
//! let mut session = train::Session::with_model(&models::find("cnn")?, fashion, recipe, &train::Where::default())?;
//! println!("{:.2} %", 100.0 * session.run()?.test.accuracy);
//! # Ok::<(), samcore::error::Error>(())
//! ```
//!
//! Below that: [`plan`] turns a graph into calls over one arena, [`step`] records an optimizer's step as a program of passes
//! and vector operations, [`exec`] replays it on a [`device::Device`], and [`check`] compares all of it with the definitions in
//! [`ops`] through the f64 interpreter [`interp`].

// `unsafe` is allowed in device code and for the one memory map of `data`.
#![deny(unsafe_code)]

pub mod bench;
pub mod check;
pub mod cli;
pub mod clock;
pub mod data;
#[allow(unsafe_code)]
pub mod device;
pub mod dtype;
pub mod error;
pub mod exec;
pub mod files;
pub mod graph;
pub mod interp;
mod lower;
pub mod models;
pub mod nn;
pub mod npz;
pub mod ops;
pub mod optim;
pub mod output;
pub mod params;
pub mod plan;
pub mod plot;
pub mod protocol;
pub mod recipe;
pub mod repro;
pub mod rng;
pub mod safetensors;
pub mod step;
pub mod study;
pub mod train;
