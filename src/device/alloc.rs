//! The allocator of the program: the system's, with one clear line where no memory is left.

use crate::error::{Error, Kind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// The system's allocator. An allocation that fails ends the process in one line with the exit code of
/// [`Kind::Unavailable`], except within [`fallible`].
pub struct Allocator;

thread_local! {
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which handles allocations that fail by itself.
pub fn fallible<T>(f: impl FnOnce() -> T) -> T {
    let before = FALLIBLE.replace(true);
    let result = f();
    FALLIBLE.set(before);
    result
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`.
        given(unsafe { System.alloc(layout) }, layout.size())
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(old, layout, size) }, size)
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[inline]
fn given(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() && !FALLIBLE.get() {
        refuse(bytes);
    }
    start
}

/// Says how much was wanted, and ends the process. Nothing is allocated on the way.
#[cold]
fn refuse(bytes: usize) -> ! {
    FALLIBLE.set(true);
    let mut err = std::io::stderr();
    let _ = writeln!(err, "samcore: out of memory: {bytes} bytes more are not to be had; a smaller batch needs less");
    std::process::exit(Error::new(Kind::Unavailable, String::new()).exit_code());
}
