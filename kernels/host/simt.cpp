// State of the CPU emulator that must be reachable from kernels at the cost of a load: the thread context,
// the queues of asynchronous copies, and, for the sanitizer, the shadow of shared memory.
#include <stdlib.h>
#include <string.h>

#include "context.h"

__thread RetromaeContext retromae_context;

namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxCopies = 256;

// A copy is performed when it is waited for, never earlier: a kernel that forgets to wait reads what was
// there before.
struct Copy {
    void* destination;
    const void* source;  // null for zeros
    uint32_t bytes;
};

struct CopyQueue {
    Copy copies[kMaxCopies];
    uint32_t count;
    // Copies that belong to a committed group, by group: the queue holds copies in order of issue.
    uint32_t group_end[kMaxCopies];
    uint32_t groups;
};

__thread CopyQueue* copy_queues = nullptr;
__thread bool copies_used = false;

RetromaeHostKernel* kernels = nullptr;

CopyQueue& copy_queue() {
    if (copy_queues == nullptr) {
        copy_queues = static_cast<CopyQueue*>(calloc(kMaxThreads, sizeof(CopyQueue)));
        if (copy_queues == nullptr) abort();
    }
    copies_used = true;
    return copy_queues[retromae_context.thread];
}

#ifdef RETROMAE_SANITIZE

// Shadow of shared memory, one entry for each 2 bytes (no kernel shares smaller values).
constexpr uint32_t kGranule = 2;

enum State : uint8_t { kUninitialized, kInitialized, kInFlight };
enum Readers : uint8_t { kNobody, kOneThread, kOneWarp, kManyWarps };

struct Access {
    uint16_t thread;
    uint32_t block_epoch;
    uint32_t warp_epoch;
};

struct Shadow {
    State state;
    Readers readers;
    Access write;
    Access read;
};

__thread Shadow* shadow = nullptr;
__thread uint32_t shadow_entries = 0;

Access now() {
    const RetromaeContext& context = retromae_context;
    return {static_cast<uint16_t>(context.thread), context.block_epoch,
            context.warp_epoch[context.thread / 32]};
}

// True if `earlier` happened before `later` by a barrier, by a collective of their warp, or by program order.
bool ordered(const Access& earlier, const Access& later) {
    return earlier.thread == later.thread || earlier.block_epoch != later.block_epoch ||
           (earlier.thread / 32 == later.thread / 32 && earlier.warp_epoch != later.warp_epoch);
}

bool reads_ordered(const Shadow& cell, const Access& later) {
    if (cell.readers == kNobody || cell.read.block_epoch != later.block_epoch) return true;
    if (cell.readers == kManyWarps) return false;
    if (cell.readers == kOneThread) return ordered(cell.read, later);
    return cell.read.thread / 32 == later.thread / 32 && cell.read.warp_epoch != later.warp_epoch;
}

void record_read(Shadow& cell, const Access& access) {
    if (reads_ordered(cell, access)) {
        // Whatever comes after this read comes after those before it, too.
        cell.readers = kOneThread;
    } else if (cell.readers == kManyWarps || cell.read.thread / 32 != access.thread / 32) {
        cell.readers = kManyWarps;
    } else {
        cell.readers = kOneWarp;
    }
    cell.read = access;
}

void check_access(const void* pointer, uint32_t bytes, bool is_write, const void* address) {
    const RetromaeContext& context = retromae_context;
    const uintptr_t offset =
        reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(context.shared_memory);
    if (offset >= context.shared_bytes || shadow == nullptr) return;
    if (context.count_conflicts)
        retromae_simt_shared_access(static_cast<uint32_t>(offset), bytes, is_write, address);
    const Access access = now();
    const uint32_t first = static_cast<uint32_t>(offset) / kGranule;
    const uint32_t last = (static_cast<uint32_t>(offset) + bytes - 1) / kGranule;
    for (uint32_t entry = first; entry <= last && entry < shadow_entries; ++entry) {
        Shadow& cell = shadow[entry];
        const uint32_t byte = entry * kGranule;
        auto fail = [&](uint32_t violation, int32_t other) {
            retromae_simt_fail(violation, address, nullptr, 0, byte, other);
        };
        if (cell.state == kInFlight) fail(RETROMAE_ACCESS_COPY_IN_FLIGHT, cell.write.thread);
        if (cell.state == kInitialized && !ordered(cell.write, access))
            fail(is_write ? RETROMAE_RACE_WRITE_AFTER_WRITE : RETROMAE_RACE_READ_AFTER_WRITE,
                 cell.write.thread);
        if (is_write) {
            if (!reads_ordered(cell, access)) fail(RETROMAE_RACE_WRITE_AFTER_READ, cell.read.thread);
            cell.state = kInitialized;
            cell.write = access;
            cell.readers = kNobody;
        } else {
            if (cell.state == kUninitialized) fail(RETROMAE_READ_UNINITIALIZED, -1);
            record_read(cell, access);
        }
    }
}

void set_state(const void* pointer, uint32_t bytes, State state) {
    const RetromaeContext& context = retromae_context;
    const uintptr_t offset =
        reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(context.shared_memory);
    if (offset >= context.shared_bytes || shadow == nullptr) return;
    for (uint32_t entry = offset / kGranule; entry <= (offset + bytes - 1) / kGranule; ++entry) {
        shadow[entry].state = state;
        shadow[entry].write = now();
        shadow[entry].readers = kNobody;
    }
}

