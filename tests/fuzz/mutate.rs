//! Spoiled files out of sound ones. All draws are Philox's, so that a case is known by its seed, target and number.

use samcore::rng::Draws;

/// No case is longer, or the time would go into copying.
const LONGEST: usize = 1 << 18;

/// Numbers at which sizes, counts and types end.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    9,
    127,
    128,
    255,
    256,
    32_767,
    32_768,
    65_535,
    65_536,
    1 << 20,
    (1 << 24) + 1,
    1 << 29,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

/// Words that parsers of text trip over.
const WORDS: &[&str] = &[
    "-",
    "-1",
    "-0",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-999",
    "0x",
    "0x10",
    "1_0",
    "1.",
    ".5",
    "1e",
    "+1",
    "null",
    "true",
    "\"",
    "'",
    "\"\"\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\U0010FFFF",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "{}",
    "[]",
    ",",
    ",,",
    ":",
    "=",
    "==",
    "#",
    ".",
    "a.b",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    " ",
    "\0",
    "\u{7f}",
    "\u{feff}",
    "ä",
    "\u{1F600}",
    "--",
    "--lr",
    "=-1",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "\u{fffd}",
];

/// A case: one of `seeds` with one to eight changes.
pub fn mutate(draws: &mut Draws, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = any(draws, seeds).clone();
    let changes = 1 << draws.below(4);
    for _ in 0..changes {
        (*any(draws, CHANGES))(&mut bytes, draws, seeds);
        bytes.truncate(LONGEST);
    }
    bytes
}

type Change = fn(&mut Vec<u8>, &mut Draws, &[Vec<u8>]);

const CHANGES: &[Change] = &[
    |bytes, draws, _| flip_bit(bytes, draws),
    |bytes, draws, _| set_byte(bytes, draws),
    |bytes, draws, _| set_number(bytes, draws),
    |bytes, draws, _| set_number(bytes, draws),
    |bytes, draws, _| nudge_number(bytes, draws),
    write_decimal,
    write_decimal,
    truncate,
    insert_noise,
    insert_word,
    insert_word,
    remove,
    repeat,
    move_range,
    splice,
];

fn any<'a, T>(draws: &mut Draws, all: &'a [T]) -> &'a T {
    &all[draws.below(all.len() as u32) as usize]
}

/// Returns a place from 0 to `end`, often near 0, where headers are.
fn place(draws: &mut Draws, end: usize) -> usize {
    let end = if draws.below(3) == 0 { end.min(32) } else { end };
    draws.below(end as u32 + 1) as usize
}

fn range(draws: &mut Draws, len: usize) -> std::ops::Range<usize> {
    let start = place(draws, len);
    let most = if draws.below(2) == 0 { 8 } else { len };
    start..(start + draws.below(most as u32 + 1) as usize).min(len)
}

fn flip_bit(bytes: &mut [u8], draws: &mut Draws) {
    let at = place(draws, bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << draws.below(8);
    }
}

fn set_byte(bytes: &mut [u8], draws: &mut Draws) {
    let at = place(draws, bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte = if draws.below(2) == 0 { *any(draws, NUMBERS) as u8 } else { draws.below(256) as u8 };
    }
}

/// A number of 1, 2, 4 or 8 bytes in either order, over what is there.
fn set_number(bytes: &mut [u8], draws: &mut Draws) {
    let number = match draws.below(4) {
        // Lengths that nearly agree.
        0 => (bytes.len() as u64).wrapping_add(u64::from(draws.below(33))).wrapping_sub(16),
        _ => *any(draws, NUMBERS),
    };
    overwrite(bytes, draws, |_| number);
}

fn nudge_number(bytes: &mut [u8], draws: &mut Draws) {
    let by = u64::from(draws.below(9)).wrapping_sub(4);
    overwrite(bytes, draws, |before| before.wrapping_add(by));
}

fn overwrite(bytes: &mut [u8], draws: &mut Draws, new: impl Fn(u64) -> u64) {
    let width = 1 << draws.below(4);
    if bytes.len() < width {
        return;
    }
    let at = place(draws, bytes.len() - width);
    let field = &mut bytes[at..at + width];
    let mut word = [0; 8];
    if draws.below(2) == 0 {
        word[..width].copy_from_slice(field);
        field.copy_from_slice(&new(u64::from_le_bytes(word)).to_le_bytes()[..width]);
    } else {
        word[8 - width..].copy_from_slice(field);
        field.copy_from_slice(&new(u64::from_be_bytes(word)).to_be_bytes()[8 - width..]);
    }
}

/// Replaces a number that is written in digits.
fn write_decimal(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let from = place(draws, bytes.len());
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|i| from + i) else { return };
    let digits = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let new = match draws.below(3) {
        0 => any(draws, WORDS).to_string(),
        1 => draws.below(20).to_string(),
        _ => any(draws, NUMBERS).to_string(),
    };
    bytes.splice(start..start + digits, new.bytes());
}

fn truncate(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let end = place(draws, bytes.len());
    bytes.truncate(end);
}

fn insert_noise(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let noise: Vec<u8> = (0..1 + draws.below(16)).map(|_| draws.below(256) as u8).collect();
    let at = place(draws, bytes.len());
    bytes.splice(at..at, noise);
}

fn insert_word(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let at = place(draws, bytes.len());
    bytes.splice(at..at, any(draws, WORDS).bytes());
}

fn remove(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let gone = range(draws, bytes.len());
    bytes.drain(gone);
}

/// A part several times over: a hundred times as often as a thousand times as often as twice, for nesting has no other limit.
fn repeat(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let part = range(draws, bytes.len());
    let times = *any(draws, &[1, 2, 100, 10_000]);
    let times = times.min(LONGEST / part.len().max(1));
    let copies = bytes[part.clone()].repeat(times);
    bytes.splice(part.start..part.start, copies);
}

fn move_range(bytes: &mut Vec<u8>, draws: &mut Draws, _: &[Vec<u8>]) {
    let moved: Vec<u8> = { bytes.drain(range(draws, bytes.len())).collect() };
    let at = place(draws, bytes.len());
    bytes.splice(at..at, moved);
}

/// The rest from another sound file.
fn splice(bytes: &mut Vec<u8>, draws: &mut Draws, seeds: &[Vec<u8>]) {
    let other = any(draws, seeds);
    let (end, start) = (place(draws, bytes.len()), place(draws, other.len()));
    bytes.truncate(end);
    bytes.extend(&other[start..]);
}
