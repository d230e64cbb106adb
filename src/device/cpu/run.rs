//! From a call to the function that computes it.

use super::cast::CastMut;
use super::conv::NormSums;
use super::memory::Operands;
use super::pooling::overlaps;
use super::stored::Stored;
use super::{
    Dataset, Workers, attack, conv, conv_weight, ingest, largest, linear, loss, norm, norm_backward, norm_stats,
    pointwise, pooling, rounding, shake, shortcut, vector, widen,
};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Cast, Counters, Kernel, Loc, MAX_GROUPS, Term};
use half::bf16;

/// Operands that a kernel takes as they are stored, be that f32 or bf16: numbers of those read, and of those written. None
/// for a kernel that knows f32 alone. An operand that a call leaves out counts for nothing.
fn taken_as_stored(kernel: &Kernel) -> Option<[&'static [usize]; 2]> {
    match kernel {
        Kernel::Ingest(_) => Some([&[], &[0]]),
        Kernel::Relu | Kernel::Copy { .. } | Kernel::Dropout { .. } | Kernel::ScaleRows { .. } => Some([&[0], &[0]]),
        Kernel::ReluBackward { .. } | Kernel::Add | Kernel::MixRows(_) => Some([&[0, 1], &[0]]),
        Kernel::MaxPool(_) | Kernel::AvgPool(_) => Some([&[0], &[0]]),
        // A place that is added to several times is rounded once.
        Kernel::MaxPoolBackward { shape, .. } | Kernel::AvgPoolBackward { shape, .. } if overlaps(shape) => None,
        Kernel::MaxPoolBackward { .. } => Some([&[0, 1], &[0]]),
        Kernel::AvgPoolBackward { .. } => Some([&[0], &[0]]),
        Kernel::PadShortcut(_) | Kernel::PadShortcutBackward { .. } => Some([&[0], &[0]]),
        Kernel::LinearForward(_) | Kernel::LinearBackwardData { .. } => Some([&[0, 1], &[0]]),
        Kernel::LinearBackwardWeight(_) => Some([&[0, 1], &[]]),
        Kernel::BatchStats { .. } => Some([&[0], &[]]),
        Kernel::NormApply(_) => Some([&[0], &[0]]),
        Kernel::NormBackwardSums(_) => Some([&[0, 4], &[]]),
        Kernel::NormBackwardData { .. } => Some([&[0, 4], &[0]]),
        Kernel::ConvForward(_) => Some([&[0, 1, 2], &[0]]),
        Kernel::ConvBackwardData { .. } => Some([&[0, 1, 2], &[0]]),
        Kernel::ConvBackwardWeight(_) => Some([&[0, 1], &[]]),
        _ => None,
    }
}

/// Returns the element type of a call's operands; None where its kernel takes f32 alone, or not this mixture.
fn stored_as(call: &Call) -> Option<Element> {
    let is_low = |loc: &Loc| loc.element == Element::Bf16;
    if !call.reads.iter().chain(&call.writes).any(is_low) {
        return Some(Element::F32);
    }
    let [reads, writes] = taken_as_stored(&call.kernel)?;
    let all_low = |list: &[Loc], numbers: &[usize]| numbers.iter().all(|i| list.get(*i).is_none_or(is_low));
    (all_low(&call.reads, reads) && all_low(&call.writes, writes)).then_some(Element::Bf16)
}

/// Cells of scratch that a call needs.
pub(super) fn workspace(workers: &Workers, call: &Call) -> usize {
    match stored_as(call) {
        Some(Element::Bf16) => own_workspace::<bf16>(workers, &call.kernel),
        Some(_) => own_workspace::<f32>(workers, &call.kernel),
        None => widen::workspace(call) + own_workspace::<f32>(workers, &call.kernel),
    }
}

fn own_workspace<T: Stored>(workers: &Workers, kernel: &Kernel) -> usize {
    match kernel {
        Kernel::Ingest(spec) if spec.augment.mixup => ingest::mixed_workspace(workers, spec),
        Kernel::ConvForward(s) => conv::forward_workspace::<T>(workers, s),
        Kernel::ConvBackwardData { shape, .. } => conv::backward_data_workspace::<T>(workers, shape),
        Kernel::ConvBackwardWeight(s) => conv_weight::backward_weight_workspace::<T>(workers, s),
        Kernel::LinearForward(s) => linear::forward_workspace(workers, s),
        Kernel::LinearBackwardData { shape, .. } => linear::backward_data_workspace(workers, shape),
        Kernel::LinearBackwardWeight(s) => linear::backward_weight_workspace(workers, s),
        Kernel::BatchStats { n, c, .. } => norm_stats::batch_stats_workspace(*n, *c),
        Kernel::NormBackwardSums(s) => norm_backward::norm_backward_sums_workspace(s),
        Kernel::Norm(ranges) | Kernel::Dot(ranges) => vector::dot_workspace(ranges),
        Kernel::Perturbation { ranges, .. } => rounding::perturbation_workspace(ranges),
        Kernel::Largest { .. } => largest::largest_workspace(),
        _ => 0,
    }
}

