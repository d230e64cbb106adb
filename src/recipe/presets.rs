//! The presets of --augment.

use super::{Augmentation, Overrides};
use crate::data::Format;
use crate::error::Result;

/// The settings that a preset gives their values.
pub const PRESET: [&str; 5] = ["crop", "crop-padding", "flip", "cutout", "autoaugment"];

/// Side of the square that cutout's authors erase from CIFAR-10's images, and here from all but CIFAR-100's: from those they
/// erase one of half that side.
const SIDE: &str = "16";
const SIDE_CIFAR_100: &str = "8";

/// Values in the order of [`PRESET`]. Borders are mirrored, as in the wide ResNets' and the SAM paper's code.
#[rustfmt::skip]
const PRESETS: [(Augmentation, [&str; 5]); 4] = [
    (Augmentation::None, ["0", "zero", "false", "0", "false"]),
    (Augmentation::Basic, ["4", "reflect", "true", "0", "false"]),
    (Augmentation::Cutout, ["4", "reflect", "true", SIDE, "false"]),
    (Augmentation::Auto, ["4", "reflect", "true", SIDE, "true"]),
];

impl Augmentation {
    /// The settings that it gives for data of that format; none for `Own`.
    ///
    /// # Errors
    /// None: a preset's values are those of its settings, as a test proves.
    pub fn settings(self, format: Format) -> Result<Overrides> {
        let values = PRESETS.iter().find(|row| row.0 == self).map(|row| row.1);
        let value = |text| if text == SIDE && format == Format::Cifar100 { SIDE_CIFAR_100 } else { text };
        let pairs: Vec<_> = values.into_iter().flat_map(|v| PRESET.into_iter().zip(v.map(value))).collect();
        Overrides::parse(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Padding, Recipe};
    use super::*;

    #[test]
    fn each_preset_gives_all_five_settings_and_own_none() {
        let recipe = |augmentation: Augmentation, format| {
            let settings = augmentation.settings(format).unwrap();
            let r = Recipe::default().with(&settings).unwrap();
            (r.crop, r.crop_padding, r.flip, r.cutout, r.autoaugment)
        };
        use Augmentation::*;
        assert_eq!(Own.settings(Format::Idx), Ok(Overrides::default()));
        for (augmentation, format, expected) in [
            (None, Format::Idx, (0, Padding::Zero, false, 0, false)),
            (Basic, Format::Cifar100, (4, Padding::Reflect, true, 0, false)),
            (Cutout, Format::Cifar10, (4, Padding::Reflect, true, 16, false)),
            (Cutout, Format::Cifar100, (4, Padding::Reflect, true, 8, false)),
            (Auto, Format::Idx, (4, Padding::Reflect, true, 16, true)),
            (Auto, Format::Cifar100, (4, Padding::Reflect, true, 8, true)),
        ] {
            assert_eq!(recipe(augmentation, format), expected, "{augmentation:?}");
        }
    }
}
