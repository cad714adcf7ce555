// The part of the CPU emulator that C++ and Rust share; src/device/host mirrors it.
#pragma once

#include <stdint.h>

// No symbol of this file leaves the library that a kernel is linked into: a process may hold several.
#pragma GCC visibility push(hidden)
extern "C" {

struct RetromaeDim3 {
    uint32_t x, y, z;
};

struct RetromaeWarpCall;

// The scheduler's functions. They are Rust's and reached by address, as a symbol of Rust's that C++ could
// name would be exported from every library.
struct RetromaeScheduler {
    // Waits at a barrier of the block. Returns whether any thread of the block came with a `vote`.
    bool (*barrier)(const char* file, uint32_t line, bool vote);
    void (*warp)(const RetromaeWarpCall* call);
    // Never returns. `offset` is the byte of shared memory, `other_thread` the other party of a race, or -1;
    // the source line is `file`:`line` or, where `file` is null, that of the instruction at `address`.
    void (*fail)(uint32_t violation, const void* address, const char* file, uint32_t line, uint32_t offset,
                 int32_t other_thread);
    // The running thread accesses `bytes` bytes from byte `offset` of shared memory on; only if the context
    // says so.
    void (*shared_access)(uint32_t offset, uint32_t bytes, bool is_write, const void* return_address);
};

// State of the running thread of a block, readable by it. One for each operating-system thread; the scheduler
// rewrites it before it resumes a thread of the block.
struct RetromaeContext {
    RetromaeScheduler scheduler;
    RetromaeDim3 thread_idx, block_idx, block_dim, grid_dim;
    unsigned char* shared_memory;
    uint32_t shared_bytes;
    // Linear index of the running thread in its block.
    uint32_t thread;
    // True if the scheduler counts each access of shared memory.
    uint32_t count_conflicts;
    // Barriers passed by the block, and collectives passed by each warp: the clocks of the race detector.
    uint32_t block_epoch;
    uint32_t warp_epoch[32];
};

// The kernel table is a list that each object file extends when the program starts.
struct RetromaeHostKernel {
    const char* name;
    const char* file;
    uint32_t line;
    uint32_t params_bytes;
    uint32_t threads;
    uint32_t sanitized;
    // The launch configuration for given params: blocks of the grid in x, y and z, and bytes of dynamic
    // shared memory.
    void (*grid)(const void* params, uint64_t* blocks);
    uint64_t (*shared_bytes)(const void* params);
    void (*run)(const void* params);
    RetromaeHostKernel* next;
};

// One lane's arrival at a warp collective. `combine` runs once, when the last lane of the warp has arrived.
struct RetromaeWarpCall {
    void (*combine)(const void* const* inputs, void* const* outputs);
    const void* input;
    void* output;
    const char* file;
    uint32_t line;
};

enum RetromaeViolation : uint32_t {
    RETROMAE_RACE_READ_AFTER_WRITE,
    RETROMAE_RACE_WRITE_AFTER_WRITE,
    RETROMAE_RACE_WRITE_AFTER_READ,
    RETROMAE_READ_UNINITIALIZED,
    RETROMAE_ACCESS_COPY_IN_FLIGHT,
    RETROMAE_SHARED_MEMORY_TOO_SMALL,
    RETROMAE_COPY_QUEUE_FULL,
};

// Implemented in simt.cpp. The context has initial-exec storage, so reading threadIdx costs one load.
extern __thread RetromaeContext retromae_context __attribute__((tls_model("initial-exec")));
RetromaeContext* retromae_simt_context();
RetromaeHostKernel* retromae_host_kernels();
void retromae_host_register(RetromaeHostKernel* kernel);
void retromae_simt_begin_block();
// Asynchronous copies that the running thread has not waited for.
uint32_t retromae_simt_copies_in_flight();
// Copies zeros where `source` is null.
void retromae_simt_copy_async(void* destination, const void* source, uint32_t bytes, const char* file,
                              uint32_t line);
void retromae_simt_copy_commit();
void retromae_simt_copy_wait(uint32_t groups_left);
}
#pragma GCC visibility pop

#define RETROMAE_SCHEDULER_CALL static inline __attribute__((always_inline))

RETROMAE_SCHEDULER_CALL bool retromae_simt_barrier(const char* file, uint32_t line, bool vote) {
    return retromae_context.scheduler.barrier(file, line, vote);
}

RETROMAE_SCHEDULER_CALL void retromae_simt_warp(const RetromaeWarpCall* call) {
    retromae_context.scheduler.warp(call);
}

[[noreturn]] RETROMAE_SCHEDULER_CALL void retromae_simt_fail(uint32_t violation, const void* address,
                                                             const char* file, uint32_t line, uint32_t offset,
                                                             int32_t other_thread) {
    retromae_context.scheduler.fail(violation, address, file, line, offset, other_thread);
    __builtin_unreachable();
}

RETROMAE_SCHEDULER_CALL void retromae_simt_shared_access(uint32_t offset, uint32_t bytes, bool is_write,
                                                         const void* return_address) {
    retromae_context.scheduler.shared_access(offset, bytes, is_write, return_address);
}
