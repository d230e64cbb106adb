//! The checks of the table of operations.

use super::graph_case::GraphRun;
use super::rig::Rig;
use super::{MakeDevice, Outcome, Ready, Tolerance, Verdict, widen};
use crate::device::{DatasetBytes, Device, Layout};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::call::{BLOCK, Call, Cast, Counters, Ingest, Kernel, Loc, MAX_GROUPS, Memory};
use crate::ops::case::{Body, Case, IngestCase, VectorCase};
use crate::ops::{Row, ingest_spec, mixup_spec};
use crate::rng::{Draws, stream};

/// Checks every case of a row of the table.
///
/// # Errors
/// If a case cannot be run at all; a wrong value is a finding, not an error.
pub fn check_row(row: &Row, device: MakeDevice<'_>, seed: u64) -> Result<Vec<Verdict>> {
    (row.cases)().iter().map(|case| check_case(case, device, seed).map_err(|e| e.context(row.name))).collect()
}

/// Checks one case.
///
/// # Errors
/// If it cannot be run at all.
pub fn check_case(case: &Case, device: MakeDevice<'_>, seed: u64) -> Result<Verdict> {
    let mut verdict = Verdict { label: case.label.clone(), ..Verdict::default() };
    let repeats = match &case.body {
        Body::Graph(body) => {
            let device = device()?;
            let run = GraphRun::new(case, body, seed, device.dtype())?;
            let done = run.run(device)?;
            run.compare(&done, &mut verdict);
            verdict.holds("nothing is written beside", done.outcome.stays_within);
            done.outcome.repeats
        }
        Body::Vector(body) => {
            let device = device()?;
            let tolerance = Tolerance::of(device.dtype());
            let body = &stored(body, device.dtype().storage());
            let outcome = run_vector(body, device)?;
            compare_vector(body, &outcome, tolerance, &mut verdict);
            outcome.repeats
        }
        Body::Ingest(body) => {
            let bytes = IngestBytes::draw(case.rows, body);
            let device = device()?;
            let tolerance = Tolerance::of(device.dtype());
            let outcome = bytes.run(body, device)?;
            bytes.compare(body, &outcome, tolerance, &mut verdict);
            outcome.repeats
        }
    };
    verdict.holds("bits of a second run", repeats);
    Ok(verdict)
}

/// Runs one case without comparing it with its spec: for bits that must be equal between numbers of threads.
///
/// # Errors
/// If it cannot be run at all.
pub fn run_case(case: &Case, device: MakeDevice<'_>, seed: u64) -> Result<Outcome> {
    match &case.body {
        Body::Graph(body) => {
            let device = device()?;
            Ok(GraphRun::new(case, body, seed, device.dtype())?.run(device)?.outcome)
        }
        Body::Vector(body) => run_vector(body, device()?),
        Body::Ingest(body) => IngestBytes::draw(case.rows, body).run(body, device()?),
    }
}

/// Sets one case up on `device`, for being timed.
///
/// # Errors
/// If it cannot be run at all.
pub fn ready(case: &Case, device: Box<dyn Device>, seed: u64) -> Result<Ready> {
    match &case.body {
        Body::Graph(body) => GraphRun::new(case, body, seed, device.dtype())?.ready(device),
        Body::Vector(body) => {
            let (mut ready, places) = vector_ready(body, device)?;
            upload_all(&mut ready.rig, &places, body)?;
            Ok(ready)
        }
        Body::Ingest(body) => IngestBytes::draw(case.rows, body).ready(body, device),
    }
}

/// The case as a device that stores the compute copy as `element` has it: what lies in it already is rounded. Parameters of
/// three blocks, of which every other one stays wide.
fn stored(body: &VectorCase, element: Element) -> VectorCase {
    let mut body = body.clone();
    if element == Element::F32 {
        return body;
    }
    let Some((operand, blocks)) = compute_copy(&body) else { return body };
    let start = |block: usize| if (block / 3).is_multiple_of(2) { (block / 3 * 3 * BLOCK) as u32 } else { Cast::WIDE };
    let cast = Cast { element, starts: (0..blocks).map(start).collect() };
    let (Kernel::Set { cast: of, .. } | Kernel::Perturbation { cast: of, .. }) = &mut body.kernel else {
        if let Kernel::Update(update) = &mut body.kernel {
            update.cast = Some(cast);
        }
        return body;
    };
    *of = Some(cast.clone());
    if let Some(values) = body.reads.get_mut(operand).filter(|_| matches!(body.kernel, Kernel::Perturbation { .. })) {
        for part in cast.parts(Loc::new(Memory::Arena, 0, values.len())) {
            values[part.offset..part.offset + part.len].iter_mut().for_each(|v| *v = part.element.round(*v));
        }
    }
    body
}

