// The emulated machine, as the parts of the runtime see it. Included by the runtime alone, all of which is one translation
// unit (runtime.cpp).
#pragma once
#include "abi.h"
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string.h>
#include <string>
#include <thread>
#include <time.h>
#include <vector>

typedef unsigned char byte;

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t PAGE = 4096;
constexpr size_t STACK = 64 << 10;              // of a fiber; its lowest page is a guard
constexpr size_t STATICS = 256 << 10;           // static shared arrays of a whole module
constexpr size_t DYNAMICS = 228 << 10;          // whole pages for the 227 KiB that a block may have
constexpr size_t MAX_DYNAMIC = 227 << 10;
constexpr size_t ARENA = STATICS + DYNAMICS + PAGE;  // a guard page ends it
constexpr unsigned NOBODY = ~0u;

// ---- What the checker knows of one byte of memory (checker.cpp).
struct Access {
    uint32_t epoch, clock;
    uint16_t thread;
};
struct Cell {
    Access write, reads[2];
    bool in_flight;  // an asynchronous copy that has been issued will write it
    bool crowded;    // more threads than two have read it in this epoch
    uint32_t crowd_epoch;
};

// ---- Device memory (memory.cpp).
struct Allocation {
    byte *base;  // what the kernel sees; it ends within 16 bytes of a guard page
    size_t bytes;
    byte *map;
    size_t map_bytes;
    byte *written;  // one byte a byte: nonzero once written
    Cell *cells;    // one a byte; null until the checker asks
};
struct Context {
    std::map<uintptr_t, Allocation> allocations;
    size_t used = 0, limit = 0;
    Allocation *find(const void *p);                   // the one that begins at or below p
    Allocation *range(const void *p, size_t bytes);    // the one that holds all of it
};

// ---- Asynchronous work (async.cpp, tensor.cpp).
struct AsyncCopy {
    byte *dst;
    const byte *src;
    unsigned bytes, group;
    bool pred;
    EmuPlace at;
};
// Lives in the kernel's 8-byte mbarrier.
struct Mbar {
    uint16_t expected;
    uint16_t pending : 15, phase : 1;
    int32_t transactions;
};
struct TmaCopy {
    byte *dst;
    TMap map;  // by value: the kernel's parameter lies on the stack of a thread that may have returned
    int start[5];
    Mbar *bar;
    uint32_t clock;
    EmuPlace at;
};
struct WgmmaOp {
    EmuWgmma op;
    float *d[128];
    unsigned group;
    uint32_t clock;
    EmuPlace at;
};
struct Warpgroup {
    unsigned have, group;
    bool fenced;
    int kind;
    unsigned newest;
    EmuWgmma op;
    float *d[128];
    EmuPlace at;
    std::vector<WgmmaOp> queue;
};

// ---- Threads and blocks (scheduler.cpp).
enum State : byte { FRESH, READY, RUNNING, AT_BARRIER, IN_WARP, AT_MBAR, IN_WARPGROUP, RETURNED };
struct Fiber {
    void *sp;
    byte *stack;
    State state;
    unsigned group;  // of cp.async
    EmuPlace at;
    std::vector<AsyncCopy> copies;
};
struct Warp {
    EmuWarpFunction function;
    unsigned mask, have, exist;
    void *slots[32];
    EmuPlace at;
};
struct NamedBarrier {
    unsigned expected = 0;
    std::vector<unsigned> waiting;
};
struct MbarWaiter {
    unsigned fiber;
    Mbar *bar;
    unsigned parity;
};

// The order of threads that may run: ascending, descending, or shuffled.
enum Order { ASCENDING, DESCENDING, SHUFFLED };

extern "C" {
// The loader (library.rs) declares the same.
struct EmuLaunch {
    void (*entry)(void **);
    void **arguments;
    const char *name;
    unsigned blocks[3], threads, shared;
    unsigned order, sanitize, eager, workers;
    uint64_t seed;
    double seconds;
};
struct EmuFailure {
    int checked;  // 1: the kernel is at fault, 0: the launch
    unsigned block[3], thread;
    uint64_t offset;  // of the instruction in the module, 0 if unknown
    char module[512], message[1024];
};
}

