//! The CPU device.

pub mod ingest;
pub mod loss;
pub mod norm;
pub mod norm_backward;
pub mod norm_stats;
pub mod pointwise;
pub mod pool;
pub mod pooling;
pub mod simd;
mod split;
#[cfg(test)]
mod testing;
pub mod vector;

use pool::Pool;
use simd::Isa;

/// What every CPU kernel is given: threads to run on and instructions to use.
pub struct Workers {
    pub pool: Pool,
    pub isa: Isa,
}
