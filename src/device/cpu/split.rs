//! Work shared out by shape: each job writes its own part of the outputs.

use super::Workers;
use super::pool::Parts;
use std::ops::Range;

/// Elements of one job of a kernel that visits memory element by element: 64 KiB, long enough to hide the hand-out of a
/// job (about 0.1 µs), short enough to balance threads.
pub const CHUNK: usize = 16_384;

/// Cuts every output into parts of the length given beside it and runs `f(job, parts)` with the job-th part of each; only
/// the last part of an output may be shorter.
///
/// # Panics
/// If the outputs differ in their number of parts.
pub fn split<T: Send, const N: usize>(
    workers: &Workers,
    outputs: [(&mut [T], usize); N],
    f: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let jobs = |(slice, part): &(&mut [T], usize)| slice.len().div_ceil((*part).max(1));
    let count = outputs.first().map_or(0, jobs);
    assert!(outputs.iter().all(|o| jobs(o) == count), "outputs are cut into different numbers of parts");
    let outputs = outputs.map(|(slice, part)| (slice.len(), part, Parts::new(slice)));
    workers.pool.run(count, |job, _| {
        f(
            job,
            outputs.each_ref().map(|(len, part, parts)| {
                let start = job * part;
                // SAFETY: the jobs' ranges follow one another without overlap, and each job runs once.
                unsafe { parts.part(start..(start + part).min(*len)) }
            }),
        )
    });
}

/// Images (or rows) of `len` elements that make one job of about half a [`CHUNK`]; at least one.
pub fn images_a_job(len: usize) -> usize {
    (CHUNK / 2 / len.max(1)).max(1)
}

/// Returns the intersections of `ranges` (ascending) with `window`.
pub fn within(ranges: &[Range<usize>], window: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
    let first = ranges.partition_point(|r| r.end <= window.start);
    ranges[first..]
        .iter()
        .take_while(move |r| r.start < window.end)
        .map(move |r| r.start.max(window.start)..r.end.min(window.end))
}

#[cfg(test)]
mod tests {
    use super::super::testing::all_workers;
    use super::*;

    #[test]
    fn every_element_is_written_once_and_parts_of_all_outputs_belong_together() {
        for workers in all_workers() {
            let (mut a, mut b) = (vec![0.0; 10], vec![0.0; 19]);
            split(&workers, [(&mut a, 3), (&mut b, 5)], |job, parts| {
                for v in parts.into_iter().flatten() {
                    *v += 1.0 + job as f32;
                }
            });
            assert_eq!(a, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0]);
            assert_eq!(b, [[1.0; 5], [2.0; 5], [3.0; 5], [4.0; 5]].concat()[..19]);
            split::<f32, 1>(&workers, [(&mut [], 0)], |_, _| panic!("an empty output has no job"));
        }
    }

    #[test]
    fn ranges_are_cut_to_a_window() {
        let ranges = [0..10, 20..30, 40..50];
        let cut = |window| within(&ranges, window).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(cut(5..45), [(5, 10), (20, 30), (40, 45)]);
        assert_eq!(cut(10..20), []);
        assert_eq!(cut(22..24), [(22, 24)]);
        assert_eq!(cut(50..99), []);
    }
}