void begin_shadow() {
    const uint32_t entries = (retromae_context.shared_bytes + kGranule - 1) / kGranule;
    if (entries > shadow_entries) {
        free(shadow);
        shadow = static_cast<Shadow*>(malloc(entries * sizeof(Shadow)));
        if (shadow == nullptr) abort();
        shadow_entries = entries;
    }
    if (entries > 0) memset(shadow, 0, entries * sizeof(Shadow));
}

#endif

void complete(const Copy& copy) {
#ifdef RETROMAE_SANITIZE
    set_state(copy.destination, copy.bytes, kInitialized);
#endif
    if (copy.source == nullptr)
        memset(copy.destination, 0, copy.bytes);
    else
        memcpy(copy.destination, copy.source, copy.bytes);
}

}  // namespace

extern "C" {

RetromaeContext* retromae_simt_context() {
    return &retromae_context;
}

RetromaeHostKernel* retromae_host_kernels() {
    return kernels;
}

void retromae_host_register(RetromaeHostKernel* kernel) {
    kernel->next = kernels;
    kernels = kernel;
}

void retromae_simt_begin_block() {
    if (copies_used) {
        for (uint32_t thread = 0; thread < kMaxThreads; ++thread) {
            copy_queues[thread].count = 0;
            copy_queues[thread].groups = 0;
        }
        copies_used = false;
    }
#ifdef RETROMAE_SANITIZE
    begin_shadow();
#endif
}

uint32_t retromae_simt_copies_in_flight() {
    return copies_used ? copy_queues[retromae_context.thread].count : 0;
}

void retromae_simt_copy_async(void* destination, const void* source, uint32_t bytes, const char* file,
                              uint32_t line) {
    CopyQueue& queue = copy_queue();
    if (queue.count == kMaxCopies) retromae_simt_fail(RETROMAE_COPY_QUEUE_FULL, nullptr, file, line, 0, -1);
#ifdef RETROMAE_SANITIZE
    check_access(destination, bytes, true, __builtin_return_address(0));
    set_state(destination, bytes, kInFlight);
#endif
    queue.copies[queue.count++] = {destination, source, bytes};
}

void retromae_simt_copy_commit() {
    CopyQueue& queue = copy_queue();
    if (queue.groups < kMaxCopies) queue.group_end[queue.groups++] = queue.count;
}

void retromae_simt_copy_wait(uint32_t groups_left) {
    CopyQueue& queue = copy_queue();
    if (queue.groups <= groups_left) return;
    const uint32_t finished_groups = queue.groups - groups_left;
    const uint32_t finished = queue.group_end[finished_groups - 1];
    for (uint32_t i = 0; i < finished; ++i) complete(queue.copies[i]);
    for (uint32_t i = finished; i < queue.count; ++i) queue.copies[i - finished] = queue.copies[i];
    for (uint32_t g = finished_groups; g < queue.groups; ++g)
        queue.group_end[g - finished_groups] = queue.group_end[g] - finished;
    queue.count -= finished;
    queue.groups -= finished_groups;
}

#ifdef RETROMAE_SANITIZE

// The sanitized build compiles kernels with -fsanitize=thread, which calls these before every memory access.
// They replace the thread sanitizer's own runtime.
#define RETROMAE_ACCESS(name, bytes, is_write)                               \
    void name(void* pointer) {                                               \
        check_access(pointer, bytes, is_write, __builtin_return_address(0)); \
    }

RETROMAE_ACCESS(__tsan_read1, 1, false)
RETROMAE_ACCESS(__tsan_read2, 2, false)
RETROMAE_ACCESS(__tsan_read4, 4, false)
RETROMAE_ACCESS(__tsan_read8, 8, false)
RETROMAE_ACCESS(__tsan_read16, 16, false)
RETROMAE_ACCESS(__tsan_unaligned_read2, 2, false)
RETROMAE_ACCESS(__tsan_unaligned_read4, 4, false)
RETROMAE_ACCESS(__tsan_unaligned_read8, 8, false)
RETROMAE_ACCESS(__tsan_unaligned_read16, 16, false)
RETROMAE_ACCESS(__tsan_write1, 1, true)
RETROMAE_ACCESS(__tsan_write2, 2, true)
RETROMAE_ACCESS(__tsan_write4, 4, true)
RETROMAE_ACCESS(__tsan_write8, 8, true)
RETROMAE_ACCESS(__tsan_write16, 16, true)
RETROMAE_ACCESS(__tsan_unaligned_write2, 2, true)
RETROMAE_ACCESS(__tsan_unaligned_write4, 4, true)
RETROMAE_ACCESS(__tsan_unaligned_write8, 8, true)
RETROMAE_ACCESS(__tsan_unaligned_write16, 16, true)

void __tsan_read_range(void* pointer, unsigned long bytes) {
    check_access(pointer, static_cast<uint32_t>(bytes), false, __builtin_return_address(0));
}
void __tsan_write_range(void* pointer, unsigned long bytes) {
    check_access(pointer, static_cast<uint32_t>(bytes), true, __builtin_return_address(0));
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

#endif
}
