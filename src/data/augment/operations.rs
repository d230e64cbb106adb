//! AutoAugment's operations on images `[c, h, w]` of bytes, equal to Pillow's byte for byte.
//!
//! Levels are the strengths of the authors' code for CIFAR: shears of 0.03 a level, translations of one pixel, rotations of
//! 3 degrees, thresholds 256 - 25.6 a level, 4 - 0.4 bits, factors 0.1 + 0.18, squares of two pixels, with whole numbers
//! rounded down. Geometry takes the nearest pixel; pixels from outside of the image have the fill colour.

/// Operation on an image, with levels 0 to 9; the first five go either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    AutoContrast,
    Invert,
    Equalize,
    Solarize,
    Posterize,
    Contrast,
    Color,
    Brightness,
    Sharpness,
    Cutout,
}

impl Operation {
    pub const ALL: [Operation; 15] = [
        Operation::ShearX,
        Operation::ShearY,
        Operation::TranslateX,
        Operation::TranslateY,
        Operation::Rotate,
        Operation::AutoContrast,
        Operation::Invert,
        Operation::Equalize,
        Operation::Solarize,
        Operation::Posterize,
        Operation::Contrast,
        Operation::Color,
        Operation::Brightness,
        Operation::Sharpness,
        Operation::Cutout,
    ];
    /// Names as in the paper, in the order of `ALL`.
    pub const NAMES: [&'static str; 15] = [
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Rotate",
        "AutoContrast",
        "Invert",
        "Equalize",
        "Solarize",
        "Posterize",
        "Contrast",
        "Color",
        "Brightness",
        "Sharpness",
        "Cutout",
    ];
}

/// Application of an operation to one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strength {
    /// 0 to 9.
    pub level: u32,
    /// True if a shear, translation or rotation goes the other way.
    pub negative: bool,
    /// Row and column of the pixel around which cutout's square lies.
    pub centre: [usize; 2],
}

/// Images of one shape, and the memory in which they are worked on.
pub struct Canvas {
    c: usize,
    h: usize,
    w: usize,
    /// Fill value of each channel.
    fill: [u8; 4],
    /// The image before the operation. Each plane has one byte more, the fill colour.
    before: Vec<u8>,
    /// Source of each pixel in a plane of `before`.
    places: Vec<u32>,
}

impl Canvas {
    /// # Panics
    /// If `c` is neither 1 nor 3.
    pub fn new(c: usize, h: usize, w: usize, fill: [u8; 4]) -> Canvas {
        assert!(c == 1 || c == 3, "an image of {c} channels has no colours that Pillow knows");
        Canvas { c, h, w, fill, before: vec![0; c * (h * w + 1)], places: vec![0; h * w] }
    }

    /// Applies one operation to `image` `[c, h, w]`.
    pub fn apply(&mut self, operation: Operation, strength: &Strength, image: &mut [u8]) {
        let level = strength.level;
        let towards = |value: f64| if strength.negative { -value } else { value };
        let pixels = towards(f64::from(level));
        let shear = towards(f64::from(level) * 0.3 / 10.0);
        match operation {
            Operation::ShearX => self.transform([1.0, shear, 0.0, 0.0, 1.0, 0.0], image),
            Operation::ShearY => self.transform([1.0, 0.0, 0.0, shear, 1.0, 0.0], image),
            Operation::TranslateX => self.transform([1.0, 0.0, pixels, 0.0, 1.0, 0.0], image),
            Operation::TranslateY => self.transform([1.0, 0.0, 0.0, 0.0, 1.0, pixels], image),
            Operation::Rotate => self.rotate(towards(f64::from(3 * level)), image),
            Operation::AutoContrast => self.each_plane(image, auto_contrast),
            Operation::Equalize => self.each_plane(image, equalize),
            Operation::Invert => look_up(image, &table(|v| 255 - v)),
            Operation::Solarize => {
                let threshold = 256 - level * 256 / 10;
                look_up(image, &table(|v| if u32::from(v) < threshold { v } else { 255 - v }));
            }
            Operation::Posterize => {
                let bits = 4 - level * 4 / 10;
                look_up(image, &table(|v| v & !((1u16 << (8 - bits)) - 1) as u8));
            }
            Operation::Brightness => look_up(image, &table(|v| blend(0, v, factor(level)))),
            Operation::Contrast => {
                let grey = self.mean_grey(image);
                look_up(image, &table(|v| blend(grey, v, factor(level))));
            }
            Operation::Color => self.color(factor(level), image),
            Operation::Sharpness => self.sharpness(factor(level), image),
            Operation::Cutout => self.cutout(2 * level as usize, strength.centre, image),
        }
    }

