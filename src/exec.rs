//! Replays recorded programs on a device.

use crate::device::{DatasetBytes, Device, Layout, Run};
use crate::error::{Error, Result};
use crate::ops::call::{Cast, Counters, Loc, Memory};
use crate::step::{C, DROPPED, FAULT, M, Program, ProgramId, RUNNING, Recorder, Scalar, Vector, W};
use std::collections::VecDeque;

/// Programs and the device that runs them. All memory is taken in `new`; a run allocates nothing.
pub struct Exec {
    device: Box<dyn Device>,
    programs: Vec<Program>,
    layout: Layout,
    slots: Vec<String>,
    vectors: Vec<(String, usize)>,
    cast: Option<Cast>,
    /// Scalars that a run of each program leaves: its reports, then those of [`WATCHED`] that there are.
    reports: Vec<Vec<Loc>>,
    watched: [bool; 2],
    /// Programs of the runs that have been submitted and not collected, oldest first.
    submitted: VecDeque<ProgramId>,
    /// Kept so that a step allocates nothing.
    set: Vec<(usize, f32)>,
    values: Vec<f32>,
}

/// Slots that every run reports; a recording without steps has neither.
const WATCHED: [&str; 2] = [FAULT, DROPPED];

/// Results of one run of a program.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// In the order of [`Program::reports`].
    pub values: &'a [f32],
    /// From this run on, or before, a value was not finite, and nothing has moved since.
    pub fault: bool,
    /// Terms left out so far because nothing can be divided by their denominators; see [`DROPPED`].
    pub dropped: f32,
}

/// Where a value that is not finite comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The call of that label, from finite values.
    Call(String),
    /// The vector of that name, before the program ran.
    Before(String),
}

/// Programs and layout of a recorder, without its borrow of graph and device.
pub struct Recording {
    programs: Vec<Program>,
    layout: Layout,
    slots: Vec<String>,
    vectors: Vec<(String, usize)>,
    cast: Option<Cast>,
}

