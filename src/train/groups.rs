//! Learning rates by group of parameters: what `--group-lr` and `--head-lr` ask for.

use super::layers::{below, frozen, named};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::models;
use crate::ops::call::MAX_GROUPS;
use crate::params::Param;
use crate::recipe::{Recipe, rate_of};

/// The learning-rate group of each parameter, and the groups' rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// Beginnings of names with their groups.
    layers: Vec<(String, usize)>,
    /// Peak rate of each group; those that there are not have the first one's.
    peaks: [f64; MAX_GROUPS],
}

impl Groups {
    /// The groups that `recipe` describes. Layers with equal rates share a group.
    ///
    /// # Errors
    /// Usage: a layer that the model does not have, that is named twice or that is frozen; more rates than there are
    /// groups.
    pub fn of(recipe: &Recipe, graph: &Graph) -> Result<Groups> {
        let mut rates = vec![];
        for word in &recipe.group_lr {
            let no_rate = || Error::usage(format!("--group-lr {word}: no name with a rate above 0"));
            let (name, rate) = rate_of(word).ok_or_else(no_rate)?;
            rates.extend(named(graph, "group-lr", name)?.into_iter().map(|name| ("group-lr", name, rate)));
        }
        if recipe.head_lr > 0.0 {
            rates.push(("head-lr", models::head(graph)?.to_owned(), recipe.head_lr));
        }
        let mut groups = Groups { layers: vec![], peaks: [recipe.lr; MAX_GROUPS] };
        let held = frozen(graph, &recipe.freeze)?;
        let mut count = 1;
        for (flag, name, rate) in rates {
            if groups.layers.iter().any(|(other, _)| *other == name) {
                let what = if flag == "head-lr" { "has a rate by --head-lr too" } else { "is there twice" };
                return Err(Error::usage(format!("--group-lr: {name} {what}; give it one")));
            }
            let is_held = |p: &Param| held.iter().any(|layer| below(&p.name, layer));
            if graph.params().list().iter().filter(|p| below(&p.name, &name)).all(is_held) {
                return Err(Error::usage(format!(
                    "--{flag}: --freeze holds all of {name} still; leave one of them out"
                )));
            }
            let group = match groups.peaks[..count].iter().position(|peak| *peak == rate) {
                Some(group) => group,
                None if count == MAX_GROUPS => {
                    let most = MAX_GROUPS - 1;
                    return Err(Error::usage(format!("--group-lr: at most {most} rates may differ from --lr")));
                }
                None => {
                    groups.peaks[count] = rate;
                    count += 1;
                    count - 1
                }
            };
            groups.layers.push((name, group));
        }
        Ok(groups)
    }

    /// Returns the group of a parameter: that of the longest given name that it is below.
    pub fn group(&self, p: &Param) -> usize {
        let own = self.layers.iter().filter(|(name, _)| below(&p.name, name)).max_by_key(|(name, _)| name.len());
        own.map_or(0, |(_, group)| *group)
    }

    /// Every group's rate where the schedule of the others, whose peak is the recipe's, is at `lr`.
    pub fn rates(&self, lr: f32) -> [f32; MAX_GROUPS] {
        let [first, ..] = self.peaks;
        let mut rates = self.peaks.map(|peak| (f64::from(lr) * peak / first) as f32);
        rates[0] = lr;
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ImageSource;
    use crate::models::Setup;
    use crate::ops::call::Augment;

    fn graph() -> Graph {
        let (mean, std, augment) = ([0.5; 4], [0.5; 4], Augment::default());
        let source = ImageSource { h: 32, w: 32, c: 3, classes: 10, mean, std, augment };
        models::classifier(&models::find("resnet18").unwrap(), &source, &Setup::default()).unwrap()
    }

    fn recipe(layers: &str, head_lr: f64, freeze: &str) -> Recipe {
        let words = |text: &str| text.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        Recipe { lr: 0.1, group_lr: words(layers), head_lr, freeze: words(freeze), ..Recipe::default() }
    }

    #[test]
    fn the_longest_name_decides_and_equal_rates_share_a_group() {
        let graph = graph();
        let groups = Groups::of(&recipe("layer4=0.01,layer4.1.bn2=0.2,conv1=0.01,bn1=0.1", 0.2, ""), &graph).unwrap();
        let peak = |name: &str| {
            let p = graph.params().list().iter().find(|p| p.name == name).unwrap();
            groups.rates(0.1)[groups.group(p)]
        };
        for (name, expected) in [
            ("conv1.weight", 0.01),
            ("bn1.weight", 0.1),
            ("layer3.0.conv1.weight", 0.1),
            ("layer4.0.conv1.weight", 0.01),
            ("layer4.1.bn2.weight", 0.2),
            ("layer4.1.bn1.bias", 0.01),
            ("fc.weight", 0.2),
            ("fc.bias", 0.2),
        ] {
            assert!((peak(name) - expected).abs() < 1e-7, "{name}: {}", peak(name));
        }
        let highest = graph.params().list().iter().map(|p| groups.group(p)).max();
        assert_eq!(highest, Some(2));
        // Every group follows the schedule of the others.
        let [full, half] = [0.1, 0.05].map(|lr| groups.rates(lr));
        assert!(full.iter().zip(half).all(|(full, half)| (full / 2.0 - half).abs() < 1e-8));
    }

    #[test]
    fn without_rates_of_their_own_all_are_in_the_first_group() {
        let graph = graph();
        let groups = Groups::of(&recipe("", 0.0, ""), &graph).unwrap();
        assert!(graph.params().list().iter().all(|p| groups.group(p) == 0));
    }

    #[test]
    fn groups_that_cannot_be_are_told() {
        let graph = graph();
        let eight = "conv1=1,bn1=2,layer1=3,layer2=4,layer3=5,layer4=6,fc.weight=7,fc.bias=8";
        for (layers, head_lr, freeze, message) in [
            (
                "layer5=0.1",
                0.0,
                "",
                "--group-lr layer5: no parameter of the model has a name like that; did you mean 'layer1'?",
            ),
            ("fc=0.1,fc=0.2", 0.0, "", "--group-lr: fc is there twice; give it one"),
            ("fc=0.1", 0.2, "", "--group-lr: fc has a rate by --head-lr too; give it one"),
            ("layer4.0=0.1", 0.0, "layer4", "--group-lr: --freeze holds all of layer4.0 still; leave one of them out"),
            ("", 0.2, "fc", "--head-lr: --freeze holds all of fc still; leave one of them out"),
            (eight, 0.0, "", "--group-lr: at most 7 rates may differ from --lr"),
        ] {
            let error = Groups::of(&recipe(layers, head_lr, freeze), &graph).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 2));
        }
    }
}
