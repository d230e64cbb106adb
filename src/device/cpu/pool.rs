//! The one thread pool: made once, used by every call of every step, and free of allocation after that.
//!
//! A call is split into jobs by its *shapes*, never by the number of threads. Each thread begins with its own stretch of
//! them, so that it meets the same part of a batch in call after call, which its caches still hold; then it takes what
//! others have not begun. As each job writes only its own part of the output, the bits do not depend on who runs it.

use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Spins before a waiting worker parks: about 50 µs, more than the gap between two calls of a step.
const SPINS: u32 = 20_000;

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The work that is being handed out. Only read by workers inside the gate.
struct Work {
    run: Option<*const Job<'static>>,
    jobs: usize,
}
// SAFETY: the pointee is Sync, and `Pool::run` does not return before the gate is closed and empty.
unsafe impl Send for Work {}

struct Shared {
    work: Mutex<Work>,
    gate: Gate,
    /// The next job of each thread's stretch that nobody has begun.
    next: Vec<Next>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A counter in a cache line of its own.
#[repr(align(64))]
struct Next(AtomicUsize);

/// Lets workers into one call's work while it is open, and counts those inside.
///
/// A call ends when the gate is closed and empty. So it waits for workers that took part, never for one that the system
/// has not woken yet: on a busy machine the caller does the work alone instead of standing still.
struct Gate(AtomicU64);

impl Gate {
    const OPEN: u64 = 1 << 32;
    const GENERATION: u64 = 1 << 33;
    const INSIDE: u64 = Gate::OPEN - 1;

    /// Begins a new generation. Only while the gate is closed and empty, and by one thread at a time.
    fn open(&self) {
        let closed = self.0.load(Ordering::Relaxed);
        // Wrapping into bit 0 takes 2^31 calls between two looks of one worker, which then merely misses a call.
        self.0.store((closed & !Gate::OPEN).wrapping_add(Gate::GENERATION) | Gate::OPEN, Ordering::Release);
    }

    /// Ends the generation and waits until nobody is inside.
    fn close(&self) {
        self.0.fetch_and(!Gate::OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.load(Ordering::Acquire) & Gate::INSIDE != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// Goes inside, unless the gate is closed or this generation is the one `seen` last.
    fn enter(&self, seen: &mut u64) -> bool {
        let now = self.0.load(Ordering::Acquire);
        let generation = now & !(Gate::OPEN | Gate::INSIDE);
        if now & Gate::OPEN == 0 || generation == *seen {
            return false;
        }
        // On failure somebody else has moved: the caller looks again.
        let entered = self.0.compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if entered {
            *seen = generation;
        }
        entered
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Threads that run the jobs of one call at a time; the calling thread is one of them.
pub struct Pool {
    /// Held by `run`: one call at a time hands out its jobs.
    entered: Mutex<()>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads in all, the caller's included; 0 counts as 1.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            work: Mutex::new(Work { run: None, jobs: 0 }),
            gate: Gate(AtomicU64::new(0)),
            next: (0..threads.max(1)).map(|_| Next(AtomicUsize::new(0))).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads.max(1))
            .map_while(|thread| {
                let shared = Arc::clone(&shared);
                let name = format!("samcore-{thread}");
                std::thread::Builder::new().name(name).spawn(move || worker(&shared, thread)).ok()
            })
            .collect();
        Pool { entered: Mutex::new(()), shared, workers }
    }

    /// Threads that take jobs, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(job, thread)` for every job in `0..jobs`, in no promised order, and returns when all are done.
    ///
    /// `thread < self.threads()` names scratch space that no other running job uses.
    ///
    /// # Panics
    /// If a job panics. Called from within a job it never returns.
    pub fn run(&self, jobs: usize, f: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || jobs <= 1 {
            for job in 0..jobs {
                f(job, 0);
            }
            return;
        }
        let _alone = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &*self.shared;
        let local: &Job<'_> = &f;
        // SAFETY: only the lifetime is erased; the gate is closed and empty before `f` goes out of scope.
        let erased = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(local) };
        *s.work.lock().unwrap_or_else(PoisonError::into_inner) = Work { run: Some(erased), jobs };
        for (thread, next) in s.next.iter().enumerate() {
            next.0.store(stretch(jobs, s.next.len(), thread).start, Ordering::Relaxed);
        }
        s.gate.open();
        for w in &self.workers {
            w.thread().unpark();
        }
        take_jobs(s, local, jobs, 0);
        s.gate.close();
        if s.panicked.swap(false, Ordering::Relaxed) {
            panic!("a job of the thread pool panicked (its message is above)");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for w in self.workers.drain(..) {
            w.thread().unpark();
            // A worker catches every panic of its jobs, so joining cannot fail.
            let _ = w.join();
        }
    }
}

/// The jobs that a thread begins with.
fn stretch(jobs: usize, threads: usize, thread: usize) -> Range<usize> {
    jobs * thread / threads..jobs * (thread + 1) / threads
}

fn take_jobs(s: &Shared, f: &Job<'_>, jobs: usize, thread: usize) {
    let threads = s.next.len();
    let done = catch_unwind(AssertUnwindSafe(|| {
        for owner in (thread..threads).chain(0..thread) {
            let end = stretch(jobs, threads, owner).end;
            loop {
                let job = s.next[owner].0.fetch_add(1, Ordering::Relaxed);
                if job >= end {
                    break;
                }
                f(job, thread);
            }
        }
    }));
    if done.is_err() {
        s.panicked.store(true, Ordering::Relaxed);
    }
}

fn worker(s: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while !s.gate.enter(&mut seen) {
            if s.stop.load(Ordering::Acquire) {
                return;
            }
            spins += 1;
            // `run` unparks after it has opened the gate, and `drop` after it has set `stop`, so no wake-up is lost.
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::park() }
        }
        let work = s.work.lock().unwrap_or_else(PoisonError::into_inner);
        let (run, jobs) = (work.run, work.jobs);
        drop(work);
        if let Some(run) = run {
            // SAFETY: `Pool::run` keeps the closure alive until the gate is closed and this worker has left it.
            take_jobs(s, unsafe { &*run }, jobs, thread);
        }
        s.gate.leave();
    }
}

/// A slice whose disjoint parts are written by different jobs at once.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}
// SAFETY: parts are handed out through `part`, whose caller promises that they do not overlap.
unsafe impl<T: Send> Send for Parts<'_, T> {}
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Returns true if there are at least `len` elements.
    pub fn holds(&self, len: usize) -> bool {
        len <= self.len
    }

    /// The first element, for kernels that write in strides. Writes through it are bound by the promise of
    /// [`Parts::part`], element by element.
    pub fn pointer(&self) -> *mut T {
        self.start
    }

    /// The elements in `range`, checked against the slice's length.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of a slice of {}", self.len);
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once_for_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for jobs in [0, 1, 2, 7, 100] {
                let mut hits = vec![0u32; jobs];
                let parts = Parts::new(&mut hits);
                pool.run(jobs, |job, thread| {
                    assert!(thread < pool.threads());
                    // SAFETY: one element a job.
                    let hit = unsafe { parts.part(job..job + 1) };
                    hit[0] += 1;
                });
                assert!(hits.iter().all(|h| *h == 1), "{threads} threads, {jobs} jobs: {hits:?}");
            }
        }
    }

    #[test]
    fn a_panicking_job_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(8, |job, _| assert_ne!(job, 5))));
        assert!(failed.is_err());
        let count = AtomicUsize::new(0);
        pool.run(8, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 8);
    }
}
