//! Runs that stand still: a training loss and accuracy that guessing would have.
//!
//! SAM with a fixed radius can be held at a saddle that SGD leaves (Kim et al. 2023, arXiv:2301.06308): |g| falls while
//! rho / |g| grows, so each step ascends as far as ever and descends less and less. A rate that is too high, or images that say
//! nothing about their labels, look the same from outside.

use crate::optim::OptimizerRow;
use crate::recipe::Recipe;

/// Largest relative distance of a training loss from that of guessing.
const NEAR: f64 = 0.01;

/// Returns the cross-entropy of predicting every one of `classes` classes with the same probability.
pub fn guessing(classes: usize) -> f64 {
    (classes as f64).ln()
}

/// Returns true if an epoch over `images` training images with that mean cross-entropy and accuracy learned nothing: the loss is
/// within 1 % of that of guessing, and the accuracy at most three standard errors above that of chance.
pub fn at_chance(loss: f64, accuracy: f64, classes: usize, images: f64) -> bool {
    let chance = 1.0 / classes as f64;
    let error = (chance * (1.0 - chance) / images.max(1.0)).sqrt();
    classes > 1 && (loss / guessing(classes) - 1.0).abs() <= NEAR && accuracy <= chance + 3.0 * error
}

/// Returns true if a run of `recipe` records a training loss that can be compared with that of guessing.
pub fn comparable(recipe: &Recipe) -> bool {
    recipe.loss_kind().is_empty()
}

/// Returns what a run of `recipe` says when it stands still in `epoch`: what shows it, and what to try.
pub fn line(
    recipe: &Recipe,
    row: &OptimizerRow,
    epoch: u64,
    scores: [f64; 2],
    classes: usize,
    grad_norm: f64,
) -> String {
    let [loss, accuracy] = scores;
    let guessed = guessing(classes);
    let accuracy = 100.0 * accuracy;
    let mut text = format!(
        "epoch {epoch} learned nothing: training loss {loss:.4} is that of guessing ({guessed:.4}), accuracy {accuracy:.1} % that of \
         chance; |g| {grad_norm:.3}"
    );
    let radius = row.settings.contains(&"rho") && recipe.rho > 0.0;
    if radius {
        text += &format!(", rho/|g| {:.2}", recipe.rho / grad_norm);
    }
    text += "; try ";
    if radius {
        text += "a smaller --rho, --rho-warmup 0.2, --init with a run of a few epochs of SGD, ";
    }
    text + "a smaller --lr, or another --seed"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim;

    #[test]
    fn only_a_loss_and_an_accuracy_of_guessing_are_at_chance() {
        let ten = 10f64.ln();
        for (loss, accuracy, expected) in [
            (ten, 0.1, true),
            (1.009 * ten, 0.09, true),
            (0.991 * ten, 0.1 + 3.0 * 0.006, true),
            (0.989 * ten, 0.1, false),
            (1.011 * ten, 0.1, false),
            // The rare class that is learned first shows in the accuracy.
            (ten, 0.12, false),
        ] {
            assert_eq!(at_chance(loss, accuracy, 10, 2500.0), expected, "{loss} {accuracy}");
        }
        assert!(!at_chance(0.0, 1.0, 1, 100.0), "one class needs no guessing");
        assert!(!at_chance(f64::NAN, 0.1, 10, 100.0));
    }

    #[test]
    fn the_line_names_the_radius_only_where_there_is_one() {
        let say = |opt: &str| line(&Recipe::default(), optim::find(opt).unwrap(), 7, [10f64.ln(), 0.1], 10, 0.08);
        assert!(say("sam").contains("|g| 0.080, rho/|g| 0.62; try a smaller --rho, --rho-warmup"), "{}", say("sam"));
        assert!(say("sgd").contains("|g| 0.080; try a smaller --lr"), "{}", say("sgd"));
    }
}
