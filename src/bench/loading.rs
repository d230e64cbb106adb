//! Data loading: from the start of the process to images on the device, ingest (crop and mirror included) alone, and all of
//! the augmentation that papers train CIFAR with on one core.

use super::{Spread, process, repeat, timed};
use crate::check::Rig;
use crate::data::augment::AutoAugment;
use crate::data::{self, DataSet};
use crate::device::cpu::CpuDevice;
use crate::device::{DatasetBytes, Device, Layout};
use crate::error::Result;
use crate::ops::call::{Augment, Call, Counters, Ingest, Kernel};
use crate::rng::permutation;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Images that are augmented in one go.
const AUGMENTED: usize = 1024;

/// Images of one ingest call.
const BATCH: usize = 128;
/// The usual augmentation of CIFAR: a crop out of 4 mirrored pixels on each side, and mirroring.
const AUGMENT: Augment = Augment { crop: 4, reflect: true, flip: true, cutout: 0, mixup: false };

/// Speed of loading and reading a data set.
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
    let threads = device.threads();
    let (mut rig, call) = ingesting(device, &data, batch, augment)?;
    rig.set_dataset(&train.bytes(), &permutation(0, 0, train.count))?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let since_start = process::age().map(|age| age.as_secs_f64());

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

/// A device with memory for a batch, and the call that ingests one of `data`.
fn ingesting(device: Box<dyn Device>, data: &DataSet, batch: usize, augment: Augment) -> Result<(Rig, Call)> {
    let train = &data.train;
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
    let vectors = vec![batch * train.image_len(), batch * data.classes, batch];
    let rig = Rig::with_layout(device, Layout { arena: 0, vectors, scalars: 0 })?;
    let writes = (0..3).map(|i| rig.vector(i)).collect();
    let call = Call { kernel: Kernel::Ingest(ingest), reads: vec![], writes, workspace: None, label: "ingest".into() };
    Ok((rig, call))
}

/// Speed of one core for AutoAugment on the host, and for crop, mirroring and cutout during ingest.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmenting {
    pub data: String,
    /// Images of one go, from the files' bytes to normalised batches, the copy to the device included.
    pub images: usize,
    pub batch: usize,
    /// All of it.
    pub images_per_s: Spread,
    /// AutoAugment alone, and the rest.
    pub autoaugment: Spread,
    pub ingest: Spread,
    pub augment: Augment,
}

impl Augmenting {
    pub fn name(&self) -> String {
        format!("augment {}, batch {}, one core", self.data, self.batch)
    }

    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name(),
            "images_per_s": self.images_per_s.to_json(),
            "autoaugment_images_per_s": self.autoaugment.to_json(),
            "ingest_images_per_s": self.ingest.to_json(),
            "config": {
                "data": self.data, "images": self.images, "batch": self.batch, "threads": 1, "autoaugment": true,
                "crop": self.augment.crop, "crop_padding": "reflect", "flip": self.augment.flip,
                "cutout": self.augment.cutout,
            },
        })
    }
}

/// Augments training images of the data set for about `budget`. None where AutoAugment has no colours to work on.
///
/// # Errors
/// Those of the files.
pub fn time_augmenting(name: &str, budget: Duration) -> Result<Option<Augmenting>> {
    let data = data::load(name)?;
    let train = &data.train;
    let Ok(mut autoaugment) = AutoAugment::new(&data, 0) else { return Ok(None) };
    let batch = BATCH.min(train.count);
    let count = AUGMENTED.min(train.count) / batch * batch;
    let (len, side) = (train.image_len(), train.h.min(train.w));
    let augment = Augment { crop: AUGMENT.crop.min(side.saturating_sub(1)), cutout: 16, ..AUGMENT };
    let (mut rig, call) = ingesting(Box::new(CpuDevice::new(1)?), &data, batch, augment)?;
    let order = permutation(0, 0, count);
    let mut images = vec![0; count * len];
    let mut epoch = 0;
    let seconds = repeat(budget, || {
        epoch += 1;
        let host = timed(|| {
            for (i, image) in images.chunks_exact_mut(len).enumerate() {
                image.copy_from_slice(train.image(i));
                autoaugment.apply(epoch, i as u32, image);
            }
            Ok(())
        })?;
        let ingest = timed(|| {
            rig.set_dataset(&DatasetBytes { images: &images, labels: &train.labels[..count], image_len: len }, &order)?;
            (0..count).step_by(batch).try_for_each(|first| {
                let counters = Counters { first: first as u32, rows: batch as u32, epoch, ..Counters::default() };
                rig.run(std::slice::from_ref(&call), &counters)
            })
        })?;
        Ok([host + ingest, host, ingest])
    })?;
    let rates = |part: usize| {
        let seconds: Vec<f64> = seconds.iter().map(|s| s[part]).collect();
        Spread::of(&seconds).rates(count as f64)
    };
    Ok(Some(Augmenting {
        data: data.name.clone(),
        images: count,
        batch,
        images_per_s: rates(0),
        autoaugment: rates(1),
        ingest: rates(2),
        augment,
    }))
}
