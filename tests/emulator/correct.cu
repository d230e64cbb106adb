// Kernels without fault: they must compute what the test expects, and raise no report, in every mode.
#include "prelude.cuh"

// y[block] = sum of THREADS values, twice over the same shared memory.
extern "C" __global__ void __launch_bounds__(96) sums(const float *x, float *y) {
    float sum = block_sum<96>(x[blockIdx.x * 96 + threadIdx.x]);
    float doubled = block_sum<96>(2.0f * x[blockIdx.x * 96 + threadIdx.x]);
    if (threadIdx.x == 0) y[blockIdx.x] = sum + doubled;
}

// Through T and back: y = T(x) by vectors of 8, 4 and 1, then by pairs.
extern "C" __global__ void convert(const float *x, T *t, float *y) {
    int i = (int)threadIdx.x * 16;
    float v[8], u[4], a, b;
    load8(x + i, v);
    store8(t + i, v);
    load4(x + i + 8, u);
    store4(t + i + 8, u);
    for (int k = 12; k < 16; k++) store(t + i + k, load(x + i + k));
    load8(t + i, v);
    store8(y + i, v);
    load4(t + i + 8, u);
    unpack2<T>(pack2<T>(u[0], u[1]), a, b);
    y[i + 8] = a, y[i + 9] = b, y[i + 10] = u[2], y[i + 11] = u[3];
    for (int k = 12; k < 16; k++) store(y + i + k, load(t + i + k));
}

// c [64, 64] = a [64, k] b [64, k]^T with mma.sync: a ring of two stages of 32, rows padded by 8.
extern "C" __global__ void __launch_bounds__(128) mma_gemm(const T *a, const T *b, float *c, int k) {
    DYN_SHARED(shared);
    T(*as)[64][40] = reinterpret_cast<T(*)[64][40]>(shared), (*bs)[64][40] = as + 2;
    int thread = (int)threadIdx.x, lane = thread & 31, warp = thread >> 5, m0 = (warp & 1) * 32, n0 = (warp >> 1) * 32;
    float acc[2][4][4] = {};
    auto fetch = [&](int at, int stage) {
        for (int i = thread; i < 64 * 4; i += 128) {
            int row = i / 4, column = i % 4 * 8;
            bool inside = at + column < k;
            cp_async_16(&as[stage][row][column], inside ? a + row * k + at + column : a, inside);
            cp_async_16(&bs[stage][row][column], inside ? b + row * k + at + column : b, inside);
        }
        cp_async_commit();
    };
    fetch(0, 0);
    int stage = 0;
    for (int at = 0; at < k; at += 32, stage ^= 1) {
        if (at + 32 < k) {
            fetch(at + 32, stage ^ 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            u32 fa[2][4], fb[4][2], r[4];
            for (int i = 0; i < 2; i++) ldmatrix_x4(fa[i], &as[stage][m0 + i * 16 + (lane & 15)][kk + (lane >> 4) * 8]);
            for (int j = 0; j < 2; j++) {
                ldmatrix_x4(r, &bs[stage][n0 + j * 16 + (lane & 7) + (lane >> 4) * 8][kk + (lane >> 3 & 1) * 8]);
                fb[2 * j][0] = r[0], fb[2 * j][1] = r[1], fb[2 * j + 1][0] = r[2], fb[2 * j + 1][1] = r[3];
            }
            mma_tile<T>(acc, fa, fb);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int q = 0; q < 4; q++) {
                int row = m0 + i * 16 + lane / 4 + q / 2 * 8, column = n0 + j * 8 + lane % 4 * 2 + q % 2;
                c[row * 64 + column] = acc[i][j][q];
            }
}

// c [16, 8] = a [16, 8] b [8, 8] (b stored [k, n]) in tf32, and with ldmatrix_trans in T from b stored [k, n].
extern "C" __global__ void mma_small(const float *a, const float *b, float *c, float *d) {
    SHARED_ARRAY(T, rows, [32][8]);
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    float acc[1][1][4] = {}, acc2[1][1][4] = {};
    u32 fa[1][4] = {{to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])}};
    u32 fb[1][2] = {{to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])}};
    mma_tile_tf32(acc, fa, fb);
    // k = 16 with zeros beyond 8.
    for (int n = 0; n < 8; n++) store(&rows[lane][n], lane < 8 ? b[lane * 8 + n] : 0.0f);
    __syncwarp();
    u32 r[4];
    ldmatrix_x4_trans(r, &rows[lane][0]);
    u32 ga[1][4] = {{pack2<T>(a[g * 8 + 2 * t], a[g * 8 + 2 * t + 1]), pack2<T>(a[(g + 8) * 8 + 2 * t], a[(g + 8) * 8 + 2 * t + 1]), 0, 0}};
    u32 gb[1][2] = {{r[0], r[1]}};
    mma_tile<T>(acc2, ga, gb);
    for (int q = 0; q < 4; q++) {
        int at = (g + q / 2 * 8) * 8 + 2 * t + q % 2;
        c[at] = acc[0][0][q], d[at] = acc2[0][0][q];
    }
}

