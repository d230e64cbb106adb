//! Geometry of kernels: what a call's operands are shaped like.

/// Geometry of a convolution: `x [n, h, w, ci]`, weight `[co, k, k, ci]`, `y [n, out_h, out_w, co]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub ci: usize,
    pub co: usize,
    pub k: usize,
    pub stride: usize,
    pub pad: usize,
}

impl ConvShape {
    pub fn out_h(&self) -> usize {
        (self.h + 2 * self.pad - self.k) / self.stride + 1
    }
    pub fn out_w(&self) -> usize {
        (self.w + 2 * self.pad - self.k) / self.stride + 1
    }
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.ci
    }
    pub fn y_len(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.co
    }
    pub fn weight_len(&self) -> usize {
        self.co * self.k * self.k * self.ci
    }
    /// Multiply-adds counted as two, for the whole batch; the same for forward and for either backward.
    pub fn flops(&self) -> u64 {
        2 * (self.y_len() * self.k * self.k * self.ci) as u64
    }
}

/// Geometry of a linear layer: `x [n, inputs]`, weight `[outputs, inputs]`, bias `[outputs]`, `y [n, outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearShape {
    pub n: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// Geometry of a pooling window: `x [n, h, w, c]`, `y [n, out_h, out_w, c]`. Windows that reach into the padding are
/// clipped to the image; the last partial window of a padded row or column is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub window_h: usize,
    pub window_w: usize,
    pub stride: usize,
    /// Pixels on each side, at most half a window: no window lies in the padding alone.
    pub pad: usize,
}

impl PoolShape {
    pub fn out_h(&self) -> usize {
        (self.h + 2 * self.pad - self.window_h) / self.stride + 1
    }
    pub fn out_w(&self) -> usize {
        (self.w + 2 * self.pad - self.window_w) / self.stride + 1
    }
    /// Pixels of a window.
    pub fn area(&self) -> usize {
        self.window_h * self.window_w
    }
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }
    pub fn y_len(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.c
    }
}

/// Geometry of a parameter-free shortcut: `x [n, h, w, c]`, `y [n, out_h, out_w, before + c + after]`. Output pixel (i, j)
/// is pixel (i stride - shift, j stride - shift) of x, zero where that lies beyond the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShortcutShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub stride: usize,
    /// Pixels that x is moved right and down before.
    pub shift: usize,
    /// Channels of zeros in front of those of x, and behind them.
    pub before: usize,
    pub after: usize,
}

impl ShortcutShape {
    pub fn out_h(&self) -> usize {
        self.h.div_ceil(self.stride)
    }
    pub fn out_w(&self) -> usize {
        self.w.div_ceil(self.stride)
    }
    pub fn out_c(&self) -> usize {
        self.before + self.c + self.after
    }
    /// Elements of one image of x.
    pub fn x_image(&self) -> usize {
        self.h * self.w * self.c
    }
    /// Elements of one image of y.
    pub fn y_image(&self) -> usize {
        self.out_h() * self.out_w() * self.out_c()
    }
    pub fn y_len(&self) -> usize {
        self.n * self.y_image()
    }
}

/// A factor for each row of `[n, len]`: 1 at probability `one`, else `base + slope u`. u and the chance are words of the first
/// block of the row's draws, which are keyed by (seed, `stream`, epoch, sample); each is uniform in [0, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowFactors {
    pub n: usize,
    pub len: usize,
    /// Position in the batch of the first row.
    pub offset: usize,
    pub stream: u32,
    /// Word that u is taken from, 0 or 1; the chance is word 2.
    pub word: usize,
    pub base: f32,
    pub slope: f32,
    pub one: f32,
}

/// Geometry of a batch-norm over `x [n, h, w, c]` and what is fused behind it.
///
/// Statistics are `[3, c]`: count, mean, M2 (sum of squared differences from the mean) with `running` false; number of
/// batches, mean, variance with `running` true. With a window the pooled values `[n, h / window, w / window, c]` are
/// written (stride = window), and the values before the pool are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NormShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// Bits of the f32 epsilon, so that the shape can be compared and hashed.
    pub eps_bits: u32,
    pub running: bool,
    pub relu: bool,
    /// Side of the max-pool window behind the ReLU; 1 is none.
    pub window: usize,
}

impl NormShape {
    pub fn eps(&self) -> f32 {
        f32::from_bits(self.eps_bits)
    }
    /// Elements of one image of x.
    pub fn x_image(&self) -> usize {
        self.h * self.w * self.c
    }
    /// Elements of one image of y.
    pub fn y_image(&self) -> usize {
        (self.h / self.window) * (self.w / self.window) * self.c
    }
    pub fn x_len(&self) -> usize {
        self.n * self.x_image()
    }
    pub fn y_len(&self) -> usize {
        self.n * self.y_image()
    }
}
