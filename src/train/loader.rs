//! The images of each epoch as AutoAugment leaves them, made on a thread of their own while the epoch before is trained.

use super::engine::TRAIN;
use crate::data::DataSet;
use crate::data::augment::AutoAugment;
use crate::device::DatasetBytes;
use crate::error::{Error, Kind, Result};
use crate::exec::Exec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

/// Images from one look at the stop sign to the next: about a millisecond.
const PAUSE: usize = 256;

/// Makes a copy of all training images for each epoch, of which those that are trained on are augmented. Image i stays number
/// i, and those held out stay as they are.
pub struct Loader {
    source: Arc<Source>,
    /// The epoch that is being made, and its images in the end.
    next: Option<(u32, JoinHandle<Vec<u8>>)>,
    /// Epochs of the run.
    epochs: u32,
}

/// Source of the images.
struct Source {
    data: Arc<DataSet>,
    /// Numbers of the images that are trained on.
    chosen: Vec<u32>,
    seed: u64,
    stop: AtomicBool,
}

impl Loader {
    /// Returns the loader of a run of `epochs` epochs on the images `chosen` of the training split.
    pub fn new(data: &Arc<DataSet>, chosen: &[u32], seed: u64, epochs: u32) -> Loader {
        let source = Source { data: Arc::clone(data), chosen: chosen.to_vec(), seed, stop: AtomicBool::new(false) };
        Loader { source: Arc::new(source), next: None, epochs }
    }

    /// Puts the images of `epoch` in the place of the training set, whose order must be set anew, and begins with those of
    /// the epoch behind it. Returns the seconds that it waited for them.
    ///
    /// # Errors
    /// Unavailable: no thread. Those of the device.
    pub fn swap(&mut self, exec: &mut Exec, epoch: u32) -> Result<f64> {
        let begun = Instant::now();
        let images = match self.next.take() {
            Some((made, thread)) if made == epoch => finished(thread)?,
            // The first epoch of this process.
            other => {
                let buffer =
                    other.map_or_else(|| Ok(self.source.data.train.images.to_vec()), |(_, thread)| finished(thread))?;
                finished(self.start(epoch, buffer)?)?
            }
        };
        let waited = begun.elapsed().as_secs_f64();
        let train = &self.source.data.train;
        exec.set_dataset(TRAIN, &DatasetBytes { images: &images, ..train.bytes() })?;
        if epoch + 1 < self.epochs {
            self.next = Some((epoch + 1, self.start(epoch + 1, images)?));
        }
        Ok(waited)
    }

    /// Begins with the images of `epoch`, in memory that held those of another.
    fn start(&self, epoch: u32, images: Vec<u8>) -> Result<JoinHandle<Vec<u8>>> {
        let source = Arc::clone(&self.source);
        // Checks here, where an error can be returned, that the data can be augmented.
        let augment = AutoAugment::new(&source.data, source.seed)?;
        let thread = Builder::new().name("autoaugment".into()).spawn(move || source.make(augment, epoch, images));
        thread.map_err(|e| Error::new(Kind::Unavailable, format!("no thread for --autoaugment: {e}")))
    }
}

impl Source {
    fn make(&self, mut augment: AutoAugment, epoch: u32, mut images: Vec<u8>) -> Vec<u8> {
        let train = &self.data.train;
        for some in self.chosen.chunks(PAUSE) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            for &number in some {
                let image = &mut images[number as usize * train.image_len()..][..train.image_len()];
                image.copy_from_slice(train.image(number as usize));
                augment.apply(epoch, number, image);
            }
        }
        images
    }
}

fn finished(thread: JoinHandle<Vec<u8>>) -> Result<Vec<u8>> {
    thread.join().map_err(|_| Error::internal("the thread of --autoaugment failed"))
}

/// No thread outlives the run.
impl Drop for Loader {
    fn drop(&mut self) {
        self.source.stop.store(true, Ordering::Relaxed);
        if let Some((_, thread)) = self.next.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;

    #[test]
    fn images_that_are_held_out_stay_as_they_are_and_an_epoch_leaves_no_trace_in_the_next() {
        let data = Arc::new(data::load("fashion-mnist").unwrap());
        let chosen: Vec<u32> = (0..600).filter(|i| i % 3 != 0).collect();
        let loader = Loader::new(&data, &chosen, 5, 4);
        let make = |epoch, images| finished(loader.start(epoch, images).unwrap()).unwrap();
        let first = make(0, data.train.images.to_vec());
        let second = make(1, first.clone());
        assert_eq!(second, make(1, data.train.images.to_vec()));
        let len = data.train.image_len();
        let image = |images: &[u8], i: usize| images[i * len..][..len].to_vec();
        let changed = |i: &usize| image(&first, *i) != data.train.image(*i);
        let all = || 0..data.train.count;
        assert!(all().filter(changed).all(|i| i < 600 && i % 3 != 0));
        assert!(all().filter(changed).count() > 200);
        assert!((0..600).filter(|i| image(&first, *i) != image(&second, *i)).count() > 200);
    }
}
