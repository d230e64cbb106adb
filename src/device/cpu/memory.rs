//! The CPU device's memory, and the one place where a call's operands become slices.

use super::stored::{Stored, low, low_mut};
use crate::device::Layout;
use crate::device::alloc::fallible;
use crate::dtype::Element;
use crate::error::{Error, Kind, Result};
use crate::ops::call::{Call, Kernel, Loc, MAX_GROUPS, Memory};
use std::marker::PhantomData;

/// Alignment of every bank in cells: 64 bytes, a cache line and a 512-bit vector.
pub(super) const ALIGN: usize = 16;

/// Cells that start on a 64-byte boundary: an f32 each, or two bf16.
struct Bank {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Bank {
    /// Zeros that the system hands out page by page as they are written: what is uploaded before the first step does not
    /// stand beside an arena that nobody has used yet.
    fn new(len: usize) -> Result<Bank> {
        let values = zeros(len + ALIGN).ok_or_else(|| {
            let mebibytes = len.div_ceil(1 << 18);
            let text = format!("out of memory: {mebibytes} MiB for one buffer; a smaller --batch needs less");
            Error::new(Kind::Unavailable, text)
        })?;
        let address = values.as_ptr() as usize / size_of::<f32>();
        Ok(Bank { start: address.next_multiple_of(ALIGN) - address, values, len })
    }
    fn slice(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.len]
    }
}

/// `len` zeros, as `vec![0.0; len]`; None where there is too little memory.
fn zeros(len: usize) -> Option<Vec<f32>> {
    let layout = std::alloc::Layout::array::<f32>(len).ok().filter(|l| l.size() > 0)?;
    // SAFETY: the layout is that of a vector of this capacity and not empty; all bits zero are valid floats.
    unsafe {
        let start = fallible(|| std::alloc::alloc_zeroed(layout)).cast::<f32>();
        (!start.is_null()).then(|| Vec::from_raw_parts(start, len, len))
    }
}

/// Arena, vectors and scalars.
pub(super) struct Banks {
    banks: Vec<Bank>,
}

impl Banks {
    pub(super) fn new(layout: &Layout) -> Result<Banks> {
        let lens = [layout.arena, layout.scalars].into_iter().chain(layout.vectors.iter().copied());
        Ok(Banks { banks: lens.map(Bank::new).collect::<Result<_>>()? })
    }

    fn number(memory: Memory) -> Option<usize> {
        match memory {
            Memory::Arena => Some(0),
            Memory::Scalars => Some(1),
            Memory::Vector(v) => Some(2 + v as usize),
            Memory::Temp(_) | Memory::Role(_) => None,
        }
    }

    /// The cells of one place that holds `len` elements, for the host.
    fn cells(&mut self, loc: Loc, len: usize) -> Result<&mut [f32]> {
        if loc.len != len {
            return Err(Error::internal(format!("{len} values for {loc:?}")));
        }
        let bank = Banks::number(loc.memory).and_then(|i| self.banks.get_mut(i));
        bank.and_then(|b| b.slice().get_mut(loc.offset..loc.offset + loc.cells()))
            .ok_or_else(|| Error::internal(format!("{loc:?} is outside of the device's memory")))
    }

    /// Stores the host's values at one place.
    pub(super) fn upload(&mut self, to: Loc, values: &[f32]) -> Result<()> {
        let cells = self.cells(to, values.len())?;
        match to.element {
            Element::F32 => cells.copy_from_slice(values),
            Element::Bf16 => low_mut(cells).iter_mut().zip(values).for_each(|(to, v)| *to = Stored::round(*v)),
            Element::F16 => return Err(not_stored(to.element)),
        }
        Ok(())
    }

    /// Reads the values of one place for the host.
    pub(super) fn download(&mut self, from: Loc, values: &mut [f32]) -> Result<()> {
        let cells = self.cells(from, values.len())?;
        match from.element {
            Element::F32 => values.copy_from_slice(cells),
            Element::Bf16 => values.iter_mut().zip(low(cells)).for_each(|(v, from)| *v = from.widen()),
            Element::F16 => return Err(not_stored(from.element)),
        }
        Ok(())
    }

    /// The operands of a call as slices, after checking that they are in bounds and that what is written is not shared.
    pub(super) fn operands<'a>(&'a mut self, call: &Call) -> Result<Operands<'a>> {
        crate::plan::verify(std::slice::from_ref(call))?;
        let mut operands = Operands { reads: Views::NONE, writes: Views::NONE, work: View::EMPTY, life: PhantomData };
        for (i, read) in call.reads.iter().enumerate() {
            // A place that is written as well is reached through the write alone.
            let written = call.writes.contains(read);
            let view = if written { View { written: true, ..View::EMPTY } } else { self.view(*read)? };
            operands.reads.put(i, view, call)?;
        }
        for (i, write) in call.writes.iter().enumerate() {
            let view = self.view(*write)?;
            operands.writes.put(i, view, call)?;
        }
        if let Some(work) = call.workspace {
            operands.work = self.view(work)?;
        }
        Ok(operands)
    }

    fn view(&mut self, loc: Loc) -> Result<View> {
        let outside = || Error::internal(format!("{loc:?} is outside of the device's memory"));
        let bank = Banks::number(loc.memory).and_then(|i| self.banks.get_mut(i)).ok_or_else(outside)?;
        if loc.offset.checked_add(loc.cells()).is_none_or(|end| end > bank.len) {
            return Err(outside());
        }
        // SAFETY: in bounds by the check above. No reference is made here, so that views taken before stay valid.
        let start = unsafe { bank.values.as_mut_ptr().add(bank.start + loc.offset) };
        Ok(View { start, len: loc.len, element: loc.element, written: false })
    }
}

