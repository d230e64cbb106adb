// A libcuda that runs on the CPU: the part of the driver API that is used, with every call written to $FAKE_CUDA_LOG.
// Work on a stream is queued and done at the next wait, as late as the real one may do it. $FAKE_CUDA names a fault:
// "none" no device, "old" a driver for CUDA 12.0, "small" little memory, "refused" no launch is taken, "faulty" the kernel of
// that name ends in an illegal address, which is told at the next wait and by every call after it.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

typedef int Code;
enum { OK = 0, INVALID = 1, MEMORY = 2, NO_DEVICE = 100, ILLEGAL = 700 };
typedef std::vector<std::function<void()>> Work;

static std::string fault = getenv("FAKE_CUDA") ? getenv("FAKE_CUDA") : "";
static Work queue;
static Work* capture;
static Code sticky = OK;
static std::set<void*> live;  // whatever was made and not yet destroyed

static Code log(const char* format, ...) {
    static FILE* file = fopen(getenv("FAKE_CUDA_LOG"), "w");
    va_list rest;
    va_start(rest, format);
    vfprintf(file, format, rest);
    va_end(rest);
    fputc('\n', file);
    fflush(file);
    return sticky;
}

static void work(std::function<void()> what) { (capture ? *capture : queue).push_back(what); }

static Code finish() {
    Work now;
    now.swap(queue);
    for (auto& what : now) what();
    return sticky;
}

template <class T> static T* make(T* thing) { live.insert(thing); return thing; }
static Code destroy(const char* what, void* thing) {
    log("%s%s", what, live.erase(thing) ? "" : " WHAT IS NOT THERE");
    return OK;
}

struct Kernel { std::string name; std::vector<size_t> sizes; };
static std::map<std::string, std::vector<size_t>> kernels = {
    {"scale", {8, 4, 4}}, {"first_word", {8, 128, 4}}, {"faulty", {8}}};
struct Graph { Work work; };

