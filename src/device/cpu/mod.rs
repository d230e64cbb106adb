//! The CPU device.

pub mod pool;
pub mod simd;

use pool::Pool;
use simd::Isa;

/// What every CPU kernel is given: threads to run on and instructions to use.
pub struct Workers {
    pub pool: Pool,
    pub isa: Isa,
}
