use super::{Launch, Target};
use crate::error::{Error, Result};
use crate::ops::call::Call;

pub(super) fn workspace(_target: &Target, _call: &Call) -> usize {
    0
}

pub(super) fn launches(_target: &Target, call: &Call) -> Result<Vec<Launch>> {
    Err(Error::internal(format!("'{}' has no kernel yet", call.label)))
}
