//! Data sets in device memory, and the table by which kernels find them.

use super::driver::{Address, Driver};
use super::launch::step;
use crate::device::{DatasetBytes, Extent};
use crate::error::{Error, Result};

/// Data sets that the table has room for.
const MOST: usize = 4;

#[derive(Clone, Copy, Default)]
struct Dataset {
    images: Address,
    labels: Address,
    order: Address,
    /// Positions for which there is room in the order.
    order_room: usize,
    extent: Extent,
}

/// All data sets of a device.
pub struct Datasets {
    table: Address,
    list: [Dataset; MOST],
}

impl Datasets {
    /// Returns an empty table.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(driver: &mut dyn Driver) -> Result<Datasets> {
        let table = driver.alloc(MOST * step::DATASET_BYTES)?;
        driver.fill(table, 0, MOST * step::DATASET_BYTES)?;
        Ok(Datasets { table, list: [Dataset::default(); MOST] })
    }

    /// Address of the table: an array of `struct Dataset` of `counters.cuh`.
    pub fn table(&self) -> Address {
        self.table
    }

    /// Returns the extent of data set `id`.
    pub fn extent(&self, id: u32) -> Extent {
        self.list.get(id as usize).map_or(Extent::default(), |d| d.extent)
    }

    /// Replaces data set `id`.
    ///
    /// # Errors
    /// Those of the driver; internal: bytes of other images than there are labels, more data sets than there is room for.
    pub fn set(&mut self, driver: &mut dyn Driver, id: u32, data: &DatasetBytes<'_>) -> Result<()> {
        // The old order may name images that are no longer there, so that nothing is visited until there is a new one.
        let extent = data.extent()?;
        let old = *self.get(id)?;
        let images = replace(driver, old.images, old.extent.count * old.extent.image_len, data.images)?;
        let labels = replace(driver, old.labels, old.extent.count, data.labels)?;
        *self.get(id)? = Dataset { images, labels, extent, ..old };
        self.write(driver, id)
    }

    /// Replaces the order in which data set `id` is visited.
    ///
    /// # Errors
    /// Those of the driver; internal: an image that is not there.
    pub fn set_order(&mut self, driver: &mut dyn Driver, id: u32, order: &[u32]) -> Result<()> {
        let old = *self.get(id)?;
        old.extent.check_order(order)?;
        let at = replace(driver, old.order, 4 * old.order_room, bytemuck::cast_slice(order))?;
        let d = self.get(id)?;
        (d.order, d.order_room, d.extent.visited) = (at, old.order_room.max(order.len()), order.len());
        self.write(driver, id)
    }

    fn get(&mut self, id: u32) -> Result<&mut Dataset> {
        self.list.get_mut(id as usize).ok_or_else(|| Error::internal(format!("data set {id} of {MOST}")))
    }

    fn write(&mut self, driver: &mut dyn Driver, id: u32) -> Result<()> {
        let d = *self.get(id)?;
        let bytes = step::dataset_bytes(d.images, d.labels, d.order, d.extent.image_len, d.extent.count);
        driver.write(self.table + u64::from(id) * step::DATASET_BYTES as u64, &bytes)
    }
}

/// Replaces what lies at `old` by `bytes`, in its place where they are no longer than its room.
fn replace(driver: &mut dyn Driver, old: Address, room: usize, bytes: &[u8]) -> Result<Address> {
    let at = if old != 0 && bytes.len() <= room {
        old
    } else {
        if old != 0 {
            driver.free(old)?;
        }
        driver.alloc(bytes.len().max(1))?
    };
    driver.write(at, bytes)?;
    Ok(at)
}