// c [64, N] = a b^T with TMA and wgmma, k in steps of 64: a producer warp, a warpgroup that multiplies, a ring of two stages.
// TA: a is stored [k, 64], else [64, k]. TB: b is stored [k, N], else [N, k].
constexpr int A_BYTES = 64 * 128, B_BYTES = ((N + 63) / 64 * 64) * 128;
extern "C" __global__ void __launch_bounds__(160)
    wgmma_gemm(const __grid_constant__ TMap a, const __grid_constant__ TMap b, float *c, int k) {
    DYN_SHARED(shared);
    SHARED_ARRAY(u64, full, [2]);
    SHARED_ARRAY(u64, empty, [2]);
    int thread = (int)threadIdx.x, steps = k / 64;
    if (thread == 0) {
        for (int s = 0; s < 2; s++) mbar_init(&full[s], 1), mbar_init(&empty[s], 4);
        mbar_fence_init();
    }
    __syncthreads();
    if (thread >= 128) {
        if (thread == 128) {
            for (int step = 0; step < steps; step++) {
                int s = step & 1;
                u8 *stage = shared + s * (A_BYTES + B_BYTES);
                mbar_wait(&empty[s], (step >> 1 & 1) ^ 1);
                mbar_expect_tx(&full[s], A_BYTES + B_BYTES);
                tma_load(stage, &a, {TA ? 0 : step * 64, TA ? step * 64 : 0}, &full[s]);
                for (int n = 0; n < N; n += 64) {
                    tma_load(stage + A_BYTES + n * 128, &b, {TB ? n : step * 64, TB ? step * 64 : n}, &full[s]);
                }
            }
        }
    } else {
        float acc[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[i] = 0.0f;
        for (int step = 0; step < steps; step++) {
            int s = step & 1;
            u8 *stage = shared + s * (A_BYTES + B_BYTES);
            u64 da = TA ? wgmma_desc_mn(stage, A_BYTES) : wgmma_desc(stage);
            u64 db = TB ? wgmma_desc_mn(stage + A_BYTES, 64 * 128) : wgmma_desc(stage + A_BYTES);
            mbar_wait(&full[s], step >> 1 & 1);
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < 4; kk++) wgmma<T, N, TA, TB>(acc, da + kk * (TA ? 128 : 2), db + kk * (TB ? 128 : 2));
            wgmma_commit();
            wgmma_wait<0>();
            if (thread % 32 == 0) mbar_arrive(&empty[s]);
        }
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            int row = thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            c[row * N + column] = acc[i];
        }
    }
}

// A box of a 4-d tensor with C = 64, written out in order.
extern "C" __global__ void box4(const __grid_constant__ TMap x, T *y, int w0, int h0, int n0) {
    DYN_SHARED(shared);
    SHARED_ARRAY(u64, full, [1]);
    if (threadIdx.x == 0) {
        mbar_init(full, 1);
        mbar_fence_init();
        mbar_expect_tx(full, 3 * 2 * 2 * 128);
        tma_load(shared, &x, {0, w0, h0, n0}, full);
    }
    __syncthreads();
    mbar_wait(full, 0);
    for (int i = (int)threadIdx.x; i < 12 * 64; i += 32) {
        int at = i * 2;
        y[i] = *reinterpret_cast<T *>(shared + (at ^ (at >> 7 & 7) << 4));
    }
}

// Plain values handed over through mbarriers and named barriers, without a barrier of the block: a ring of one slot.
extern "C" __global__ void __launch_bounds__(96) handover(float *y, int rounds) {
    SHARED_ARRAY(u64, full, [1]);
    SHARED_ARRAY(u64, empty, [1]);
    SHARED_ARRAY(float, slot, [32]);
    SHARED_ARRAY(float, sum, [64]);
    int thread = (int)threadIdx.x, lane = thread & 31;
    if (thread == 0) mbar_init(full, 32), mbar_init(empty, 2), mbar_fence_init();
    __syncthreads();
    if (thread < 32) {
        for (int r = 0; r < rounds; r++) {
            mbar_wait(empty, (r & 1) ^ 1);
            slot[lane] = (float)(r * 32 + lane);
            mbar_arrive(full);
        }
    } else {
        float s = 0.0f;
        for (int r = 0; r < rounds; r++) {
            mbar_wait(full, r & 1);
            s += slot[31 - lane];
            __syncwarp();
            if (lane == 0) mbar_arrive(empty);
        }
        sum[thread - 32] = s;
        named_sync(1, 64);
        y[thread - 32] = sum[(thread - 32) ^ 33];
    }
}

// Votes and shuffles within segments.
extern "C" __global__ void warps(int *y) {
    int lane = (int)threadIdx.x;
    int v = __shfl_xor_sync(~0u, lane, 3) + 100 * __shfl_down_sync(~0u, lane, 2, 8) + 10000 * __shfl_up_sync(~0u, lane, 1, 16);
    y[lane] = v + 1000000 * (int)__popc(__ballot_sync(~0u, lane < 7)) + (__any_sync(~0u, lane == 3) ? 100000000 : 0) +
              (__all_sync(~0u, lane < 31) ? 200000000 : 0);
}