/// Returns the number of the operand, reads before writes, that is the compute copy, and how many blocks it has.
fn compute_copy(body: &VectorCase) -> Option<(usize, usize)> {
    let operand = match &body.kernel {
        // A sum over what it writes has f32 operands on both sides.
        Kernel::Set { .. } if !body.shared.is_empty() => return None,
        Kernel::Set { .. } => body.reads.len(),
        Kernel::Perturbation { .. } => 1,
        Kernel::Update(_) => body.reads.len() + 2,
        _ => return None,
    };
    let values = body.reads.iter().chain(&body.writes).nth(operand)?;
    values.len().is_multiple_of(BLOCK).then_some((operand, values.len() / BLOCK))
}

/// The places of an operand that are stored in one way each.
fn parts(body: &VectorCase, operand: usize, place: Loc) -> Vec<Loc> {
    let cast = match &body.kernel {
        Kernel::Set { cast, .. } | Kernel::Perturbation { cast, .. } => cast.as_ref(),
        Kernel::Update(update) => update.cast.as_ref(),
        _ => None,
    };
    match cast {
        Some(cast) if compute_copy(body).is_some_and(|c| c.0 == operand) => cast.parts(place),
        _ => vec![place],
    }
}

/// A rig for the kernel, its call, and where the values of `reads` and `writes` go.
fn vector_ready(body: &VectorCase, device: Box<dyn Device>) -> Result<(Ready, Vec<Loc>)> {
    // Single values are scalars, everything else a vector; a shared operand is uploaded once, as written.
    // An update has the most of these: 4, and two for each group.
    let mut layout = Layout { scalars: (4 + 2 * MAX_GROUPS).next_multiple_of(16), ..Layout::default() };
    let mut scalars = 0;
    let mut places: Vec<Loc> = Vec::new();
    for values in body.reads.iter().chain(&body.writes) {
        let len = values.len();
        places.push(if len == 1 {
            scalars += 1;
            Loc::new(Memory::Scalars, scalars - 1, len)
        } else {
            layout.vectors.push(len);
            Loc::new(Memory::Vector(layout.vectors.len() as u16 - 1), 0, len)
        });
    }
    let (mut reads, writes) = (places[..body.reads.len()].to_vec(), places[body.reads.len()..].to_vec());
    for (read, write) in &body.shared {
        reads[*read] = writes[*write];
    }
    let mut call = Call { kernel: body.kernel.clone(), reads, writes, workspace: None, label: "check".into() };
    layout.arena = device.workspace(&call);
    if layout.arena > 0 {
        call.workspace = Some(Loc::new(Memory::Arena, 0, layout.arena));
    }
    let rig = Rig::with_layout(device, layout)?;
    Ok((Ready { rig, calls: vec![call], counters: Counters::default() }, places))
}

fn upload_all(rig: &mut Rig, places: &[Loc], body: &VectorCase) -> Result<()> {
    for (operand, values) in body.reads.iter().chain(&body.writes).enumerate() {
        for part in parts(body, operand, places[operand]) {
            // A scalar's offset counts in a memory of its own.
            let begin = if part.memory == Memory::Scalars { 0 } else { part.offset };
            rig.upload(part, &values[begin..begin + part.len])?;
        }
    }
    Ok(())
}

/// Runs the kernel twice.
fn run_vector(body: &VectorCase, device: Box<dyn Device>) -> Result<Outcome> {
    let (mut ready, places) = vector_ready(body, device)?;
    let call = ready.calls[0].clone();
    let mut run = || -> Result<Vec<Vec<f32>>> {
        upload_all(&mut ready.rig, &places, body)?;
        if let Some(work) = call.workspace {
            ready.rig.upload(work, &vec![f32::NAN; work.len])?;
        }
        ready.run(0)?;
        let whole = |(i, place): (usize, &Loc)| -> Result<Vec<f32>> {
            let mut values = Vec::with_capacity(place.len);
            for part in parts(body, body.reads.len() + i, *place) {
                values.extend(ready.rig.download(part)?);
            }
            Ok(values)
        };
        call.writes.iter().enumerate().map(whole).collect()
    };
    let mut outcome = Outcome::default();
    outcome.add(run()?, &run()?);
    Ok(outcome)
}