impl Recording {
    pub fn of(recorder: Recorder<'_>) -> Recording {
        Recording {
            layout: recorder.layout(),
            slots: recorder.slot_names(),
            vectors: recorder.vector_names(),
            cast: recorder.cast_of(C),
            programs: recorder.programs,
        }
    }
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }
    /// Sizes of the memory that the programs need.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl Exec {
    /// Takes the memory that the recording needs.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(mut device: Box<dyn Device>, recording: Recording) -> Result<Exec> {
        device.allocate(&recording.layout)?;
        let Recording { programs, layout, slots, vectors, cast } = recording;
        let slot = |name: &str| slots.iter().position(|s| s == name).map(|at| Loc::new(Memory::Scalars, at, 1));
        let watched = WATCHED.map(slot);
        let of = |p: &Program| p.reports.iter().map(|r| r.1.loc()).chain(watched.into_iter().flatten()).collect();
        let reports: Vec<Vec<Loc>> = programs.iter().map(of).collect();
        let most = reports.iter().map(Vec::len).max().unwrap_or(0);
        let (set, values, submitted) = (Vec::with_capacity(slots.len()), vec![0.0; most], VecDeque::with_capacity(64));
        let watched = watched.map(|slot| slot.is_some());
        Ok(Exec { device, programs, layout, slots, vectors, cast, reports, watched, submitted, set, values })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }
    pub fn programs(&self) -> impl Iterator<Item = ProgramId> + use<> {
        (0..self.programs.len()).map(ProgramId)
    }
    pub fn program(&self, id: ProgramId) -> &Program {
        &self.programs[id.0]
    }

    /// Replays a program.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, id: ProgramId, counters: &Counters) -> Result<()> {
        self.device.run(&self.programs[id.0].calls, counters)
    }

    /// Times one call of a program on the device, in seconds; the calls before it must have run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn time(&mut self, id: ProgramId, call: usize, counters: &Counters) -> Result<f64> {
        self.device.time(&self.programs[id.0].calls[call], counters)
    }

    /// Returns how many runs of the program may be submitted before the oldest is collected.
    pub fn depth(&self, id: ProgramId) -> usize {
        self.device.depth(self.programs[id.0].flops())
    }

    /// Starts a run of a program with these slots set. Runs are collected in the order in which they were submitted.
    ///
    /// # Errors
    /// Those of the device.
    pub fn submit(&mut self, id: ProgramId, counters: &Counters, slots: &[(&str, f32)]) -> Result<()> {
        self.set.clear();
        for (name, value) in slots {
            self.set.extend(self.slots.iter().position(|s| s == name).map(|slot| (slot, *value)));
        }
        let (calls, reports) = (&self.programs[id.0].calls[..], &self.reports[id.0][..]);
        self.device.submit(&Run { program: id.0, calls, reports, counters, slots: &self.set })?;
        self.submitted.push_back(id);
        Ok(())
    }

    /// Waits for the oldest submitted run, and returns its results.
    ///
    /// # Errors
    /// Those of the device; internal if there is no such run.
    pub fn collect(&mut self) -> Result<Report<'_>> {
        let id = self.submitted.pop_front().ok_or_else(|| Error::internal("no run to collect"))?;
        let reports = &self.reports[id.0];
        let values = &mut self.values[..reports.len()];
        self.device.collect(reports, values)?;
        let (values, watched) = values.split_at(self.programs[id.0].reports.len());
        let mut rest = watched.iter();
        let [fault, dropped] = self.watched.map(|there| if there { rest.next().copied() } else { None }.unwrap_or(0.0));
        Ok(Report { values, fault: fault > 0.0, dropped })
    }

    /// Does `count` runs, up to `depth` of them ahead of their results: `start` submits the n-th, `take` gets its report.
    ///
    /// # Errors
    /// Those of the device, of `start` and of `take`.
    pub fn replay(
        &mut self,
        count: usize,
        depth: usize,
        mut start: impl FnMut(&mut Exec, usize) -> Result<()>,
        mut take: impl FnMut(Report<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut ahead = 0;
        for done in 0..count {
            while ahead < count.min(done + depth) {
                start(self, ahead)?;
                ahead += 1;
            }
            take(self.collect()?)?;
        }
        Ok(())
    }

    /// Runs the program call by call, and returns where its first value that is not finite comes from. `state` names the
    /// vectors that outlive a run beside weights, momentum and statistics; all others but the compute copy are cleared,
    /// because the failed run may have left such values in them.
    ///
    /// # Errors
    /// Those of the device.
    pub fn find_fault(&mut self, id: ProgramId, counters: &Counters, state: &[&str]) -> Result<Option<Culprit>> {
        for (n, (name, len)) in self.vectors.clone().into_iter().enumerate() {
            let whole = self.whole(n);
            let in_vector = |locs: &[Loc]| locs.iter().any(|loc| loc.memory == whole.memory);
            // What is written before it is read does not matter.
            let first = self.programs[id.0].calls.iter().find(|c| in_vector(&c.reads) || in_vector(&c.writes));
            let read = n == W.number() || first.is_some_and(|call| in_vector(&call.reads));
            let kept = [W, M, RUNNING].iter().any(|v| v.number() == n) || state.contains(&name.as_str());
            let sound = n == C.number() || kept && self.download_from(whole)?.iter().all(|v| v.is_finite());
            if kept && read && !sound {
                return Ok(Some(Culprit::Before(name)));
            }
            if !sound {
                self.device.upload(whole, &vec![0.0; len])?;
            }
        }
        let mut buffer = Vec::new();
        for call in &self.programs[id.0].calls {
            self.device.run(std::slice::from_ref(call), counters)?;
            for write in &call.writes {
                buffer.resize(write.len, 0.0);
                self.device.download(*write, &mut buffer)?;
                if buffer.iter().any(|v| !v.is_finite()) {
                    return Ok(Some(Culprit::Call(call.label.clone())));
                }
            }
        }
        Ok(None)
    }

    /// Number of the slot named `name`; None where no program uses it.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|s| s == name)
    }

    /// Sets a slot by name; a slot that no program uses is left alone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_slot(&mut self, name: &str, value: f32) -> Result<()> {
        let Some(offset) = self.slot(name) else { return Ok(()) };
        self.device.upload(Loc::new(Memory::Scalars, offset, 1), &[value])
    }

    /// Reads a slot by name, 0 where no program uses it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn slot_value(&mut self, name: &str) -> Result<f32> {
        let Some(offset) = self.slot(name) else { return Ok(0.0) };
        self.read_at(Loc::new(Memory::Scalars, offset, 1))
    }

    /// Reads a scalar from the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read(&mut self, scalar: Scalar) -> Result<f32> {
        self.read_at(scalar.loc())
    }

    fn read_at(&mut self, slot: Loc) -> Result<f32> {
        let mut value = [0.0];
        self.device.download(slot, &mut value)?;
        Ok(value[0])
    }

    /// Returns the location of the vector of that name.
    ///
    /// # Errors
    /// Internal: no program uses it.
    pub fn vector(&self, name: &str) -> Result<Loc> {
        let id = self.vectors.iter().position(|v| v.0 == name);
        id.map(|id| self.whole(id)).ok_or_else(|| Error::internal(format!("no program uses the vector '{name}'")))
    }

    fn whole(&self, id: usize) -> Loc {
        Loc::new(Memory::Vector(id as u16), 0, self.vectors[id].1)
    }

    /// Copies a whole vector from the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn download(&mut self, v: Vector) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.vectors[v.number()].1];
        for part in self.parts(v) {
            self.device.download(part, &mut values[part.offset..part.offset + part.len])?;
        }
        Ok(values)
    }

    /// Copies a whole vector to the device; the compute copy is rounded to what it is stored as.
    ///
    /// # Errors
    /// If the length differs, or those of the device.
    pub fn upload(&mut self, v: Vector, values: &[f32]) -> Result<()> {
        let len = self.vectors[v.number()].1;
        if values.len() != len {
            return Err(Error::internal(format!("upload of {} values to a vector of {len}", values.len())));
        }
        for part in self.parts(v) {
            self.device.upload(part, &values[part.offset..part.offset + part.len])?;
        }
        Ok(())
    }

    /// Places of a vector that are stored in one way each.
    fn parts(&self, v: Vector) -> Vec<Loc> {
        let whole = self.whole(v.number());
        match &self.cast {
            Some(cast) if v == C => cast.parts(whole),
            _ => vec![whole],
        }
    }

    /// Copies the values at any place from the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn download_from(&mut self, from: Loc) -> Result<Vec<f32>> {
        let mut values = vec![0.0; from.len];
        self.device.download(from, &mut values)?;
        Ok(values)
    }

    /// Writes values to any place on the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload_to(&mut self, to: Loc, values: &[f32]) -> Result<()> {
        self.device.upload(to, values)
    }

    /// Replaces data set number `id`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_dataset(&mut self, id: u32, data: &DatasetBytes<'_>) -> Result<()> {
        self.device.set_dataset(id, data)
    }

    /// Replaces the order in which data set `id` is visited.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_order(&mut self, id: u32, order: &[u32]) -> Result<()> {
        self.device.set_order(id, order)
    }
}
