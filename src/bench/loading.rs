//! Data loading: from the start of the process to images on the device, and ingest (crop and mirror included) alone.

use super::{Spread, process, repeat, timed};
use crate::check::Rig;
use crate::data;
use crate::device::{Device, Layout};
use crate::error::Result;
use crate::ops::call::{Augment, Call, Counters, Ingest, Kernel};
use crate::rng::permutation;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Images of one ingest call.
const BATCH: usize = 128;
/// What CIFAR is trained with: a crop out of 4 mirrored pixels on each side, and mirroring.
const AUGMENT: Augment = Augment { crop: 4, reflect: true, flip: true, cutout: 0, mixup: false };

/// How fast a data set is loaded and read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    pub data: String,
    /// Training images.
    pub images: usize,
    pub batch: usize,
    pub images_per_s: Spread,
    pub augment: Augment,
    /// Reading and checking the files, and copying the training images to the device.
    pub load_seconds: f64,
    /// From the start of the process to data on the device; None where the system does not tell.
    pub since_start: Option<f64>,
    pub threads: usize,
}

impl Loading {
    pub fn name(&self) -> String {
        format!("data {}, batch {}", self.data, self.batch)
    }

    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name(),
            "images_per_s": self.images_per_s.to_json(),
            "load_s": self.load_seconds,
            "since_process_start_s": self.since_start,
            "config": {
                "data": self.data, "images": self.images, "batch": self.batch, "threads": self.threads,
                "crop": self.augment.crop, "crop_padding": "reflect", "flip": self.augment.flip,
            },
        })
    }
}

/// Loads the data set and ingests its training images in random order for about `budget`.
///
/// # Errors
/// Those of the files.
pub fn time_loading(name: &str, device: Box<dyn Device>, budget: Duration) -> Result<Loading> {
    let begun = Instant::now();
    let data = data::load(name)?;
    let train = &data.train;
    let batch = BATCH.min(train.count);
    // A mirror shows no more than the image has.
    let augment = Augment { crop: AUGMENT.crop.min(train.h.min(train.w).saturating_sub(1)), ..AUGMENT };
    let ingest = Ingest {
        n: batch,
        h: train.h,
        w: train.w,
        c: train.c,
        classes: data.classes,
        offset: 0,
        mean: data.mean,
        std: data.std,
        augment,
    };
    let threads = device.threads();
    let vectors = vec![batch * train.image_len(), batch * data.classes, batch];
    let mut rig = Rig::with_layout(device, Layout { arena: 0, vectors, scalars: 0 })?;
    rig.set_dataset(&train.bytes(), &permutation(0, 0, train.count))?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let since_start = process::age().map(|age| age.as_secs_f64());

    let writes = (0..3).map(|i| rig.vector(i)).collect();
    let call = Call { kernel: Kernel::Ingest(ingest), reads: vec![], writes, workspace: None, label: "ingest".into() };
    let mut first = 0;
    let seconds = repeat(budget, || {
        let counters = Counters { first: first as u32, rows: batch as u32, ..Counters::default() };
        first = if first + 2 * batch <= train.count { first + batch } else { 0 };
        timed(|| rig.run(std::slice::from_ref(&call), &counters))
    })?;
    Ok(Loading {
        data: data.name.clone(),
        images: train.count,
        batch,
        augment,
        images_per_s: Spread::of(&seconds).rates(batch as f64),
        load_seconds,
        since_start,
        threads,
    })
}