extern "C" {
Code cuInit(unsigned) { return fault == "none" ? NO_DEVICE : log("init"); }
Code cuDriverGetVersion(int* version) { *version = fault == "old" ? 12000 : 13000; return OK; }
Code cuDeviceGet(int* device, int ordinal) { *device = ordinal; return OK; }
Code cuDeviceGetCount(int* count) { *count = 2; return OK; }
Code cuDeviceGetName(char* name, int len, int) { snprintf(name, len, "Fake GPU"); return OK; }
Code cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 4 : attribute == 97 ? 232448 : -1;
    return OK;
}
Code cuDevicePrimaryCtxRetain(void** context, int device) { *context = make(new int); return log("retain %d", device); }
Code cuDevicePrimaryCtxRelease_v2(int device) { return log("release %d, %zu things left", device, live.size() - 1); }
Code cuCtxSetCurrent(void*) { return OK; }
Code cuStreamCreate(void** stream, unsigned flags) { *stream = make(new int); return log("stream %u", flags); }
Code cuStreamSynchronize(void*) { finish(); return log("wait"); }
Code cuStreamDestroy_v2(void* stream) { return destroy("destroy stream", stream); }
Code cuStreamBeginCapture_v2(void*, int mode) { capture = new Work; return log("capture %d", mode); }
Code cuStreamEndCapture(void*, void** graph) {
    *graph = make(new Graph{*capture});
    capture = nullptr;
    return log("end capture");
}
Code cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
    *made = make(new Graph(*(Graph*)graph));
    return log("instantiate");
}
Code cuGraphUpload(void*, void*) { return sticky; }
Code cuGraphLaunch(void* graph, void*) {
    for (auto& what : ((Graph*)graph)->work) work(what);
    return log("launch graph of %zu", ((Graph*)graph)->work.size());
}
Code cuGraphExecDestroy(void* made) { return destroy("destroy instance", made); }
Code cuGraphDestroy(void* graph) { return destroy("destroy graph", graph); }
Code cuMemGetInfo_v2(size_t* free, size_t* total) { *free = 5 << 20, *total = 8 << 20; return sticky; }
Code cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    if (fault == "small" && bytes > (5 << 20)) return MEMORY;
    *at = (uint64_t)make(aligned_alloc(256, (bytes + 255) / 256 * 256));
    return log("alloc %zu", bytes);
}
Code cuMemFree_v2(uint64_t at) { return destroy("free", (void*)at); }
Code cuMemHostAlloc(void** host, size_t bytes, unsigned) { *host = make(malloc(bytes)); return sticky; }
Code cuMemFreeHost(void* host) { live.erase(host); return OK; }
Code cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    work([=] { memcpy((void*)to, from, bytes); });
    return log("to device %zu", bytes);
}
Code cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    work([=] { memcpy(to, (void*)from, bytes); });
    return log("to host %zu", bytes);
}
Code cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void*) {
    work([=] { memset((void*)at, value, bytes); });
    return log("set %zu to %u", bytes, value);
}
Code cuEventCreate(void** event, unsigned) { *event = make(new int); return sticky; }
Code cuEventRecord(void*, void*) { return sticky; }
Code cuEventSynchronize(void*) { finish(); return log("wait for event"); }
Code cuEventDestroy_v2(void* event) { live.erase(event); return OK; }
Code cuEventElapsedTime_v2(float* ms, void*, void*) { *ms = 6; return sticky; }
Code cuModuleLoadData(void** module, const void* image) {
    if (memcmp(image, "\177ELF", 4)) return 200;
    *module = make(new int);
    return log("load");
}
Code cuModuleGetFunction(void** function, void*, const char* name) {
    if (!kernels.count(name)) return 500;
    *function = new Kernel{name, kernels[name]};
    return log("find %s", name);
}
Code cuModuleUnload(void* module) { return destroy("unload", module); }
Code cuFuncGetAttribute(int* value, int, void*) { *value = 512; return OK; }
Code cuFuncSetAttribute(void* kernel, int attribute, int value) {
    return log("attribute %d of %s is %d", attribute, ((Kernel*)kernel)->name.c_str(), value);
}
Code cuFuncGetParamInfo(void* kernel, size_t index, size_t* offset, size_t* size) {
    auto& sizes = ((Kernel*)kernel)->sizes;
    if (index >= sizes.size()) return INVALID;
    *offset = 0, *size = sizes[index];
    return OK;
}
Code cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                    unsigned shared, void*, void** args, void** extra) {
    if (fault == "refused") return 701;
    Kernel* kernel = (Kernel*)function;
    if (ty != 1 || tz != 1 || extra) return INVALID;
    std::vector<std::vector<char>> values;  // arguments are taken at the launch, as the driver does
    for (size_t i = 0; i < kernel->sizes.size(); i++) {
        if (kernel->sizes[i] == 128 && (uintptr_t)args[i] % 64) return log("A MAP THAT IS NOT ALIGNED");
        values.emplace_back((char*)args[i], (char*)args[i] + kernel->sizes[i]);
    }
    auto value = [](const std::vector<char>& bytes, auto zero) { memcpy(&zero, bytes.data(), sizeof zero); return zero; };
    if (kernel->name == "scale") {
        float* to = value(values[0], (float*)0);
        int n = value(values[1], 0);
        float factor = value(values[2], 0.0f);
        work([=] { for (int i = 0; i < n; i++) to[i] *= factor; });
    } else if (kernel->name == "first_word") {
        unsigned* to = value(values[0], (unsigned*)0);
        unsigned word = value(values[1], 0u), add = value(values[2], 0u);
        work([=] { *to = word + add; });
    } else if (fault == "faulty") {
        work([=] { sticky = ILLEGAL; });
    }
    return log("%s %ux%ux%u by %u, %u", kernel->name.c_str(), x, y, z, threads, shared);
}
Code cuTensorMapEncodeTiled(uint64_t* map, int type, unsigned rank, void*, const uint64_t* dims, const uint64_t* strides,
                            const unsigned* box, const unsigned* steps, int interleave, int swizzle, int promotion, int fill) {
    if ((uintptr_t)map % 64) return INVALID;
    *map = dims[rank - 1];
    return log("map %d: %u, %lu %lu by %u %u, stride %lu, step %u, %d %d %d %d", type, rank, dims[0], dims[1], box[0], box[1],
               strides[0], steps[rank - 1], interleave, swizzle, promotion, fill);
}
Code cuGetErrorName(Code code, const char** text) {
    *text = code == ILLEGAL ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 701 ? "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" : "CUDA_ERROR_FAKE";
    return OK;
}
Code cuGetErrorString(Code, const char** text) { *text = "in words"; return OK; }
}
