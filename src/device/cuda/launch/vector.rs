//! Launches of `vector.cu`.

use super::operands::{aligned, flag, int, line, must_be_f32, read, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::Module;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{BLOCK, Call, Cast, Kernel, MAX_GROUPS, Map, Ranges, Scale, Term, Update};
use Operand::{Read, Table, Work, Write};

#[path = "largest.rs"]
mod largest;

/// Threads of a block.
const THREADS: u32 = 256;
/// Most elements of a chunk, which one block handles at a time: 16 a thread.
const CHUNK: usize = 4096;
/// Blocks of a sum, for each processor of the card: what it holds at once, at 256 threads and 32 registers.
const SUM_BLOCKS: usize = 8;

// The kernels have the same number.
const MOST_SCALARS: usize = 8;
const MOST_TERMS: usize = 8;
const DEPTH: usize = 16;
const MOST_WORDS: usize = 512;

pub(super) fn workspace(target: &Target, call: &Call) -> usize {
    match &call.kernel {
        Kernel::Norm(ranges) | Kernel::Dot(ranges) | Kernel::Unscale(ranges) => {
            sum_blocks(target, chunks(ranges, None, None).len())
        }
        Kernel::Perturbation { ranges, cast } => perturbation_workspace(target, ranges, cast.as_ref()),
        Kernel::Largest { ranges, .. } => largest::workspace(target, ranges),
        _ => 0,
    }
}

pub(super) fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    match &call.kernel {
        Kernel::Norm(ranges) => sum(target, call, ranges, 1, ["norm_partial", "norm_final"]),
        Kernel::Dot(ranges) => sum(target, call, ranges, 2, ["dot_partial", "dot_final"]),
        Kernel::Set { ranges, terms, cast } => set(call, ranges, terms, cast.as_ref()),
        Kernel::Perturbation { ranges, cast } => perturbation(target, call, ranges, cast.as_ref()),
        Kernel::Unscale(ranges) => unscale(target, call, ranges),
        Kernel::Largest { ranges, n } => largest::launches(target, call, ranges, *n),
        Kernel::Scalar(expression) => {
            let (code, reads) = (code(call, expression, call.reads.len())?, call.reads.len());
            let mut args = scalars(call, 0)?;
            args.extend([int(call, reads)?, Table(code.clone().into()), int(call, code.len())?, Write(0), Write(1)]);
            Ok(vec![line(&module(None), "scalar", 1, 32, args)])
        }
        Kernel::Guard => {
            let mut args = scalars(call, 0)?;
            args.extend([int(call, call.reads.len())?, Write(0)]);
            Ok(vec![line(&module(None), "guard", 1, 32, args)])
        }
        Kernel::Update(u) => update(call, u),
        _ => Err(Error::internal(format!("'{}' is no operation on vectors", call.label))),
    }
}

fn module(cast: Option<&Cast>) -> Module {
    let element = cast.map_or(Element::F32, |c| c.element);
    Module { file: "vector.cu", defines: vec![("TC", element.name().into())] }
}

/// The elements that one block handles at a time, of one parameter and one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    start: usize,
    end: usize,
    group: u8,
    /// First element of the parameter, if that is stored in two bytes an element; else [`Cast::WIDE`].
    first: u32,
}

/// Cuts `ranges` so that no chunk holds elements of two groups or parameters.
fn chunks(ranges: &Ranges, groups: Option<&[u8]>, cast: Option<&Cast>) -> Vec<Chunk> {
    let traits = |at: usize| {
        let block = at / BLOCK;
        let group = groups.and_then(|g| g.get(block)).copied().unwrap_or(0);
        let first = cast.and_then(|c| c.starts.get(block)).copied().unwrap_or(Cast::WIDE);
        (group, first)
    };
    let mut chunks = Vec::new();
    for range in ranges.iter() {
        let mut start = range.start;
        while start < range.end {
            let ((group, first), limit) = (traits(start), (start + CHUNK).min(range.end));
            let mut end = (start + 1).next_multiple_of(BLOCK).min(limit);
            while end < limit && traits(end) == (group, first) {
                end = (end + BLOCK).min(limit);
            }
            chunks.push(Chunk { start, end, group, first });
            start = end;
        }
    }
    chunks
}

/// `struct Chunk` of the kernels, one after the other.
fn table(chunks: &[Chunk]) -> Operand {
    Table(chunks.iter().flat_map(|c| [c.start as u32, c.end as u32, u32::from(c.group), c.first]).collect())
}