    fn planes<'a>(&self, image: &'a mut [u8]) -> std::slice::ChunksExactMut<'a, u8> {
        image.chunks_exact_mut(self.h * self.w)
    }

    fn each_plane(&self, image: &mut [u8], map: fn(&[u32; 256]) -> [u8; 256]) {
        for plane in self.planes(image) {
            look_up(plane, &map(&histogram(plane)));
        }
    }

    /// Rotates counter-clockwise by `degrees` around the centre.
    fn rotate(&mut self, degrees: f64, image: &mut [u8]) {
        let angle = -degrees.to_radians();
        let (sin, cos) = angle.sin_cos();
        let (x, y) = (self.w as f64 / 2.0, self.h as f64 / 2.0);
        let (from_x, from_y) = (x - cos * x - sin * y, y + sin * x - cos * y);
        self.transform([cos, sin, from_x, -sin, cos, from_y], image);
    }

    /// Shows at column x and row y the pixel at column a0 x + a1 y + a2 and row a3 x + a4 y + a5, both of pixels' centres, in
    /// steps of 2^-16 pixels.
    fn transform(&mut self, a: [f64; 6], image: &mut [u8]) {
        if [a[0], a[1], a[2], a[3], a[4], a[5]] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0] {
            return;
        }
        let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i32;
        let (right, down) = ([fixed(a[0]), fixed(a[3])], [fixed(a[1]), fixed(a[4])]);
        let mut first = [fixed(a[2] + a[0] * 0.5 + a[1] * 0.5), fixed(a[5] + a[3] * 0.5 + a[4] * 0.5)];
        let (w, h) = (self.w as i32, self.h as i32);
        let outside = (self.h * self.w) as u32;
        for row in self.places.chunks_exact_mut(self.w) {
            let [mut x, mut y] = first;
            for place in row {
                let (column, line) = (x >> 16, y >> 16);
                let inside = (0..w).contains(&column) & (0..h).contains(&line);
                *place = if inside { (line * w + column) as u32 } else { outside };
                (x, y) = (x + right[0], y + right[1]);
            }
            first = [first[0] + down[0], first[1] + down[1]];
        }
        self.remember(image);
        let plane = self.h * self.w;
        for (to, from) in image.chunks_exact_mut(plane).zip(self.before.chunks_exact(plane + 1)) {
            to.iter_mut().zip(&self.places).for_each(|(to, place)| *to = from[*place as usize]);
        }
    }

    /// Copies the image to `before`.
    fn remember(&mut self, image: &[u8]) {
        let plane = self.h * self.w;
        for ((to, from), fill) in self.before.chunks_exact_mut(plane + 1).zip(image.chunks_exact(plane)).zip(&self.fill)
        {
            to[..plane].copy_from_slice(from);
            to[plane] = *fill;
        }
    }

    /// The mean brightness of the image, rounded.
    fn mean_grey(&self, image: &[u8]) -> u8 {
        let plane = self.h * self.w;
        let sum: u32 = match image.split_at_checked(plane) {
            Some((red, rest)) if self.c == 3 => {
                let (green, blue) = rest.split_at(plane);
                red.iter().zip(green).zip(blue).map(|((r, g), b)| u32::from(grey(*r, *g, *b))).sum()
            }
            _ => image.iter().map(|v| u32::from(*v)).sum(),
        };
        (f64::from(sum) / plane as f64 + 0.5) as u8
    }

    /// Towards or away from each pixel's own grey; an image of one channel is grey already.
    fn color(&self, factor: f32, image: &mut [u8]) {
        if self.c != 3 {
            return;
        }
        let (red, rest) = image.split_at_mut(self.h * self.w);
        let (green, blue) = rest.split_at_mut(self.h * self.w);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let grey = grey(*r, *g, *b);
            (*r, *g, *b) = (blend(grey, *r, factor), blend(grey, *g, factor), blend(grey, *b, factor));
        }
    }

    /// Towards or away from the mean of the nine pixels around each, which counts five times itself; borders stay.
    fn sharpness(&mut self, factor: f32, image: &mut [u8]) {
        let (h, w) = (self.h, self.w);
        if h < 3 || w < 3 {
            return;
        }
        self.remember(image);
        for (to, from) in image.chunks_exact_mut(h * w).zip(self.before.chunks_exact(h * w + 1)) {
            for y in 1..h - 1 {
                let [above, at, below] = [y - 1, y, y + 1].map(|line| &from[line * w..][..w]);
                let three = |row: &[u8], x: usize| u16::from(row[x]) + u16::from(row[x + 1]) + u16::from(row[x + 2]);
                for (x, to) in to[y * w + 1..][..w - 2].iter_mut().enumerate() {
                    let sum = three(above, x) + three(at, x) + three(below, x) + 4 * u16::from(at[x + 1]);
                    // A thirteenth, rounded: no half can come out.
                    *to = blend(((sum + 6) / 13) as u8, at[x + 1], factor);
                }
            }
        }
    }

    /// Fills a square of side `size`, less what lies beyond the borders.
    fn cutout(&self, size: usize, centre: [usize; 2], image: &mut [u8]) {
        let span = |at: usize, len: usize| at.saturating_sub(size / 2)..(at + size / 2).min(len);
        let (rows, columns) = (span(centre[0], self.h), span(centre[1], self.w));
        for (plane, fill) in self.planes(image).zip(&self.fill) {
            for row in plane.chunks_exact_mut(self.w).skip(rows.start).take(rows.len()) {
                row[columns.clone()].fill(*fill);
            }
        }
    }
}