fn compare_vector(body: &VectorCase, outcome: &Outcome, tolerance: Tolerance, out: &mut Verdict) {
    let wide = |all: &[Vec<f32>]| -> Vec<Vec<f64>> { all.iter().map(|v| widen(v)).collect() };
    let expected = (body.spec)(&body.kernel, &wide(&body.reads), &wide(&body.writes));
    for (i, (got, expected)) in outcome.values.iter().zip(&expected).enumerate() {
        // An overflow in f32 has no relative error; whether there was one is an output of its own.
        let finite: Vec<f32> = got.iter().map(|v| if v.is_infinite() { 0.0 } else { *v }).collect();
        out.compare(format!("output {i}"), &finite, expected, tolerance.forward);
    }
}

/// A small data set, and what is read of it.
struct IngestBytes {
    spec: Ingest,
    images: Vec<u8>,
    labels: Vec<u8>,
    order: Vec<u32>,
}

impl IngestBytes {
    fn draw(rows: usize, body: &IngestCase) -> IngestBytes {
        let &IngestCase { h, w, c, images: count, augment, .. } = body;
        let mut draws = Draws::new(9, stream("bytes"), 0, 0);
        let images = (0..count * h * w * c).map(|_| draws.below(256) as u8).collect();
        let labels = (0..count).map(|_| draws.below(10) as u8).collect();
        let (mean, std) = ([0.286, 0.4, 0.5, 0.6], [0.353, 0.3, 0.25, 0.2]);
        let spec = Ingest { n: rows, h, w, c, classes: 10, offset: 0, mean, std, augment };
        IngestBytes { spec, images, labels, order: crate::rng::permutation(4, 0, count) }
    }

    fn ready(&self, body: &IngestCase, device: Box<dyn Device>) -> Result<Ready> {
        let &Ingest { n, h, w, c, classes, .. } = &self.spec;
        let kernel = Kernel::Ingest(self.spec.clone());
        let mut call = Call { kernel, reads: vec![], writes: vec![], workspace: None, label: "check".into() };
        let arena = device.workspace(&call);
        if arena > 0 {
            call.workspace = Some(Loc::new(Memory::Arena, 0, arena));
        }
        let layout = Layout { arena, vectors: vec![n * h * w * c, n * classes, n], scalars: 16 };
        let element = device.dtype().storage();
        let mut rig = Rig::with_layout(device, layout)?;
        let data = DatasetBytes { images: &self.images, labels: &self.labels, image_len: h * w * c };
        rig.set_dataset(&data, &self.order)?;
        let mut writes: Vec<Loc> = (0..3).map(|i| rig.vector(i)).collect();
        writes[0].element = element;
        let share = Loc::new(Memory::Scalars, 0, 1);
        rig.upload(share, &[body.share])?;
        let reads = if body.augment.mixup { vec![share] } else { vec![] };
        Ok(Ready { rig, calls: vec![Call { reads, writes, ..call }], counters: body.counters })
    }

    /// Ingests twice.
    fn run(&self, body: &IngestCase, device: Box<dyn Device>) -> Result<Outcome> {
        let mut ready = self.ready(body, device)?;
        let writes = ready.calls[0].writes.clone();
        let mut run = || -> Result<Vec<Vec<f32>>> {
            for write in &writes {
                ready.rig.upload(*write, &vec![f32::NAN; write.len])?;
            }
            ready.run(0)?;
            writes.iter().map(|w| ready.rig.download(*w)).collect()
        };
        let mut outcome = Outcome::default();
        outcome.add(run()?, &run()?);
        Ok(outcome)
    }

    fn compare(&self, body: &IngestCase, outcome: &Outcome, tolerance: Tolerance, out: &mut Verdict) {
        let (images, labels, order) = (&self.images, &self.labels, &self.order);
        let (x, targets, weights) = match body.augment.mixup {
            true => mixup_spec(&self.spec, images, labels, order, &body.counters, f64::from(body.share)),
            false => ingest_spec(&self.spec, images, labels, order, &body.counters),
        };
        let expected = [("images", x), ("targets", targets), ("weights", weights)];
        for ((what, expected), got) in expected.iter().zip(&outcome.values) {
            out.compare(*what, got, expected, tolerance.forward);
        }
    }
}
