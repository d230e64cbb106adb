// The emulator's runtime: CUDA threads as fibers, device memory, asynchronous copies, tensor cores, and a checker. Compiled at run
// time into one library, which is loaded before any kernel module; never instrumented itself.
#include "machine.h"
#include "memory.cpp"
#include "switch.cpp"
#include "faults.cpp"
#include "scheduler.cpp"
#include "async.cpp"
#include "tensor.cpp"
#include "checker.cpp"

__thread EmuThread emu_thread __attribute__((tls_model("initial-exec")));

// ---- Workers: the memory that running a block takes. They are kept for the next launch, whatever thread that comes from.
static std::mutex workers_mutex;
static std::vector<Worker *> &idle_workers = *new std::vector<Worker *>;  // never destroyed: threads may outlive main

static Worker *take_worker() {
    {
        std::lock_guard<std::mutex> lock(workers_mutex);
        if (!idle_workers.empty()) {
            Worker *w = idle_workers.back();
            idle_workers.pop_back();
            return w;
        }
    }
    Worker *w = new Worker();
    w->stacks = map_zeros(MAX_THREADS * STACK);
    w->arena = map_zeros(ARENA);
    w->fault_stack = map_zeros(STACK);
    if (!w->stacks || !w->arena || !w->fault_stack) return nullptr;
    for (unsigned i = 0; i < MAX_THREADS; i++) mprotect(w->stacks + i * STACK, PAGE, PROT_NONE);
    mprotect(w->arena + ARENA - PAGE, PAGE, PROT_NONE);
    w->current = NOBODY;
    return w;
}

// Runs blocks of a launch on this OS thread until none is left.
static void work(Launch *launch) {
    Worker *w = take_worker();
    if (!w) return;
    // The handler needs a stack of its own. Rust's threads have one; others get it here, for as long as they live.
    static __thread bool has_signal_stack __attribute__((tls_model("initial-exec")));
    if (!has_signal_stack) {
        stack_t mine{}, old{};
        sigaltstack(nullptr, &old);
        if (old.ss_flags & SS_DISABLE) {
            mine.ss_sp = map_zeros(STACK);
            mine.ss_size = STACK;
            sigaltstack(&mine, nullptr);
        }
        has_signal_stack = true;
    }
    w->launch = launch;
    self = w;
    prepare_watchdog(w, launch->call->seconds);
    for (uint64_t i; !launch->failed && (i = launch->next++) < launch->blocks;) {
        // Blocks too come in another order.
        bool shuffled = launch->call->order == SHUFFLED, descending = launch->call->order == DESCENDING;
        run_block(w, descending ? launch->blocks - 1 - i : shuffled ? (i + launch->call->seed) % launch->blocks : i);
    }
    self = nullptr;
    std::lock_guard<std::mutex> lock(workers_mutex);
    idle_workers.push_back(w);
}

// ---- Helpers: OS threads that join in where a launch has work for more than one.
static struct Pool {
    std::mutex mutex;
    std::condition_variable wake, done;
    std::vector<Launch *> wanted;  // an entry for each helper that a launch could use
    unsigned threads = 0;
} &pool = *new Pool;

static void help() {
    std::unique_lock<std::mutex> lock(pool.mutex);
    for (;;) {
        while (pool.wanted.empty()) pool.wake.wait(lock);
        Launch *launch = pool.wanted.back();
        pool.wanted.pop_back();
        launch->helpers++;
        lock.unlock();
        work(launch);
        lock.lock();
        launch->helpers--;
        pool.done.notify_all();
    }
}

static void call_helpers(Launch *launch, unsigned count) {
    std::lock_guard<std::mutex> lock(pool.mutex);
    for (; pool.threads < count; pool.threads++) std::thread(help).detach();
    pool.wanted.insert(pool.wanted.end(), count, launch);
    pool.wake.notify_all();
}

static void wait_for_helpers(Launch *launch) {
    std::unique_lock<std::mutex> lock(pool.mutex);
    size_t kept = 0;
    for (Launch *wanted : pool.wanted) {
        if (wanted != launch) pool.wanted[kept++] = wanted;
    }
    pool.wanted.resize(kept);
    while (launch->helpers) pool.done.wait(lock);
}

static std::once_flag prepared;

// 0, or 1 with the failure. Memory of the context belongs to the launch until it returns.
extern "C" int emu_launch(void *context, const EmuLaunch *call, EmuFailure *failure) {
    std::call_once(prepared, prepare_signals);
    memset(failure, 0, sizeof *failure);
    auto refuse = [&](const char *why) {
        snprintf(failure->message, sizeof failure->message, "%s", why);
        return 1;
    };
    const unsigned *blocks = call->blocks;
    if (call->threads < 1 || call->threads > MAX_THREADS) return refuse("blocks have 1 to 1024 threads");
    if (!blocks[0] || !blocks[1] || !blocks[2] || blocks[0] > 0x7fffffff || blocks[1] > 65535 || blocks[2] > 65535) {
        return refuse("a grid has 1 to 2147483647 by 65535 by 65535 blocks");
    }
    if (call->shared > MAX_DYNAMIC) return refuse("a block has at most 227 KiB of dynamic shared memory");
    Launch launch;
    launch.call = call;
    launch.context = (Context *)context;
    launch.failure = failure;
    launch.blocks = (uint64_t)blocks[0] * blocks[1] * blocks[2];
    launch.first_epoch = next_epoch++;
    // The checker's memory is not shared between OS threads; and small launches end before a helper is awake.
    uint64_t workers = call->sanitize || launch.blocks * call->threads < 4096 ? 1 : call->workers;
    workers = std::min(workers, launch.blocks);
    if (workers > 1) call_helpers(&launch, workers - 1);
    work(&launch);
    if (workers > 1) wait_for_helpers(&launch);
    if (launch.failed) return 1;
    if (launch.next < launch.blocks) return refuse("no memory for the emulator's threads");
    if (surroundings_broken(launch.context, failure->message, sizeof failure->message)) {
        failure->checked = 1;
        failure->thread = NOBODY;
        return 1;
    }
    return 0;
}
