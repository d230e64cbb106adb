//! From the settings that somebody gave to the whole recipe of a run.

use super::{Overrides, Recipe};
use crate::data::Format;
use crate::error::Result;
use crate::models::Model;
use crate::optim;

/// Returns the recipe that `given` makes of the model's own and the optimizer's, for data of that format. Of each setting the
/// last one counts: its default, the model's recipe, the optimizer's, the preset of augmentation that is given, `given`.
///
/// # Errors
/// Usage: there is no such optimizer, or a value that its setting cannot have.
pub fn recipe_of(model: &Model, given: &Overrides, format: Format) -> Result<Recipe> {
    let own = Overrides::parse(model.recipe.iter().copied().flatten()).map_err(|e| e.context(&model.name))?;
    let row = optim::find(&Recipe::default().with(given)?.opt)?;
    let of_optimizer = Overrides::of_optimizer(row, given)?;
    let below = Recipe::default().with(&own)?.with(&of_optimizer)?;
    let preset = below.clone().with(given)?.augmentation.settings(format)?;
    let recipe = below.with(&preset)?.with(given)?;
    Ok(Recipe { model: model.name.clone(), ..recipe })
}
