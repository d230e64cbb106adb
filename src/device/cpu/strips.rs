//! Channels cut into strips of constant width, so that what is kept for each channel stays in vector registers.

/// Widths of strips, in descending order.
const WIDTHS: [usize; 5] = [64, 32, 16, 4, 1];

/// First channel and width of each strip of `0..c`: 64, 32, 16, 4 or 1 channels.
pub fn strips(c: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let width = WIDTHS.into_iter().find(|width| *width <= c - first)?;
        first += width;
        Some((first - width, width))
    })
}

/// `W` elements from `first` on.
#[inline(always)]
pub fn lanes<const W: usize, T>(from: &[T], first: usize) -> &[T; W] {
    from[first..first + W].first_chunk().expect("a slice of W elements")
}

/// `W` elements from `first` on, to be written.
#[inline(always)]
pub fn lanes_mut<const W: usize, T>(from: &mut [T], first: usize) -> &mut [T; W] {
    from[first..first + W].first_chunk_mut().expect("a slice of W elements")
}

/// Returns how many elements ahead a loop over pixels of `c` channels should [`prefetch`]: 4 KB of its input. With that a core
/// reads up to twice as fast from memory as with the CPU's own prefetching.
#[inline(always)]
pub fn ahead<const W: usize, T>(c: usize) -> usize {
    4096 / size_of::<T>() / W * c
}

/// Asks for the `W` elements that lie `ahead` of `strip`, so that they are in cache when a loop over pixels reaches them.
#[inline(always)]
pub fn prefetch<const W: usize, T>(strip: &[T; W], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    for k in (0..W).step_by(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: an address that is only asked for need not be valid.
        unsafe { _mm_prefetch(strip.as_ptr().wrapping_add(k + ahead).cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (strip, ahead);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_follow_one_another_and_cover_all_channels() {
        for c in [0, 1, 3, 10, 16, 33, 64, 70, 160, 255] {
            let mut end = 0;
            for (first, width) in strips(c) {
                assert_eq!(first, end);
                end += width;
            }
            assert_eq!(end, c);
        }
        assert_eq!(strips(160).collect::<Vec<_>>(), [(0, 64), (64, 64), (128, 32)]);
    }
}