/// Returns the factor of colour, contrast, brightness and sharpness.
fn factor(level: u32) -> f32 {
    (f64::from(level) * 1.8 / 10.0 + 0.1) as f32
}

/// `from` moved towards `to` by `factor`, beyond it above 1; cut off below and to a byte.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// Brightness by ITU-R 601-2, in steps of 2^-16.
fn grey(r: u8, g: u8, b: u8) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

fn table(value: impl Fn(u8) -> u8) -> [u8; 256] {
    std::array::from_fn(|v| value(v as u8))
}

fn look_up(plane: &mut [u8], table: &[u8; 256]) {
    plane.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// Counts how often each value occurs.
fn histogram(plane: &[u8]) -> [u32; 256] {
    // Equal neighbours would wait for each other's count.
    let mut counts = [[0u32; 256]; 2];
    for pair in plane.chunks(2) {
        for (value, counts) in pair.iter().zip(&mut counts) {
            counts[usize::from(*value)] += 1;
        }
    }
    let [mut all, other] = counts;
    all.iter_mut().zip(other).for_each(|(a, b)| *a += b);
    all
}

/// The darkest value becomes 0, the lightest 255.
fn auto_contrast(counts: &[u32; 256]) -> [u8; 256] {
    let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
    let high = counts.iter().rposition(|n| *n > 0).unwrap_or(0);
    if high <= low {
        return table(|v| v);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    table(|v| (f64::from(v) * scale + offset) as u8)
}

/// Values so that each part of the scale is about equally frequent.
fn equalize(counts: &[u32; 256]) -> [u8; 256] {
    let total: u32 = counts.iter().sum();
    let last = counts.iter().rfind(|n| **n > 0).copied().unwrap_or(0);
    let step = (total - last) / 255;
    if step == 0 {
        return table(|v| v);
    }
    let mut below = step / 2;
    let mut map = [0; 256];
    for (to, n) in map.iter_mut().zip(counts) {
        *to = (below / step).min(255) as u8;
        below += n;
    }
    map
}
