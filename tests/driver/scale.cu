// Kernels of the driver's test: its fake library knows them by name and does the same on the CPU.
extern "C" __global__ void scale(float* x, int n, float factor) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= factor;
}

struct alignas(64) Map {
    unsigned long long words[16];
};

// A map between smaller arguments: each has to arrive at its own place.
extern "C" __global__ void first_word(unsigned* to, const __grid_constant__ Map map, unsigned add) {
    if (threadIdx.x == 0) *to = (unsigned)map.words[0] + add;
}

extern "C" __global__ void faulty(float* x) { x[threadIdx.x] = 0; }