struct Worker;
struct Launch {
    const EmuLaunch *call;
    Context *context;
    EmuFailure *failure;
    uint64_t blocks;
    uint32_t first_epoch;
    std::atomic<uint64_t> next{0};
    std::atomic<int> failed{0};
    unsigned helpers = 0;  // that are at work; guarded by the pool's mutex
    std::mutex mutex;
};

struct Worker {
    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_THREADS / 32];
    Warpgroup warpgroups[MAX_THREADS / 128];
    NamedBarrier named[16];
    unsigned ready[2 * MAX_THREADS], ready_count;
    unsigned at_barrier, threads, live, current;
    EmuPlace barrier_at;
    byte *free_stacks[MAX_THREADS];
    unsigned free_count;
    void *scheduler_sp;
    byte *stacks, *arena, *dynamics, *fault_stack;
    Launch *launch;
    uint64_t block, random;
    std::vector<TmaCopy> tma;
    std::vector<MbarWaiter> mbar_waiters;
    volatile int expired;  // the watchdog's time is over
    timer_t timer;
    pid_t timer_thread;  // 0: there is no timer
    double timer_seconds;
    uint64_t block_serial, watched;  // of the running block, and of the one that the timer met last
    unsigned firings;
    // The checker's: see checker.cpp.
    uint32_t epoch, first_epoch;
    Cell *cells;
    uint32_t *clocks;
    uint32_t tma_clock, wgmma_clock;
    std::map<Mbar *, std::pair<std::vector<uint32_t>, std::vector<uint32_t>>> mbar_clocks;
    bool ordered_by_mbar[MAX_THREADS];
    uint32_t proxy_clock[MAX_THREADS];  // plain writes up to here are visible to wgmma
    void *access_pc;  // of the last instrumented access
};

// The worker that this OS thread is, while it runs a block.
static __thread Worker *self __attribute__((tls_model("initial-exec")));

extern "C" void emu_switch(void **save, void *to);
// Writes down what went wrong in the running thread, if nothing has before.
static void record_failure(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run_next(Worker *w, void **save);
static void wait_here(Worker *w, State state, EmuPlace at);
static void make_ready(Worker *w, unsigned fiber);
static void shuffle(Worker *w, unsigned *list, unsigned count);
static void prepare_watchdog(Worker *w, double seconds);
static void prepare_signals();
static bool in_module(const void *p);

static inline bool checking(const Worker *w) { return w->launch->call->sanitize != 0; }
static inline bool same(EmuPlace a, EmuPlace b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

// ---- The checker's view of order; every call may be made whether or not it is on.
static void order_block(Worker *w);                      // a block begins
static void order_barrier(Worker *w);                    // all threads have met
static void order_threads(Worker *w, const unsigned *fibers, unsigned count);  // these have met
static void order_arrive(Worker *w, Mbar *bar);          // the running thread arrives
static void order_complete(Worker *w, Mbar *bar);        // the phase ends
static void order_wait(Worker *w, unsigned fiber, Mbar *bar);  // that thread goes on after the phase
static void order_tma(Worker *w, const TmaCopy &copy);   // TMA has written, before the barrier is told
static void order_proxy(Worker *w);                      // what the running thread wrote is visible to wgmma
static void order_wgmma(Worker *w, unsigned first, uint32_t clock);  // the warpgroup has waited for it
// Accesses that are not instrumented.
enum Kind { READ, READ_ASYNC, WRITE, ISSUE_COPY };
static void check(const void *p, size_t bytes, Kind kind, EmuPlace at);
static void check_tma_issue(Worker *w, byte *p, size_t bytes, uint32_t clock, EmuPlace at);
static void check_wgmma_read(Worker *w, byte *p, size_t bytes, uint32_t clock, EmuPlace at);
