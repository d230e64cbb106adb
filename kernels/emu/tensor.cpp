// Tensor cores: ldmatrix, mma.sync and wgmma, with the layouts of the PTX documentation.
#include <cmath>

typedef uint16_t half_bits;

static float widen(EmuElement element, half_bits x) {
    uint32_t bits;
    float value;
    if (element == EMU_BF16) {
        bits = (uint32_t)x << 16;
        memcpy(&value, &bits, 4);
        return value;
    }
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = x & 0x7fff;
    bits = magnitude >= 0x7c00 ? 0x7f800000 | (magnitude & 0x3ff) << 13 : magnitude << 13;
    memcpy(&value, &bits, 4);
    if (magnitude < 0x7c00) value *= 0x1p112f;  // the bias of the exponent is 15 there, 127 here
    return sign ? -value : value;
}

// ---- ldmatrix
struct Ldmatrix {
    const void *row;
    unsigned *registers;
    EmuPlace at;
};

template <bool TRANSPOSE>
static void ldmatrix(void **slots, unsigned present) {
    if (present != ~0u) emu_fail("ldmatrix needs all 32 lanes");
    for (int matrix = 0; matrix < 4; matrix++) {
        half_bits rows[8][8];
        for (int r = 0; r < 8; r++) {
            Ldmatrix *lane = (Ldmatrix *)slots[8 * matrix + r];
            if ((uintptr_t)lane->row % 16) {
                emu_fail("ldmatrix at %s:%d: the row address of lane %d is not a multiple of 16", lane->at.file, lane->at.line,
                         8 * matrix + r);
            }
            if (!in_shared(self, (const byte *)lane->row, 16)) {
                emu_fail("ldmatrix at %s:%d: the row of lane %d is not in the block's shared memory", lane->at.file,
                         lane->at.line, 8 * matrix + r);
            }
            check(lane->row, 16, READ, lane->at);
            memcpy(rows[r], lane->row, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4 * 2;
            half_bits low = TRANSPOSE ? rows[t][g] : rows[g][t], high = TRANSPOSE ? rows[t + 1][g] : rows[g][t + 1];
            ((Ldmatrix *)slots[lane])->registers[matrix] = low | (unsigned)high << 16;
        }
    }
}
extern "C" void emu_ldmatrix(void **slots, unsigned present) { ldmatrix<false>(slots, present); }
extern "C" void emu_ldmatrix_trans(void **slots, unsigned present) { ldmatrix<true>(slots, present); }

// ---- mma.m16n8k16 (bf16, f16) and m16n8k8 (tf32), for mt x nt tiles at once.
struct Mma {
    float *c;
    const unsigned *a, *b;
    int mt, nt;
    EmuElement element;
};
constexpr int MAX_N = 256;

// c[16][n] += a[16][16] b[16][n]: products and sums in f32, in the order of k.
static void multiply(float (*c)[MAX_N], const float (*a)[16], const float (*b)[MAX_N], int rows, int n, int depth) {
    for (int r = 0; r < rows; r++) {
        for (int k = 0; k < depth; k++) {
            float x = a[r][k];
            for (int j = 0; j < n; j++) c[r][j] += x * b[k][j];
        }
    }
}

// Puts the one or two elements of a register where they belong.
static void spread(EmuElement element, unsigned word, float *low, float *high) {
    if (element == EMU_TF32) {
        memcpy(low, &word, 4);
    } else {
        *low = widen(element, (half_bits)word);
        *high = widen(element, (half_bits)(word >> 16));
    }
}

extern "C" void emu_mma(void **slots, unsigned present) {
    if (present != ~0u) emu_fail("mma needs all 32 lanes");
    const Mma first = *(Mma *)slots[0];
    const bool tf32 = first.element == EMU_TF32;
    const int n = first.nt * 8, depth = tf32 ? 8 : 16;
    alignas(64) float a[16][16], b[16][MAX_N], c[16][MAX_N];
    if (n > MAX_N) emu_fail("mma tiles of more than %d columns", MAX_N);
    for (int lane = 0; lane < 32; lane++) {
        const Mma &m = *(Mma *)slots[lane];
        int g = lane / 4, t = lane % 4;
        for (int j = 0; j < first.nt; j++) {
            for (int q = 0; q < 2; q++) {
                int k = tf32 ? t + 4 * q : 2 * t + 8 * q;
                spread(first.element, m.b[j * 2 + q], &b[k][j * 8 + g], tf32 ? nullptr : &b[k + 1][j * 8 + g]);
            }
        }
    }
    for (int i = 0; i < first.mt; i++) {
        for (int lane = 0; lane < 32; lane++) {
            const Mma &m = *(Mma *)slots[lane];
            int g = lane / 4, t = lane % 4;
            for (int q = 0; q < 4; q++) {
                float *to = &a[g + q % 2 * 8][tf32 ? t + q / 2 * 4 : 2 * t + q / 2 * 8];
                spread(first.element, m.a[i * 4 + q], to, to + 1);
            }
            for (int j = 0; j < first.nt; j++) {
                const float *from = m.c + (i * first.nt + j) * 4;
                for (int q = 0; q < 4; q++) c[g + q / 2 * 8][j * 8 + 2 * t + q % 2] = from[q];
            }
        }
        multiply(c, a, b, 16, n, depth);
        for (int lane = 0; lane < 32; lane++) {
            const Mma &m = *(Mma *)slots[lane];
            int g = lane / 4, t = lane % 4;
            for (int j = 0; j < first.nt; j++) {
                float *to = m.c + (i * first.nt + j) * 4;
                for (int q = 0; q < 4; q++) to[q] = c[g + q / 2 * 8][j * 8 + 2 * t + q % 2];
            }
        }
    }
}

// ---- wgmma
// Reads 16 of k by `count` of m or n of an operand: to[mn * mn_step + k * k_step].
static void read_operand(Worker *w, const WgmmaOp &op, uint64_t descriptor, bool transposed, int count, float *to, int mn_step,
                         int k_step) {
    if (descriptor >> 62 != 1) emu_fail("wgmma at %s:%d: the emulator knows the 128-byte swizzle alone", op.at.file, op.at.line);
    size_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
           stride = (descriptor >> 32 & 0x3fff) << 4;
    int outer = transposed ? 16 : count, inner = transposed ? count : 16;
    for (int o = 0; o < outer; o++) {
        for (int i = 0; i < inner; i += 8) {
            // Rows of 128 bytes, eight in `stride` bytes; transposed ones hold 64 of m or n, the next 64 lie `leading` on.
            size_t at = start + o / 8 * stride + o % 8 * 128 + i % 64 * 2 + (transposed ? i / 64 * leading : 0);
            at ^= (at >> 7 & 7) << 4;
            byte *p = w->dynamics + at;
            if (at + 16 > w->launch->call->shared) {
                emu_fail("wgmma at %s:%d reads at offset %zu of %u bytes of dynamic shared memory", op.at.file, op.at.line, at,
                         w->launch->call->shared);
            }
            check_wgmma_read(w, p, 16, op.clock, op.at);
            half_bits values[8];
            memcpy(values, p, 16);
            for (int e = 0; e < 8; e++) {
                int mn = transposed ? i + e : o, k = transposed ? o : i + e;
                to[mn * mn_step + k * k_step] = widen(op.op.element, values[e]);
            }
        }
    }
}

static void compute(Worker *w, const WgmmaOp &op) {
    // Not on the stack of a fiber, which is small.
    static thread_local std::vector<float> scratch;
    scratch.resize(64 * 16 + 16 * MAX_N + MAX_N);
    float(*a)[16] = (float(*)[16])scratch.data();
    float(*b)[MAX_N] = (float(*)[MAX_N])(scratch.data() + 64 * 16), (*c)[MAX_N] = b + 16;
    read_operand(w, op, op.op.a, op.op.transpose_a != 0, 64, &a[0][0], 16, 1);
    read_operand(w, op, op.op.b, op.op.transpose_b != 0, op.op.n, &b[0][0], 1, MAX_N);
    for (int row = 0; row < 64; row++) {
        float *const *d = op.d + row / 16 * 32 + row % 8 * 4;
        int half = row / 8 % 2 * 2;
        for (int j = 0; j < op.op.n; j++) c[0][j] = d[j / 2 % 4][j / 8 * 4 + half + j % 2];
        multiply(c, a + row, b, 1, op.op.n, 16);
        for (int j = 0; j < op.op.n; j++) d[j / 2 % 4][j / 8 * 4 + half + j % 2] = c[0][j];
    }
}

constexpr int MULTIPLY = -1;

static void finish(Worker *w, Warpgroup &group, int kind, unsigned newest) {
    switch (kind) {
    case EMU_WGMMA_FENCE:
        group.fenced = true;
        break;
    case EMU_WGMMA_COMMIT:
        group.group++;
        break;
    case EMU_WGMMA_WAIT: {
        size_t kept = 0;
        uint32_t clock = 0;
        for (WgmmaOp &op : group.queue) {
            if (op.group + newest < group.group) {
                if (!w->launch->call->eager) compute(w, op);
                clock = op.clock;
            } else {
                group.queue[kept++] = op;
            }
        }
        group.queue.resize(kept);
        if (kept == 0) group.fenced = false;  // registers may be touched now
        order_wgmma(w, w->current & ~127u, clock);
        break;
    }
    default: {
        WgmmaOp op{group.op, {}, group.group, ++w->wgmma_clock, group.at};
        memcpy(op.d, group.d, sizeof op.d);
        if (!group.fenced) {
            emu_fail("wgmma at %s:%d: no wgmma_fence since the registers were last free", op.at.file, op.at.line);
        }
        if (w->launch->call->eager) compute(w, op);
        group.queue.push_back(op);
    }
    }
}

// All 128 threads of a warpgroup come here for each operation; the last does it.
static void meet(int kind, unsigned newest, const EmuWgmma &op, float *d, EmuPlace at) {
    Worker *w = self;
    unsigned index = w->current / 128, first = index * 128;
    Warpgroup &group = w->warpgroups[index];
    if (first + 128 > w->threads) emu_fail("wgmma at %s:%d needs whole warpgroups of 128 threads", at.file, at.line);
    if (!group.have) {
        group.kind = kind;
        group.newest = newest;
        group.op = op;
        group.at = at;
    } else if (group.kind != kind || group.newest != newest || group.op.a != op.a || group.op.b != op.b || group.op.n != op.n) {
        emu_fail("wgmma: threads of a warpgroup differ in place or descriptors: %s:%d here, %s:%d in others", at.file, at.line,
                 group.at.file, group.at.line);
    }
    group.d[w->current % 128] = d;
    if (++group.have < 128) return wait_here(w, IN_WARPGROUP, at);
    group.have = 0;
    finish(w, group, kind, newest);
    unsigned others[128], count = 0;
    for (unsigned i = first; i < first + 128; i++) {
        if (i != w->current) others[count++] = i;
    }
    make_all_ready(w, others, count);
}

extern "C" void emu_wgmma(const EmuWgmma *op, float *d, EmuPlace at) { meet(MULTIPLY, 0, *op, d, at); }
extern "C" void emu_wgmma_control(int op, unsigned newest, EmuPlace at) { meet(op, newest, EmuWgmma{}, nullptr, at); }
extern "C" void emu_fence_proxy_async() { order_proxy(self); }
