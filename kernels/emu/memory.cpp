// Device memory. An allocation ends within 16 bytes of a page that cannot be touched, so that an access past its end faults;
// the gap, and the 512 bytes before it, hold a pattern that is looked at after every launch. Fresh memory is 0xff: NaN as f32,
// bf16 and f16, -1 as an integer. Addresses are never used again: an access after free faults too.
#include <sys/mman.h>

static byte *device_begin, *device_end, *device_next;
static std::mutex device_mutex;
static std::atomic<uint32_t> next_epoch{1};

static void reserve_device_addresses() {
    // Only addresses are taken. A limit on them (ulimit -v) may allow less.
    for (size_t bytes = (size_t)1 << 40; !device_begin && bytes >= (size_t)1 << 32; bytes /= 8) {
        void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) continue;
        device_begin = (byte *)p;
        device_end = device_begin + bytes;
        device_next = device_begin + PAGE;
    }
}

static byte *map_zeros(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : (byte *)p;
}

Allocation *Context::find(const void *p) {
    auto after = allocations.upper_bound((uintptr_t)p);
    if (after == allocations.begin()) return nullptr;
    return &(--after)->second;
}

Allocation *Context::range(const void *p, size_t bytes) {
    Allocation *a = find(p);
    bool inside = a && (byte *)p >= a->base && bytes <= a->bytes && (size_t)((byte *)p - a->base) <= a->bytes - bytes;
    return inside ? a : nullptr;
}

constexpr size_t BEFORE = 512;

static bool is_pattern(const byte *p, size_t bytes) {
    for (; bytes >= 8; p += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        if (word != ~(uint64_t)0) return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (p[i] != 0xff) return false;
    }
    return true;
}

// Says in `message` which allocation's surroundings a launch wrote, and mends them.
static bool surroundings_broken(Context *c, char *message, size_t room) {
    bool broken = false;
    for (auto &entry : c->allocations) {
        Allocation &a = entry.second;
        size_t after = a.map + a.map_bytes - (a.base + a.bytes);
        if (!is_pattern(a.base - BEFORE, BEFORE)) {
            snprintf(message, room, "wrote before the start of a device allocation of %zu bytes", a.bytes);
            memset(a.base - BEFORE, 0xff, BEFORE);
            broken = true;
        }
        if (!is_pattern(a.base + a.bytes, after)) {
            snprintf(message, room, "wrote past the end of a device allocation of %zu bytes", a.bytes);
            memset(a.base + a.bytes, 0xff, after);
            broken = true;
        }
    }
    return broken;
}

extern "C" void *emu_context_new(uint64_t limit) {
    Context *c = new Context;
    c->limit = limit;
    return c;
}

// 0 if there is no memory left.
extern "C" uint64_t emu_alloc(void *context, uint64_t bytes) {
    Context *c = (Context *)context;
    if (bytes == 0) bytes = 1;
    if (bytes > c->limit - c->used) return 0;
    // The base is aligned to 256 bytes, as on a GPU, wherever that keeps the end at the guard.
    size_t align = bytes % 256 == 0 ? 256 : 16, padded = (bytes + align - 1) & ~(align - 1);
    size_t map_bytes = (padded + BEFORE + PAGE - 1) & ~(PAGE - 1);
    std::lock_guard<std::mutex> lock(device_mutex);
    if (!device_begin) reserve_device_addresses();
    if (!device_begin || map_bytes + PAGE > (size_t)(device_end - device_next)) return 0;
    byte *map = device_next, *written = map_zeros(bytes);
    if (!written || mprotect(map, map_bytes, PROT_READ | PROT_WRITE)) return 0;
    device_next += map_bytes + PAGE;
    memset(map, 0xff, map_bytes);
    byte *base = map + map_bytes - padded;
    c->allocations[(uintptr_t)base] = Allocation{base, bytes, map, map_bytes, written, nullptr};
    c->used += bytes;
    return (uint64_t)base;
}

static void release(Allocation &a) {
    madvise(a.map, a.map_bytes, MADV_DONTNEED);
    mprotect(a.map, a.map_bytes, PROT_NONE);
    munmap(a.written, a.bytes);
    if (a.cells) munmap(a.cells, a.bytes * sizeof(Cell));
}

extern "C" int emu_free(void *context, uint64_t at) {
    Context *c = (Context *)context;
    auto found = c->allocations.find(at);
    if (found == c->allocations.end()) return 1;
    c->used -= found->second.bytes;
    release(found->second);
    c->allocations.erase(found);
    return 0;
}

extern "C" void emu_context_free(void *context) {
    Context *c = (Context *)context;
    for (auto &entry : c->allocations) release(entry.second);
    delete c;
}

extern "C" uint64_t emu_used(void *context) { return ((Context *)context)->used; }

// 1 where the range is not within one allocation.
extern "C" int emu_write(void *context, uint64_t to, const void *bytes, uint64_t count) {
    Allocation *a = ((Context *)context)->range((void *)to, count);
    if (!a) return 1;
    memcpy((void *)to, bytes, count);
    memset(a->written + ((byte *)to - a->base), 1, count);
    return 0;
}

extern "C" int emu_read(void *context, uint64_t from, void *bytes, uint64_t count) {
    if (!((Context *)context)->range((void *)from, count)) return 1;
    memcpy(bytes, (void *)from, count);
    return 0;
}

extern "C" int emu_fill(void *context, uint64_t at, int value, uint64_t count) {
    Allocation *a = ((Context *)context)->range((void *)at, count);
    if (!a) return 1;
    memset((void *)at, value, count);
    memset(a->written + ((byte *)at - a->base), 1, count);
    return 0;
}

// To the checker the range is as if it had never been written.
extern "C" int emu_forget(void *context, uint64_t at, uint64_t count) {
    Allocation *a = ((Context *)context)->range((void *)at, count);
    if (!a) return 1;
    memset(a->written + ((byte *)at - a->base), 0, count);
    return 0;
}
