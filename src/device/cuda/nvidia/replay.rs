//! Launches that are recorded once and replayed: a graph of the driver's or, to find the kernel at fault, a list.

use super::super::driver::{Address, Arg, Captured, Driver, Function, Grid};
use super::Nvidia;
use super::library::{self, failed};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};

/// Destination of recorded launches.
pub enum Recording {
    Off,
    /// By the driver, into a graph.
    Graph,
    /// Here, for launches that are waited for one by one.
    List(Vec<Queued>),
}

/// A recording that can be replayed.
pub enum Replay {
    Graph(sys::CUgraphExec),
    List(Vec<Queued>),
}

/// A launch or fill to be done later.
#[derive(Clone)]
pub enum Queued {
    Launch { function: Function, grid: Grid, args: Vec<Arg>, label: String },
    Fill { at: Address, value: u8, bytes: usize },
}

impl Nvidia {
    pub(super) fn begin_recording(&mut self) -> Result<()> {
        self.bind_outside("capture")?;
        if self.blocking {
            self.recording = Recording::List(Vec::new());
            return Ok(());
        }
        // Relaxed: modules may be loaded and memory taken while launches are recorded.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives and records nothing yet.
        self.check("capture", unsafe { result::stream::begin_capture(self.stream, mode) })?;
        self.recording = Recording::Graph;
        Ok(())
    }

    pub(super) fn end_recording(&mut self) -> Result<Captured> {
        self.bind()?;
        let replay = match std::mem::replace(&mut self.recording, Recording::Off) {
            Recording::Off => return Err(Error::internal("end_capture without capture")),
            Recording::List(list) => Replay::List(list),
            Recording::Graph => {
                // SAFETY: the stream is recording.
                let graph = self.check("end of capture", unsafe { result::stream::end_capture(self.stream) })?;
                // SAFETY: the graph was just made; what is instantiated does not need it any more.
                let made = unsafe {
                    let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
                    let _ = result::graph::destroy(graph);
                    made
                };
                let made = self.check("instantiate a graph", made)?;
                // Kept before anything can fail, so that `drop` finds it.
                self.captured.push(Replay::Graph(made));
                // SAFETY: both live. The first launch would do it otherwise, in its own time.
                self.check("upload a graph", unsafe { result::graph::upload(made, self.stream) })?;
                return Ok(Captured(self.captured.len() - 1));
            }
        };
        self.captured.push(replay);
        Ok(Captured(self.captured.len() - 1))
    }

    pub(super) fn replay_recorded(&mut self, captured: Captured) -> Result<()> {
        self.bind_outside("replay")?;
        match self.captured.get(captured.0) {
            None => Err(Error::internal(format!("no captured launches of number {}", captured.0))),
            // SAFETY: graph and stream live.
            Some(Replay::Graph(graph)) => self.check("replay", unsafe { result::graph::launch(*graph, self.stream) }),
            Some(Replay::List(list)) => {
                for queued in list.clone() {
                    match queued {
                        Queued::Fill { at, value, bytes } => self.fill_now(at, value, bytes)?,
                        Queued::Launch { function, grid, args, label } => {
                            // SAFETY: the promise of whoever recorded it.
                            unsafe { self.launch_now(function, grid, &args, &label) }?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// [`Driver::time`] by the device's own clock.
    pub(super) fn timed(&mut self, captured: Captured, repeats: usize) -> Result<f64> {
        self.sync()?;
        let (start, end) = (Event::new()?, Event::new()?);
        let began = std::time::Instant::now();
        // SAFETY: events and stream live.
        self.check("event", unsafe { result::event::record(start.0, self.stream) })?;
        for _ in 0..repeats {
            self.replay(captured)?;
        }
        // SAFETY: as above.
        self.check("event", unsafe { result::event::record(end.0, self.stream) })?;
        self.sync()?;
        let seconds = if library::has(library::ELAPSED) {
            // SAFETY: both were recorded on this stream and have passed.
            f64::from(self.check("event", unsafe { result::event::elapsed(start.0, end.0) })?) / 1000.0
        } else {
            began.elapsed().as_secs_f64()
        };
        Ok(seconds / repeats.max(1) as f64)
    }
}

/// An event with a time.
struct Event(sys::CUevent);

impl Event {
    fn new() -> Result<Event> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Event).map_err(|e| failed("event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
