//! PyTorch's values against those of the specs and the device. `golden/README.md` describes the fixtures and says how close
//! float32 must be; the scripts that made them lie beside it.

#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/ops.rs"]
mod ops;
#[path = "golden/steps.rs"]
mod steps;
