//! A training run: its folder and records, its progress on the terminal, and the signals that end it.

pub mod environment;
pub mod progress;
pub mod records;
pub mod run_folder;
pub mod signals;