/// Most vectors and scalar operands of a `Set` or `Scalar` call.
const MOST: usize = 8;

/// Runs one call.
pub(super) fn run(
    workers: &Workers,
    call: &Call,
    mut o: Operands<'_>,
    datasets: &[Dataset],
    counters: &Counters,
) -> Result<()> {
    match stored_as(call) {
        Some(Element::Bf16) => compute::<bf16>(workers, call, &mut o, datasets, counters),
        Some(_) => compute::<f32>(workers, call, &mut o, datasets, counters),
        None => widen::run(workers, call, o, |o| compute::<f32>(workers, call, o, datasets, counters)),
    }
}

/// Runs one call on operands that are stored as `T` where its kernel takes them as stored, and as f32 where not.
fn compute<T: Stored>(
    workers: &Workers,
    call: &Call,
    o: &mut Operands<'_>,
    datasets: &[Dataset],
    counters: &Counters,
) -> Result<()> {
    let w = workers;
    match &call.kernel {
        Kernel::Ingest(spec) => {
            let data = datasets.get(counters.dataset as usize).filter(|d| d.extent.fits(spec, counters));
            let Some(data) = data else {
                return Err(Error::internal(format!("data set {} does not fit {spec:?}", counters.dataset)));
            };
            let (x, targets, weights) = (o.write::<T>(0)?, o.write(1)?, o.write(2)?);
            let (images, labels, order) = (&data.images, &data.labels, &data.order);
            if spec.augment.mixup {
                let (share, work) = (o.scalar(0), o.work());
                ingest::ingest_mixed(w, spec, images, labels, order, counters, share, x, targets, weights, work);
            } else {
                ingest::ingest(w, spec, images, labels, order, counters, x, targets, weights);
            }
        }
        Kernel::ConvForward(s) => {
            let partials = if call.writes.len() > 1 { Some(o.write(1)?) } else { None };
            let summand = if call.reads.len() > 2 { Some(o.read::<T>(2)?) } else { None };
            conv::forward(w, s, o.read::<T>(0)?, o.read(1)?, summand, o.write(0)?, partials, o.work());
        }
        Kernel::ConvBackwardData { shape, add, norm } => {
            let norm = match norm {
                None => None,
                Some(shape) => Some(NormSums {
                    shape,
                    x: o.read::<T>(2)?,
                    params: [o.read(3)?, o.read(4)?, o.read(5)?],
                    partials: o.write(1)?,
                }),
            };
            conv::backward_data(w, shape, o.read::<T>(0)?, o.read(1)?, o.write(0)?, *add, norm, o.work());
        }
        Kernel::ConvBackwardWeight(s) => {
            conv_weight::backward_weight(w, s, o.read::<T>(0)?, o.read(1)?, o.write(0)?, o.work());
        }
        &Kernel::BatchStats { n, pixels, c } => {
            norm_stats::batch_stats(w, (n, pixels, c), o.read::<T>(0)?, o.write(0)?, o.work());
        }
        &Kernel::MergeStats { groups, c } => {
            norm_stats::merge_stats(w, (groups.count, groups.pixels, c), o.read(0)?, o.write(0)?);
        }
        &Kernel::MergeSums { groups, c } => {
            norm_backward::merge_partial_sums(w, groups, c, o.read(0)?, o.write(0)?, o.write(1)?);
        }
        Kernel::NormApply(s) => {
            norm::norm_apply(w, s, o.read::<T>(0)?, o.read(1)?, o.read(2)?, o.read(3)?, o.write(0)?)
        }
        Kernel::NormBackwardSums(s) => {
            let (x, stats, weight, bias, dy) = (o.read::<T>(0)?, o.read(1)?, o.read(2)?, o.read(3)?, o.read(4)?);
            norm_backward::norm_backward_sums(w, s, x, stats, weight, bias, dy, o.write(0)?, o.write(1)?, o.work());
        }
        Kernel::NormBackwardData { shape, add } => {
            let (x, stats, weight, bias, dy) = (o.read::<T>(0)?, o.read(1)?, o.read(2)?, o.read(3)?, o.read(4)?);
            let (dweight, dbias) = (o.read(5)?, o.read(6)?);
            norm_backward::norm_backward_data(w, shape, *add, x, stats, weight, bias, dy, dweight, dbias, o.write(0)?);
        }
        Kernel::Relu => pointwise::relu(w, o.read::<T>(0)?, o.write(0)?),
        Kernel::ReluBackward { add } => pointwise::relu_backward(w, *add, o.read::<T>(0)?, o.read(1)?, o.write(0)?),
        Kernel::Add => pointwise::add(w, o.read::<T>(0)?, o.read(1)?, o.write(0)?),
        Kernel::Copy { add } => pointwise::copy(w, *add, o.read::<T>(0)?, o.write::<T>(0)?),
        Kernel::MaxPool(s) => pooling::max_pool(w, s, o.read::<T>(0)?, o.write(0)?),
        Kernel::MaxPoolBackward { shape, add } => {
            pooling::max_pool_backward(w, shape, *add, o.read::<T>(0)?, o.read(1)?, o.write(0)?);
        }
        Kernel::AvgPool(s) => pooling::avg_pool(w, s, o.read::<T>(0)?, o.write(0)?),
        Kernel::AvgPoolBackward { shape, add } => {
            pooling::avg_pool_backward(w, shape, *add, o.read::<T>(0)?, o.write(0)?)
        }
        Kernel::PadShortcut(s) => shortcut::pad_shortcut(w, s, o.read::<T>(0)?, o.write(0)?),
        Kernel::PadShortcutBackward { shape, add } => {
            shortcut::pad_shortcut_backward(w, shape, *add, o.read::<T>(0)?, o.write(0)?);
        }
        Kernel::LinearForward(s) => {
            linear::forward(w, s, o.read::<T>(0)?, o.read(1)?, o.read(2)?, o.write(0)?, o.work())
        }
        Kernel::LinearBackwardData { shape, add } => {
            linear::backward_data(w, shape, o.read::<T>(0)?, o.read(1)?, o.write(0)?, *add, o.work());
        }
        Kernel::LinearBackwardWeight(s) => {
            linear::backward_weight(w, s, o.read::<T>(0)?, o.read(1)?, o.write(0)?, o.write(1)?, o.work());
        }
        &Kernel::Dropout { len, offset, p_bits, stream, add, .. } => {
            let s = pointwise::Dropout { len, offset, p: f32::from_bits(p_bits), stream };
            pointwise::dropout(w, &s, add, counters, o.read::<T>(0)?, o.write(0)?);
        }
        Kernel::MixRows(s) => shake::mix_rows(w, s, counters, o.read::<T>(0)?, o.read(1)?, o.write(0)?),
        Kernel::ScaleRows { factors, add } => {
            shake::scale_rows(w, factors, *add, counters, o.read::<T>(0)?, o.write(0)?);
        }
        &Kernel::CrossEntropy { classes, smoothing_bits, bootstrap, .. } => {
            let s = loss::Targets { classes, smoothing: f32::from_bits(smoothing_bits), bootstrap };
            loss::cross_entropy(w, s, o.read(0)?, o.read(1)?, o.write(0)?, o.write(1)?);
        }
        Kernel::MeanLoss { .. } => loss::mean_loss(o.read(0)?, o.read(1)?, o.read(2)?, o.write(0)?),
        &Kernel::CrossEntropyBackward { classes, smoothing_bits, bootstrap, .. } => {
            let s = loss::Targets { classes, smoothing: f32::from_bits(smoothing_bits), bootstrap };
            loss::cross_entropy_backward(w, s, o.read(0)?, o.read(1)?, o.read(2)?, o.write(0)?);
        }
        &Kernel::Tap { len, .. } => pointwise::tap(w, len, o.read(0)?, o.read(1)?, o.write(0)?),
        &Kernel::TapBackward { len, add, .. } => {
            pointwise::tap_backward(w, len, add, o.read(0)?, o.read(1)?, o.read(2)?, o.write(0)?);
        }
        &Kernel::TapDelta { len, .. } => pointwise::tap_delta(w, len, o.read(0)?, o.read(1)?, o.write(0)?),
        Kernel::PgdStep(pixels) => {
            let sizes = [o.scalar(3), o.scalar(4)];
            attack::pgd_step(w, pixels, o.read(0)?, o.read(1)?, sizes, o.write(0)?);
        }
        Kernel::Norm(ranges) => {
            vector::norm(w, ranges, o.read(0)?, o.write_scalar(0, &call.kernel)?, o.work());
        }
        Kernel::Dot(ranges) => {
            vector::dot(w, ranges, o.read(0)?, o.read(1)?, o.write_scalar(0, &call.kernel)?, o.work());
        }
        Kernel::Perturbation { ranges, cast } => {
            let (weights, c, g) = (o.read(0)?, o.read(1)?, o.read(2)?);
            let out = [o.write_scalar(0, &call.kernel)?, o.write_scalar(1, &call.kernel)?];
            rounding::perturbation(w, (ranges, known(cast)?), weights, c, g, out, o.work());
        }
        Kernel::Unscale(ranges) => {
            let (scale, g) = (o.scalar(0), o.write(0)?);
            rounding::unscale(ranges, scale, g, o.write_scalar(1, &call.kernel)?);
        }
        Kernel::Largest { ranges, n } => {
            largest::largest(w, ranges, *n, o.read_unless_written(0)?, o.write(0)?, o.work());
        }
        Kernel::Set { ranges, terms, cast } => {
            let mut sources = [None; MOST];
            let vectors = Term::vectors(terms);
            if vectors > MOST {
                return Err(Error::internal(format!("'{}' sums over more than {MOST} vectors", call.label)));
            }
            for (i, source) in sources.iter_mut().enumerate().take(vectors) {
                *source = o.read_unless_written(i)?;
            }
            let scalars = scalars(o, call, vectors)?;
            let dst = o.write(0)?;
            let dropped = o.write_scalar(1, &call.kernel)?;
            let dst = CastMut::new(dst, known(cast)?);
            vector::set(w, ranges, terms, &sources[..vectors], &scalars, dst, dropped);
        }
        Kernel::Scalar(expression) => {
            let scalars = scalars(o, call, 0)?;
            let (to, dropped) = (o.write_scalar(0, &call.kernel)?, o.write_scalar(1, &call.kernel)?);
            vector::scalar(expression, &scalars, to, dropped);
        }
        Kernel::Guard => {
            let scalars = scalars(o, call, 0)?;
            vector::guard(&scalars[..call.reads.len()], o.write_scalar(0, &call.kernel)?);
        }
        Kernel::Update(update) => {
            let scalars = [3, 4, 5, 6].map(|i| o.scalar(i));
            let mut rates = [[0.0; 2]; MAX_GROUPS];
            for (i, rate) in rates.iter_mut().enumerate().take((call.reads.len() - 7) / 2) {
                *rate = [o.scalar(7 + 2 * i), o.scalar(8 + 2 * i)];
            }
            let c = CastMut::new(o.write(2)?, known(&update.cast)?);
            vector::update(w, update, o.read(0)?, scalars, rates, [o.write(0)?, o.write(1)?], c);
        }
        &Kernel::FoldStats { c, momentum_bits } => {
            norm_stats::fold_stats(c, f32::from_bits(momentum_bits), o.read(0)?, o.scalar(1), o.write(0)?);
        }
    }
    Ok(())
}

