//! What PyTorch computes, against what the specs and the device compute. `golden/README.md` says what the fixtures hold
//! and how close float32 must come; the scripts that made them lie beside it.

#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/ops.rs"]
mod ops;
#[path = "golden/steps.rs"]
mod steps;
