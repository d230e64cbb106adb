//! A training run: its folder and records, its progress on the terminal, and the signals that end it.

pub mod checkpoint;
pub mod curves;
pub mod divergence;
pub mod engine;
pub mod environment;
pub mod groups;
pub mod init;
pub mod labels;
mod layers;
pub mod loader;
pub mod measured;
pub mod memory;
mod opening;
pub mod origin;
mod outcome;
pub mod progress;
pub mod records;
pub mod resume;
pub mod run_folder;
mod session;
pub mod signals;
pub mod stall;
pub(crate) mod swa;
pub mod tensorboard;

pub(crate) use opening::{beginning, orders};
pub use outcome::{Summary, Where, resume_line, shell_word};
pub use session::{Observer, Scene, Session};
