//! Random numbers without state: Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
//!
//! Every draw is a function of (seed, stream, epoch, index, position). The same draws therefore come out on every device,
//! for every thread count and after every resume, and a batch split into groups draws what the whole batch would.

use rand::rand_core::TryRng;
use std::convert::Infallible;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox on one counter block.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The number of a named stream: 32-bit FNV-1a, so that adding a layer does not shift another layer's draws.
pub const fn stream(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811C_9DC5u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// The four 32-bit words at `block` of the draws of (seed, stream, epoch, index).
pub fn draw(seed: u64, stream: u32, epoch: u32, index: u32, block: u32) -> [u32; 4] {
    philox([block, index, epoch, stream], [seed as u32, (seed >> 32) as u32])
}

/// Returns the draws of the `N` blocks from `first` on, as [`draw`] has them. Works word by word on all blocks at once, so that
/// a caller compiled for wide vectors does the ten rounds in them.
#[inline(always)]
pub fn draw_blocks<const N: usize>(seed: u64, stream: u32, epoch: u32, index: u32, first: u32) -> [[u32; 4]; N] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut block: [u32; N] = std::array::from_fn(|i| first.wrapping_add(i as u32));
    let (mut second, mut third, mut fourth) = ([index; N], [epoch; N], [stream; N]);
    for _ in 0..10 {
        for i in 0..N {
            let a = u64::from(MULTIPLIERS[0]) * u64::from(block[i]);
            let b = u64::from(MULTIPLIERS[1]) * u64::from(third[i]);
            block[i] = (b >> 32) as u32 ^ second[i] ^ key[0];
            second[i] = b as u32;
            third[i] = (a >> 32) as u32 ^ fourth[i] ^ key[1];
            fourth[i] = a as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    std::array::from_fn(|i| [block[i], second[i], third[i], fourth[i]])
}

/// A word as a float in [0, 1), in steps of 2^-24.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A word as a number in `0..n` (multiply-shift; the bias is below n / 2^32).
pub fn below(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

/// The draws of one (seed, stream, epoch, index), one after the other, through `rand`'s traits.
pub struct Draws {
    seed: u64,
    stream: u32,
    epoch: u32,
    index: u32,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Draws {
    pub fn new(seed: u64, stream: u32, epoch: u32, index: u32) -> Draws {
        Draws { seed, stream, epoch, index, block: 0, words: [0; 4], used: 4 }
    }
    fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = draw(self.seed, self.stream, self.epoch, self.index, self.block);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }
    /// A standard normal number (Box-Muller, the cosine branch).
    pub fn normal(&mut self) -> f64 {
        let u = (f64::from(self.word()) + 0.5) / 4_294_967_296.0;
        let v = f64::from(self.word()) / 4_294_967_296.0;
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * f64::from(self.word()) / 4_294_967_296.0
    }
    pub fn below(&mut self, n: u32) -> u32 {
        below(self.word(), n)
    }
}

impl TryRng for Draws {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from(self.word()) | u64::from(self.word()) << 32)
    }
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for chunk in to.chunks_mut(4) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The order in which epoch `epoch` visits `n` samples: Fisher-Yates over the stream "shuffle".
pub fn permutation(seed: u64, epoch: u32, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut draws = Draws::new(seed, stream("shuffle"), epoch, 0);
    for i in (1..n).rev() {
        order.swap(i, draws.below(i as u32 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Known-answer vectors of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_matches_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
        assert_eq!(
            philox([0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344], [0xA409_3822, 0x299F_31D0]),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn blocks_drawn_together_are_those_drawn_one_by_one() {
        for first in [0, 5, u32::MAX - 7] {
            let together = draw_blocks::<16>(1 << 40 | 9, 8, 7, 6, first);
            for (i, words) in together.into_iter().enumerate() {
                assert_eq!(words, draw(1 << 40 | 9, 8, 7, 6, first.wrapping_add(i as u32)));
            }
        }
    }

    #[test]
    fn normal_draws_have_mean_zero_and_variance_one() {
        let mut draws = Draws::new(7, stream("test"), 0, 0);
        let values: Vec<f64> = (0..100_000).map(|_| draws.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }

    #[test]
    fn permutations_are_permutations_and_differ_by_epoch() {
        let (a, b) = (permutation(1, 0, 1000), permutation(1, 1, 1000));
        assert_ne!(a, b);
        for mut order in [a, b] {
            order.sort_unstable();
            assert!(order.iter().enumerate().all(|(i, v)| i == *v as usize));
        }
    }

    #[test]
    fn rand_traits_see_the_same_words() {
        let mut draws = Draws::new(3, 4, 5, 6);
        let first = draw(3, 4, 5, 6, 0);
        assert_eq!([draws.next_u32(), draws.next_u32(), draws.next_u32(), draws.next_u32()], first);
    }
}