fn not_stored(element: Element) -> Error {
    Error::internal(format!("a CPU stores nothing as {}", element.name()))
}

/// Most operands that any kernel reads: the update's seven and a rate and a decay for each group.
const MOST: usize = 7 + 2 * MAX_GROUPS;

#[derive(Clone, Copy)]
struct View {
    start: *mut f32,
    /// Elements, of the type that follows.
    len: usize,
    element: Element,
    /// A read that is also written, and has no view of its own.
    written: bool,
}

impl View {
    const EMPTY: View = View { start: std::ptr::dangling_mut(), len: 0, element: Element::F32, written: false };

    fn of(values: &mut [f32]) -> View {
        View { start: values.as_mut_ptr(), len: values.len(), ..View::EMPTY }
    }

    /// Checks that the elements are stored as `T`, empty or not.
    fn check<T: Stored>(&self) -> Result<()> {
        if self.element == T::ELEMENT {
            return Ok(());
        }
        let (stored, asked) = (self.element.name(), T::ELEMENT.name());
        Err(Error::internal(format!("an operand is stored as {stored}, and its kernel takes {asked}")))
    }
}

/// Up to [`MOST`] views, without allocation.
struct Views([View; MOST]);

impl Views {
    const NONE: Views = Views([View::EMPTY; MOST]);

    fn put(&mut self, i: usize, view: View, call: &Call) -> Result<()> {
        let place = self
            .0
            .get_mut(i)
            .ok_or_else(|| Error::internal(format!("'{}' has more than {MOST} operands of one sort", call.label)))?;
        *place = view;
        Ok(())
    }
}

/// A call's operands. Each write and the workspace are handed out once.
pub(super) struct Operands<'a> {
    reads: Views,
    writes: Views,
    work: View,
    life: PhantomData<&'a mut Banks>,
}

impl<'a> Operands<'a> {
    /// The i-th operand that is read.
    ///
    /// # Errors
    /// Internal: it is not stored as `T`.
    pub(super) fn read<T: Stored>(&self, i: usize) -> Result<&'a [T]> {
        let view = self.reads.0[i];
        view.check::<T>()?;
        // SAFETY: in bounds, and stored as `T`; `verify` found no write or workspace that overlaps it; the banks are
        // borrowed for 'a.
        Ok(unsafe { std::slice::from_raw_parts(view.start.cast::<T>(), view.len) })
    }

    /// The i-th operand that is read; None if the call writes the same place.
    ///
    /// # Errors
    /// Internal: it is not stored as f32.
    pub(super) fn read_unless_written(&self, i: usize) -> Result<Option<&'a [f32]>> {
        if self.reads.0[i].written { Ok(None) } else { self.read(i).map(Some) }
    }

    /// The value of a scalar operand; NaN if there is none.
    pub(super) fn scalar(&self, i: usize) -> f32 {
        self.read(i).ok().and_then(|s| s.first()).copied().unwrap_or(f32::NAN)
    }

    /// The i-th operand that is written; empty the second time.
    ///
    /// # Errors
    /// Internal: it is not stored as `T`.
    pub(super) fn write<T: Stored>(&mut self, i: usize) -> Result<&'a mut [T]> {
        self.writes.0[i].check::<T>()?;
        let empty = View { element: T::ELEMENT, ..View::EMPTY };
        let view = std::mem::replace(&mut self.writes.0[i], empty);
        // SAFETY: in bounds, and stored as `T`; disjoint from all other operands by `verify`; taken out, so never handed
        // out twice.
        Ok(unsafe { std::slice::from_raw_parts_mut(view.start.cast::<T>(), view.len) })
    }

    /// A scalar operand that is written.
    ///
    /// # Errors
    /// Internal: the call has no such operand.
    pub(super) fn write_scalar(&mut self, i: usize, kernel: &Kernel) -> Result<&'a mut f32> {
        let missing = || Error::internal(format!("a scalar operand is missing: {kernel:?}"));
        self.write(i)?.first_mut().ok_or_else(missing)
    }

    /// The scratch space; empty the second time.
    pub(super) fn work(&mut self) -> &'a mut [f32] {
        let view = std::mem::replace(&mut self.work, View::EMPTY);
        // SAFETY: as for `write`.
        unsafe { std::slice::from_raw_parts_mut(view.start, view.len) }
    }

    /// Returns the operands with `work` as scratch space, for as long as that lives.
    pub(super) fn with_work<'b>(self, work: &'b mut [f32]) -> Operands<'b>
    where
        'a: 'b,
    {
        Operands { reads: self.reads, writes: self.writes, work: View::of(work), life: PhantomData }
    }

    /// Replaces the i-th operand that is read by `values`, as f32.
    pub(super) fn replace_read(&mut self, i: usize, values: &'a mut [f32]) {
        self.reads.0[i] = View::of(values);
    }

    /// Replaces the i-th operand that is written by `values`, as f32.
    pub(super) fn replace_write(&mut self, i: usize, values: &'a mut [f32]) {
        self.writes.0[i] = View::of(values);
    }
}
