//! Pinned host memory for small copies, which neither side waits for.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::ffi::c_void;

type Result<T> = std::result::Result<T, DriverError>;

/// Bytes of a slot, and of the largest small copy.
pub const SLOT: usize = 64 << 10;

/// Page-locked memory of one copy, and the event that marks its end.
struct Slot {
    host: *mut c_void,
    event: sys::CUevent,
    /// Bytes of a copy to the host that nobody has taken yet.
    held: Option<usize>,
    used: bool,
}

impl Slot {
    fn new() -> Result<Slot> {
        // SAFETY: a fresh allocation; the current context is this driver's.
        let host = unsafe { result::malloc_host(SLOT, 0) }?;
        // No timing: such events are cheaper.
        match result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING) {
            Ok(event) => Ok(Slot { host, event, held: None, used: false }),
            Err(e) => {
                // SAFETY: it was allocated above and nobody else has it.
                let _ = unsafe { result::free_host(host) };
                Err(e)
            }
        }
    }

    /// Waits until the device has done the last copy of this slot.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event lives as long as the slot.
        if self.used { unsafe { result::event::synchronize(self.event) } } else { Ok(()) }
    }
}

/// Slots in turn. The number of those for copies to the host grows with the copies that nobody has taken yet.
#[derive(Default)]
pub struct Staging {
    posts: Vec<Slot>,
    next: usize,
    fetches: Vec<Slot>,
}

/// Copies to the device that may be under way before the next one waits.
const POSTS: usize = 32;

impl Staging {
    /// Page-locks what a run usually needs. To be called once, before all else.
    pub fn fill(&mut self) -> Result<()> {
        for _ in 0..POSTS {
            self.posts.push(Slot::new()?);
            self.fetches.push(Slot::new()?);
        }
        Ok(())
    }

    /// Queues a copy of at most SLOT bytes to a range of device memory that is there.
    pub fn post(&mut self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Result<()> {
        let slot = &mut self.posts[self.next];
        self.next = (self.next + 1) % POSTS;
        slot.wait()?;
        slot.used = true;
        // SAFETY: the slot holds SLOT bytes, and the device is done with them.
        let staged = unsafe { std::slice::from_raw_parts_mut(slot.host.cast::<u8>(), bytes.len()) };
        staged.copy_from_slice(bytes);
        // SAFETY: the slot is not written again before the event.
        unsafe {
            result::memcpy_htod_async(to, &*staged, stream)?;
            result::event::record(slot.event, stream)
        }
    }

    /// Queues a copy of at most SLOT bytes from a range of device memory that is there; the number is what `take` wants.
    pub fn fetch(&mut self, from: u64, bytes: usize, stream: sys::CUstream) -> Result<usize> {
        let free = self.fetches.iter().position(|slot| slot.held.is_none());
        let number = free.unwrap_or(self.fetches.len());
        if free.is_none() {
            self.fetches.push(Slot::new()?);
        }
        let slot = &mut self.fetches[number];
        slot.used = true;
        // SAFETY: the slot holds SLOT bytes, which nobody reads or writes before the event.
        unsafe {
            let staged = std::slice::from_raw_parts_mut(slot.host.cast::<u8>(), bytes);
            result::memcpy_dtoh_async(staged, from, stream)?;
            result::event::record(slot.event, stream)?;
        }
        slot.held = Some(bytes);
        Ok(number)
    }

    /// Returns true if that copy, of so many bytes, is still to be taken.
    pub fn holds(&self, number: usize, bytes: usize) -> bool {
        self.fetches.get(number).is_some_and(|slot| slot.held == Some(bytes))
    }

    /// Waits for that copy alone and takes its bytes. It must be held.
    pub fn take(&mut self, number: usize, bytes: &mut [u8]) -> Result<()> {
        let slot = &mut self.fetches[number];
        slot.held = None;
        slot.wait()?;
        // SAFETY: the copy is done, and SLOT bytes are there.
        bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(slot.host.cast::<u8>(), bytes.len()) });
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for slot in self.posts.iter().chain(&self.fetches) {
            // SAFETY: both were created with the slot and nothing is under way: the stream has been waited for. There is
            // nothing to do about an error.
            unsafe {
                let _ = result::event::destroy(slot.event);
                let _ = result::free_host(slot.host);
            }
        }
    }
}
