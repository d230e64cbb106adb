//! A parameter vector as a [`Cast`] has it: f32, or bf16 packed from the cell on at which a parameter begins.

use super::pool::Parts;
use super::stored::{cells_mut, low, low_mut};
use crate::ops::call::{BLOCK, Cast};
use half::bf16;
use std::ops::Range;

/// The parts of `range` that are stored in one way each. Of one that is packed with the first element of its parameter:
/// counted in bf16, two to a cell, element i of a parameter from element s on lies at s + i.
fn parts(cast: Option<&Cast>, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(cast) = cast else { return Some((std::mem::take(&mut rest), None)) };
        let first = cast.starts[rest.start / BLOCK];
        let mut end = (rest.start / BLOCK + 1) * BLOCK;
        while end < rest.end && cast.starts[end / BLOCK] == first {
            end += BLOCK;
        }
        let part = rest.start..end.min(rest.end);
        rest.start = part.end;
        Some((part, (first != Cast::WIDE).then_some(first as usize)))
    })
}

/// Elements of the vector where they are read.
pub enum Place<'a> {
    Wide(&'a [f32]),
    Low(&'a [bf16]),
}

/// Returns the places of the elements of `range` in `cells`, part by part.
pub fn places<'a>(
    cells: &'a [f32],
    cast: Option<&'a Cast>,
    range: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Place<'a>)> {
    parts(cast, range).map(move |(range, packed)| {
        let place = match packed {
            Some(first) => Place::Low(&low(cells)[first + range.start..first + range.end]),
            None => Place::Wide(&cells[range.clone()]),
        };
        (range, place)
    })
}

/// Elements of the vector where they are written.
pub enum PlaceMut<'a> {
    Wide(&'a mut [f32]),
    Low(&'a mut [bf16]),
}

/// Such a vector, written by several jobs at once.
pub struct CastMut<'a> {
    low: Parts<'a, bf16>,
    cast: Option<&'a Cast>,
    len: usize,
}

impl<'a> CastMut<'a> {
    /// The vector in `cells`; all of it is f32 without a cast.
    pub fn new(cells: &'a mut [f32], cast: Option<&'a Cast>) -> CastMut<'a> {
        CastMut { len: cells.len(), low: Parts::new(low_mut(cells)), cast }
    }

    /// Elements of the vector.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the places of the elements of `range`, part by part.
    ///
    /// # Safety
    /// The ranges of places that are alive at the same time may not overlap.
    pub unsafe fn places(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, PlaceMut<'a>)> {
        let low = self.low;
        parts(self.cast, range).map(move |(range, packed)| {
            // SAFETY: elements of the same parameter lie at different places, and those of different ones in cells of
            // their own, so that places overlap only where ranges do.
            let place = match packed {
                Some(first) => PlaceMut::Low(unsafe { low.part(first + range.start..first + range.end) }),
                None => PlaceMut::Wide(cells_mut(unsafe { low.part(2 * range.start..2 * range.end) })),
            };
            (range, place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Element;
    use crate::ops::call::{Loc, Memory};

    /// Four parameters: two blocks packed, one wide, three packed, one packed.
    fn cast() -> Cast {
        let block = |b: usize| (b * BLOCK) as u32;
        let starts = [0, 0, usize::MAX, 3, 3, 3, 6].map(|b| if b == usize::MAX { Cast::WIDE } else { block(b) });
        Cast { element: Element::Bf16, starts: starts.into() }
    }

    #[test]
    fn what_is_written_in_any_ranges_lies_where_the_parts_of_the_cast_are() {
        let (cast, len) = (cast(), 7 * BLOCK);
        let mut cells = vec![f32::NAN; len];
        let target = CastMut::new(&mut cells, Some(&cast));
        assert_eq!(target.len(), len);
        for range in [0..100, 100..700, 700..1000, 1000..1003, 1003..len] {
            // SAFETY: one range at a time.
            for (range, place) in unsafe { target.places(range) } {
                match place {
                    PlaceMut::Wide(to) => to.iter_mut().zip(range).for_each(|(to, i)| *to = i as f32),
                    PlaceMut::Low(to) => to.iter_mut().zip(range).for_each(|(to, i)| *to = bf16::from_f32(i as f32)),
                }
            }
        }
        for part in cast.parts(Loc::new(Memory::Arena, 0, len)) {
            let at = &cells[part.offset..part.offset + part.cells()];
            let expected = (part.offset..part.offset + part.len).map(|i| part.element.round(i as f32));
            match part.element {
                Element::F32 => assert!(at.iter().copied().eq(expected), "{part:?}"),
                _ => assert!(low(at).iter().map(|v| v.to_f32()).eq(expected), "{part:?}"),
            }
        }
        let mut read = Vec::new();
        for (_, place) in places(&cells, Some(&cast), 3..1500) {
            match place {
                Place::Wide(from) => read.extend_from_slice(from),
                Place::Low(from) => read.extend(from.iter().map(|v| v.to_f32())),
            }
        }
        let wide = 2 * BLOCK..3 * BLOCK;
        let stored = |i: usize| if wide.contains(&i) { i as f32 } else { Element::Bf16.round(i as f32) };
        assert!(read.into_iter().eq((3..1500).map(stored)));
    }

    #[test]
    fn without_a_cast_all_is_one_part() {
        let mut cells = vec![0.0; 300];
        let target = CastMut::new(&mut cells, None);
        // SAFETY: the only range.
        let places: Vec<_> = unsafe { target.places(5..299) }.collect();
        assert!(matches!(&places[..], [(range, PlaceMut::Wide(to))] if *range == (5..299) && to.len() == 294));
    }
}