/// Returns true if four elements at a time are aligned wherever a thread begins.
fn whole(call: &Call, chunks: &[Chunk]) -> bool {
    let vectors: Vec<_> = call.reads.iter().chain(&call.writes).filter(|l| l.len > 1).copied().collect();
    aligned(&vectors) && chunks.iter().all(|c| c.start.is_multiple_of(4))
}

fn sum_blocks(target: &Target, chunks: usize) -> usize {
    chunks.clamp(1, SUM_BLOCKS * target.processors.max(1))
}

/// |v| or a . b: partial sums of each block, then their sum.
fn sum(
    target: &Target,
    call: &Call,
    ranges: &Ranges,
    vectors: usize,
    kernels: [&'static str; 2],
) -> Result<Vec<Launch>> {
    let chunks = chunks(ranges, None, None);
    let (module, blocks) = (module(None), sum_blocks(target, chunks.len()));
    let mut args = Vec::new();
    for i in 0..vectors {
        let v = read(call, i)?;
        must_be_f32(call, v, "vector")?;
        int(call, v.len)?;
        args.push(Read(i));
    }
    args.extend([table(&chunks), int(call, chunks.len())?, Work(0), flag(whole(call, &chunks))]);
    let rest = vec![Work(0), int(call, blocks)?, Write(0)];
    Ok(vec![line(&module, kernels[0], blocks, THREADS, args), line(&module, kernels[1], 1, THREADS, rest)])
}

/// Cells of scratch of [`perturbation`].
pub fn perturbation_workspace(target: &Target, ranges: &Ranges, cast: Option<&Cast>) -> usize {
    3 * sum_blocks(target, chunks(ranges, None, cast).len())
}

/// Launches the kernel that measures the compute copy's movement after rounding: reads w, c, g; writes the scalars |c - w| and
/// the cosine of c - w and g over `ranges`, 0 where either is 0. `cast` is c's storage.
///
/// # Errors
/// If w or g is not f32.
pub fn perturbation(target: &Target, call: &Call, ranges: &Ranges, cast: Option<&Cast>) -> Result<Vec<Launch>> {
    let chunks = chunks(ranges, None, cast);
    let (module, blocks) = (module(cast), sum_blocks(target, chunks.len()));
    must_be_f32(call, read(call, 0)?, "weights")?;
    must_be_f32(call, read(call, 2)?, "gradient")?;
    int(call, read(call, 0)?.len)?;
    let mut args = vec![Read(0), Read(1), Read(2), table(&chunks)];
    args.extend([int(call, chunks.len())?, Work(0), flag(whole(call, &chunks))]);
    let rest = vec![Work(0), int(call, blocks)?, Write(0), Write(1)];
    Ok(vec![
        line(&module, "perturbation_partial", blocks, THREADS, args),
        line(&module, "perturbation_final", 1, THREADS, rest),
    ])
}

/// As many pointers to scalars as kernels take, from read number `first` on; those behind the last are never followed.
fn scalars(call: &Call, first: usize) -> Result<Vec<Operand>> {
    let count = call.reads.len() - first;
    if count > MOST_SCALARS {
        return Err(Error::internal(format!("'{}' reads {count} scalars, more than {MOST_SCALARS}", call.label)));
    }
    Ok((0..MOST_SCALARS).map(|i| if i < count { Read(first + i) } else { Write(0) }).collect())
}

/// Words of a postfix expression over `reads` scalars: an operation and its operand each.
///
/// # Errors
/// If the expression is malformed, which is a mistake of the optimizer that recorded it.
fn code(call: &Call, expression: &[Scale], reads: usize) -> Result<Vec<u32>> {
    let fail = |why: String| Error::internal(format!("'{}': scalar expression {expression:?} {why}", call.label));
    let (mut words, mut held) = (Vec::new(), 0usize);
    for step in expression {
        let (operation, operand, taken) = match *step {
            Scale::Const(v) => (0, v.to_bits(), 0),
            Scale::Read(n) if n < reads => (1, n as u32, 0),
            Scale::Read(n) => return Err(fail(format!("reads operand {n} of {reads}"))),
            Scale::Mul => (2, 0, 2),
            Scale::Div => (3, 0, 2),
            Scale::Add => (4, 0, 2),
            Scale::Min => (5, 0, 2),
            Scale::Max => (6, 0, 2),
            Scale::Sqrt => (7, 0, 1),
            Scale::Neg => (8, 0, 1),
            Scale::Select => (9, 0, 3),
        };
        held = held.checked_sub(taken).ok_or_else(|| fail(format!("lacks operands of {step:?}")))? + 1;
        if held > DEPTH {
            return Err(fail(format!("holds more than {DEPTH} values at once")));
        }
        words.extend([operation, operand]);
    }
    if held == 1 { Ok(words) } else { Err(fail(format!("leaves {held} values, not 1"))) }
}

fn set(call: &Call, ranges: &Ranges, terms: &[Term], cast: Option<&Cast>) -> Result<Vec<Launch>> {
    let (count, vectors, dst) = (terms.len(), Term::vectors(terms), write(call, 0)?);
    if vectors > MOST_TERMS || call.reads.len() < vectors {
        let reads = call.reads.len();
        return Err(Error::internal(format!(
            "'{}': {vectors} vectors of terms over {reads} reads, at most {MOST_TERMS}",
            call.label
        )));
    }
    if cast.is_none() {
        must_be_f32(call, dst, "result")?;
    }
    for i in 0..vectors {
        must_be_f32(call, read(call, i)?, "term")?;
    }
    int(call, dst.len)?;
    // Headers first, so that a term finds its code.
    let (mut headers, mut words) = (Vec::new(), Vec::new());
    let number = |map| match map {
        Map::Identity => 0,
        Map::Abs => 1,
        Map::Sign => 2,
        Map::Square => 3,
    };
    for (term, factor) in terms.iter().zip(Term::factors(terms)) {
        // The factor's map and the number of its vector, from 1: 0 is no factor.
        let factor = term.factor.zip(factor).map_or(0, |(map, at)| (at as u32 + 1) << 8 | number(map) << 4);
        let begin = 3 * count + words.len();
        words.extend(code(call, &term.coefficient, call.reads.len() - vectors)?);
        headers.extend([number(term.map) | factor, begin as u32, (3 * count + words.len()) as u32]);
    }
    headers.extend(words);
    if headers.len() > MOST_WORDS {
        return Err(Error::internal(format!(
            "'{}': {} words of code, at most {MOST_WORDS}",
            call.label,
            headers.len()
        )));
    }
    let chunks = chunks(ranges, None, cast);
    let mut args: Vec<Operand> = (0..MOST_TERMS).map(|i| if i < vectors { Read(i) } else { Write(0) }).collect();
    args.extend(scalars(call, vectors)?);
    args.extend([int(call, call.reads.len() - vectors)?, Table(headers.clone().into()), int(call, headers.len())?]);
    args.extend([int(call, count)?, table(&chunks), int(call, chunks.len())?, Write(0), Write(1)]);
    args.push(flag(whole(call, &chunks)));
    Ok(vec![line(&module(cast), "set", chunks.len(), THREADS, args)])
}

/// g /= scale, and whether a quotient is not finite: a count of each block, then their sum.
fn unscale(target: &Target, call: &Call, ranges: &Ranges) -> Result<Vec<Launch>> {
    let chunks = chunks(ranges, None, None);
    let (module, blocks) = (module(None), sum_blocks(target, chunks.len()));
    let g = write(call, 0)?;
    must_be_f32(call, g, "gradient")?;
    int(call, g.len)?;
    let args = vec![Write(0), Read(0), table(&chunks), int(call, chunks.len())?, Work(0), flag(whole(call, &chunks))];
    let rest = vec![Work(0), int(call, blocks)?, Write(1)];
    Ok(vec![line(&module, "unscale", blocks, THREADS, args), line(&module, "unscale_final", 1, THREADS, rest)])
}

fn update(call: &Call, u: &Update) -> Result<Vec<Launch>> {
    let groups = call.reads.len().saturating_sub(7) / 2;
    if groups == 0 || groups > MAX_GROUPS {
        return Err(Error::internal(format!("'{}' has rates of {groups} groups", call.label)));
    }
    if let Some(group) = u.groups.iter().find(|g| usize::from(**g) >= groups) {
        return Err(Error::internal(format!("'{}' has no rates of group {group}", call.label)));
    }
    for i in 0..3 {
        must_be_f32(call, read(call, i)?, "gradient, weights or momentum")?;
    }
    int(call, read(call, 0)?.len)?;
    let chunks = chunks(&u.ranges, Some(&u.groups), u.cast.as_ref());
    let mut args = vec![Read(0), Write(0), Write(1), Write(2), table(&chunks), int(call, chunks.len())?];
    args.extend((3..7).map(Read));
    // Groups that there are not have the rates of the first; no chunk names them.
    args.extend(
        (0..MAX_GROUPS).map(|g| if g < groups { g } else { 0 }).flat_map(|g| [Read(7 + 2 * g), Read(8 + 2 * g)]),
    );
    args.extend([flag(u.nesterov), flag(whole(call, &chunks))]);
    Ok(vec![line(&module(u.cast.as_ref()), "update", chunks.len(), THREADS, args)])
}
