// Kernels for the host device's own tests: a few that are right, and some that are wrong on purpose.
//
// Each wrong one has exactly one mistake, on a line that ends in "mistake"; the tests look the line up here.
#include "../arch/async_copy.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kProbeThreads = 64;

// Reverses a block's values through shared memory.
RETROMAE_KERNEL(probe_reverse, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    const uint32_t thread = threadIdx.x;
    values[thread] = pointer<const float>(params.input)[thread];
    __syncthreads();
    pointer<float>(params.output)[thread] = values[kProbeThreads - 1 - thread];
}

RETROMAE_KERNEL(probe_missing_barrier, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    const uint32_t thread = threadIdx.x;
    values[thread] = pointer<const float>(params.input)[thread];
    pointer<float>(params.output)[thread] = values[kProbeThreads - 1 - thread];  // mistake
}

// The same within a warp: a write after the read, which a barrier should separate.
RETROMAE_KERNEL(probe_write_after_read, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    const uint32_t thread = threadIdx.x;
    values[thread] = pointer<const float>(params.input)[thread];
    __syncthreads();
    const float other = values[kProbeThreads - 1 - thread];
    values[thread] = 2.0f * other;  // mistake
    __syncthreads();
    pointer<float>(params.output)[thread] = values[thread];
}

// Copies by cp.async, reversed.
RETROMAE_KERNEL(probe_async_copy, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(4 * kProbeThreads);
    const uint32_t thread = threadIdx.x;
    copy_async_16(values + 4 * thread, pointer<const float>(params.input) + 4 * thread, true);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    for (uint32_t i = 0; i < 4; ++i)
        pointer<float>(params.output)[4 * thread + i] = values[4 * kProbeThreads - 1 - (4 * thread + i)];
}

RETROMAE_KERNEL(probe_missing_wait, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(4 * kProbeThreads);
    const uint32_t thread = threadIdx.x;
    copy_async_16(values + 4 * thread, pointer<const float>(params.input) + 4 * thread, true);
    copy_async_commit();
    __syncthreads();
    for (uint32_t i = 0; i < 4; ++i)
        pointer<float>(params.output)[4 * thread + i] =
            values[4 * kProbeThreads - 1 - (4 * thread + i)];  // mistake
    copy_async_wait<0>();
}

RETROMAE_KERNEL(probe_copies_left, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(4 * kProbeThreads);
    copy_async_16(values + 4 * threadIdx.x, pointer<const float>(params.input) + 4 * threadIdx.x, true);
    copy_async_commit();
}

RETROMAE_KERNEL(probe_write_out_of_bounds, ProbeParams, kProbeThreads) {
    const uint32_t thread = threadIdx.x;
    const float value = pointer<const float>(params.input)[thread];
    pointer<float>(params.output)[thread + 1] = value;  // mistake
}

RETROMAE_KERNEL(probe_shared_out_of_bounds, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    values[threadIdx.x + params.count] = 1.0f;  // mistake
}

RETROMAE_KERNEL(probe_uninitialised, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();
    const float* values = memory.take<float>(kProbeThreads);
    pointer<float>(params.output)[threadIdx.x] = values[threadIdx.x];  // mistake
}

RETROMAE_KERNEL(probe_too_little_shared, ProbeParams, kProbeThreads) {
    SharedMemory memory = SharedMemory::begin();  // mistake
    float* values = memory.take<float>(1024);
    values[threadIdx.x] = 0.0f;
}

RETROMAE_KERNEL(probe_divergent_barrier, ProbeParams, kProbeThreads) {
    const uint32_t thread = threadIdx.x;
    if (thread >= 40) return;
    __syncthreads();  // mistake
    pointer<float>(params.output)[thread] = 1.0f;
}

RETROMAE_KERNEL(probe_two_barriers, ProbeParams, kProbeThreads) {
    const uint32_t thread = threadIdx.x;
    if (thread < 32) {
        __syncthreads();  // mistake
    } else {
        __syncthreads();
    }
    pointer<float>(params.output)[thread] = 1.0f;
}

RETROMAE_KERNEL(probe_divergent_collective, ProbeParams, kProbeThreads) {
    const uint32_t thread = threadIdx.x;
    if (thread % 32 >= 8) return;
    pointer<uint32_t>(params.output)[thread] = warp_ballot(true);  // mistake
}

RETROMAE_KERNEL(probe_divide_by_zero, ProbeParams, kProbeThreads) {
    volatile uint32_t zero = params.count;
    pointer<uint32_t>(params.output)[threadIdx.x] = threadIdx.x / zero;  // mistake
}

RETROMAE_KERNEL(probe_stack_overflow, ProbeParams, kProbeThreads) {  // mistake
    volatile float local[64 * 1024];
    for (uint32_t i = 0; i < 64 * 1024; ++i) local[64 * 1024 - 1 - i] = 0.0f;
    pointer<float>(params.output)[threadIdx.x] = local[threadIdx.x];
}

// output[0..64]: the sum over each warp; [64..128]: the maximum over groups of 8 lanes; [128..192]: the value
// of lane 3; [192..256]: how many lanes of the warp have a positive value.
RETROMAE_KERNEL(probe_collectives, ProbeParams, kProbeThreads) {
    const uint32_t thread = threadIdx.x;
    const float value = pointer<const float>(params.input)[thread];
    float* output = pointer<float>(params.output);
    float sum[1] = {value};
    warp_butterfly<Sum, 32>(sum);
    output[thread] = sum[0];
    float maximum[2] = {value, -value};
    warp_butterfly<Maximum, 8>(maximum);
    output[64 + thread] = maximum[0];
    output[128 + thread] =
        static_cast<float>(warp_shuffle(static_cast<uint32_t>(value + 100.0f), 3)) - 100.0f;
    warp_barrier();
    const uint32_t positive = warp_ballot(value > 0.0f);
    uint32_t count = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) count += positive >> lane & 1u;
    output[192 + thread] = static_cast<float>(count);
}

}  // namespace retromae