/// The cast of a compute copy that is stored as anything but f32.
fn known(cast: &Option<Cast>) -> Result<Option<&Cast>> {
    match cast.as_ref().map(|c| c.element) {
        None | Some(Element::F32) => Ok(None),
        Some(Element::Bf16) => Ok(cast.as_ref()),
        Some(Element::F16) => Err(Error::internal("the CPU stores no weights as f16")),
    }
}

/// The scalar operands from number `first` on.
fn scalars(o: &Operands<'_>, call: &Call, first: usize) -> Result<[f32; MOST]> {
    let count = call.reads.len() - first;
    if count > MOST {
        return Err(Error::internal(format!("'{}' reads more than {MOST} scalars", call.label)));
    }
    let mut values = [f32::NAN; MOST];
    values.iter_mut().take(count).enumerate().for_each(|(i, v)| *v = o.scalar(first + i));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::memory::Banks;
    use super::super::testing::*;
    use super::*;
    use crate::device::Layout;
    use crate::ops::call::{Memory, PoolShape, RowFactors, ShortcutShape};

    /// Kernels that take bf16 as it is stored, with the elements of what they read and write.
    fn kernels() -> Vec<(Kernel, Vec<usize>, Vec<usize>)> {
        let len = 2 * 16_384 + 33;
        let pool = PoolShape { n: 5, h: 7, w: 8, c: 70, window_h: 2, window_w: 2, stride: 2, pad: 0 };
        let (x, y) = (pool.x_len(), pool.y_len());
        let shortcut = ShortcutShape { n: 3, h: 5, w: 6, c: 9, stride: 2, shift: 1, before: 4, after: 5 };
        let (from, to) = (shortcut.n * shortcut.x_image(), shortcut.y_len());
        let both = |kernels: &dyn Fn(bool) -> Kernel, reads: &[usize], writes: usize| {
            [false, true].map(|add| (kernels(add), reads.to_vec(), vec![writes]))
        };
        let dropout = |add| Kernel::Dropout { n: 11, len: 301, offset: 3, p_bits: 0.3f32.to_bits(), stream: 9, add };
        let factors = RowFactors { n: 11, len: 301, offset: 3, stream: 9, word: 1, base: 0.0, slope: 1.0, one: 0.5 };
        let mut all = vec![
            (Kernel::Relu, vec![len], vec![len]),
            (Kernel::Add, vec![len, len], vec![len]),
            (Kernel::MaxPool(pool), vec![x], vec![y]),
            (Kernel::AvgPool(pool), vec![x], vec![y]),
            (Kernel::PadShortcut(shortcut), vec![from], vec![to]),
            (Kernel::MixRows(factors), vec![11 * 301; 2], vec![11 * 301]),
        ];
        all.extend(both(&|add| Kernel::Copy { add }, &[len], len));
        all.extend(both(&|add| Kernel::ReluBackward { add }, &[len, len], len));
        all.extend(both(&|add| Kernel::MaxPoolBackward { shape: pool, add }, &[x, y], x));
        all.extend(both(&|add| Kernel::AvgPoolBackward { shape: pool, add }, &[y], x));
        all.extend(both(&|add| Kernel::PadShortcutBackward { shape: shortcut, add }, &[to], from));
        all.extend(both(&dropout, &[11 * 301], 11 * 301));
        all.extend(both(&|add| Kernel::ScaleRows { factors, add }, &[11 * 301], 11 * 301));
        all
    }

    /// Returns the content of the call's output.
    fn output(workers: &Workers, call: &Call, copies: bool) -> Vec<f32> {
        let end = |loc: &Loc| loc.offset + loc.cells();
        let arena = call.reads.iter().chain(&call.writes).chain(&call.workspace).map(end).max().unwrap_or(0);
        let mut banks = Banks::new(&Layout { arena, vectors: vec![], scalars: 16 }).unwrap();
        for (i, loc) in call.reads.iter().chain(&call.writes).enumerate() {
            banks.upload(*loc, &normal(i as u64, loc.len)).unwrap();
        }
        let counters = Counters { seed: 5, epoch: 1, dataset: 0, first: 7, rows: 11 };
        let mut o = banks.operands(call).unwrap();
        let done = match copies {
            true => widen::run(workers, call, o, |o| compute::<f32>(workers, call, o, &[], &counters)),
            false => compute::<bf16>(workers, call, &mut o, &[], &counters),
        };
        done.unwrap();
        let mut values = vec![0.0; call.writes[0].len];
        banks.download(call.writes[0], &mut values).unwrap();
        values
    }

    #[test]
    fn what_a_kernel_makes_of_bf16_is_what_it_makes_of_f32_copies_rounded_once() {
        for (kernel, reads, writes) in kernels() {
            let mut cells = 0;
            let mut place = |len: usize, element: Element| {
                let loc = Loc { element, ..Loc::new(Memory::Arena, cells, len) };
                cells += loc.cells().next_multiple_of(16);
                loc
            };
            let [reads, writes] =
                [reads, writes].map(|lens| lens.iter().map(|len| place(*len, Element::Bf16)).collect());
            let mut call = Call { kernel, reads, writes, workspace: None, label: "test".into() };
            assert_eq!(stored_as(&call), Some(Element::Bf16), "{:?}", call.kernel);
            call.workspace = Some(place(widen::workspace(&call), Element::F32));
            let direct = same_for_all(|workers| output(workers, &call, false));
            let copied = same_for_all(|workers| output(workers, &call, true));
            assert_eq!(direct, copied, "{:?}", call.kernel);
        }
    }

    #[test]
    fn an_operand_that_a_kernel_does_not_expect_as_it_is_stored_is_refused() {
        let mut banks = Banks::new(&Layout { arena: 64, vectors: vec![], scalars: 16 }).unwrap();
        let at = |offset, element| Loc { element, ..Loc::new(Memory::Arena, offset, 8) };
        let (reads, writes) = (vec![at(0, Element::F16)], vec![at(32, Element::F32)]);
        let call = Call { kernel: Kernel::Relu, reads, writes, workspace: None, label: "relu".into() };
        let workers = &all_workers()[0];
        let error = run(workers, &call, banks.operands(&call).unwrap(), &[], &Counters::default()).unwrap_err();
        assert!(error.to_string().contains("stored as f16, and its kernel takes f32"), "{error}");
    }
}
