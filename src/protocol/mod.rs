//! Experiments out of many runs: which runs, in which order, and what they say together.
//!
//! [`compare()`] trains several optimizers on one budget over several seeds. A [`Request`] is what is asked, a [`Plan`]
//! the runs that follow from it; each run is an ordinary one in a folder of its own. The [`Results`] are read back from
//! those folders alone, so it does not matter when, where or by which process a run was made.

pub mod compare;
mod figure;
pub mod folder;
pub mod html;
pub mod plan;
pub mod report;
pub mod request;
pub mod results;
pub mod statistics;
pub mod table;

pub use compare::{Place, compare};
pub use plan::{Plan, Run, Share};
pub use request::{Budget, Request};
pub use results::Results;
