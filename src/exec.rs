//! Replays recorded programs on a device.

use crate::device::{DatasetBytes, Device, Layout};
use crate::error::{Error, Result};
use crate::ops::call::{Counters, Loc, Memory};
use crate::step::{Program, ProgramId, Recorder, Scalar, Vector};

/// Programs and the device that runs them. All memory is taken in `new`; a run allocates nothing.
pub struct Exec {
    device: Box<dyn Device>,
    programs: Vec<Program>,
    layout: Layout,
    slots: Vec<String>,
    vectors: Vec<(String, usize)>,
}

/// What a recorder knows beyond its borrow of graph and device.
pub struct Recording {
    programs: Vec<Program>,
    layout: Layout,
    slots: Vec<String>,
    vectors: Vec<(String, usize)>,
}

impl Recording {
    pub fn of(recorder: Recorder<'_>) -> Recording {
        Recording {
            layout: recorder.layout(),
            slots: recorder.slot_names(),
            vectors: recorder.vector_names(),
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
        let Recording { programs, layout, slots, vectors } = recording;
        Ok(Exec { device, programs, layout, slots, vectors })
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

    /// The label of the first call of the program that writes a value which is not finite, run call by call.
    ///
    /// # Errors
    /// Those of the device.
    pub fn find_fault(&mut self, id: ProgramId, counters: &Counters) -> Result<Option<String>> {
        let mut buffer = Vec::new();
        for call in &self.programs[id.0].calls {
            self.device.run(std::slice::from_ref(call), counters)?;
            for write in &call.writes {
                buffer.resize(write.len, 0.0);
                self.device.download(*write, &mut buffer)?;
                if buffer.iter().any(|v| !v.is_finite()) {
                    return Ok(Some(call.label.clone()));
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

    /// Reads a scalar that a program left.
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

    /// Where the vector of that name lies.
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
        self.download_from(self.whole(v.number()))
    }

    /// Copies a whole vector to the device.
    ///
    /// # Errors
    /// If the length differs, or those of the device.
    pub fn upload(&mut self, v: Vector, values: &[f32]) -> Result<()> {
        self.upload_to(self.whole(v.number()), values)
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
