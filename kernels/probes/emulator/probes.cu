// Kernels for the emulator's own tests: a few that are right, and some that are wrong on purpose.
//
// Each wrong one has exactly one mistake, on a line that ends in "mistake"; the tests look the line up here.
#include "../../arch/async_copy.cuh"
#include "../../arch/warp_primitives.cuh"
#include "../../core/shared_memory.cuh"
#include "../../core/types.cuh"

namespace retromae {

constexpr uint32_t kProbeThreads = 64;

// Reverses a block's values through shared memory.
RETROMAE_KERNEL(probe_reverse, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    const uint32_t thread = threadIdx.x;
    values[thread] = pointer<const float>(params.input)[thread];
    __syncthreads();
    pointer<float>(params.output)[thread] = values[kProbeThreads - 1 - thread];
}

RETROMAE_KERNEL(probe_missing_barrier, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    const uint32_t thread = threadIdx.x;
    values[thread] = pointer<const float>(params.input)[thread];
    pointer<float>(params.output)[thread] = values[kProbeThreads - 1 - thread];  // mistake
}

// The same within a warp: a write after the read, which a barrier should separate.
RETROMAE_KERNEL(probe_write_after_read, ProbeParams, Launch<kProbeThreads>) {
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
RETROMAE_KERNEL(probe_async_copy, ProbeParams, Launch<kProbeThreads>) {
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

RETROMAE_KERNEL(probe_missing_wait, ProbeParams, Launch<kProbeThreads>) {
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

RETROMAE_KERNEL(probe_copies_left, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(4 * kProbeThreads);
    copy_async_16(values + 4 * threadIdx.x, pointer<const float>(params.input) + 4 * threadIdx.x, true);
    copy_async_commit();
}

RETROMAE_KERNEL(probe_write_out_of_bounds, ProbeParams, Launch<kProbeThreads>) {
    const uint32_t thread = threadIdx.x;
    const float value = pointer<const float>(params.input)[thread];
    pointer<float>(params.output)[thread + 1] = value;  // mistake
}

RETROMAE_KERNEL(probe_shared_out_of_bounds, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();
    float* values = memory.take<float>(kProbeThreads);
    values[threadIdx.x + params.count] = 1.0f;  // mistake
}

RETROMAE_KERNEL(probe_uninitialized, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();
    const float* values = memory.take<float>(kProbeThreads);
    pointer<float>(params.output)[threadIdx.x] = values[threadIdx.x];  // mistake
}

RETROMAE_KERNEL(probe_too_little_shared, ProbeParams, Launch<kProbeThreads>) {
    SharedMemory memory = SharedMemory::begin();  // mistake
    float* values = memory.take<float>(1024);
    values[threadIdx.x] = 0.0f;
}

// All lanes read a word of their warp, to which one of them then adds, after a barrier of the warp.
RETROMAE_KERNEL(probe_warp_count, ProbeParams, Launch<kProbeThreads>) {
    uint32_t* word = SharedMemory::begin().take<uint32_t>(kProbeThreads / 32) + threadIdx.x / 32;
    if (lane_index() == 5) *word = 1;
    warp_barrier();
    uint32_t sum = 0;
    for (uint32_t turn = 0; turn < 3; ++turn) {
        sum += *word;
        warp_barrier();
        if (lane_index() == turn) *word += 1;
        warp_barrier();
    }
    pointer<uint32_t>(params.output)[threadIdx.x] = sum;
}

// The same without a barrier before the addition.
RETROMAE_KERNEL(probe_warp_count_early, ProbeParams, Launch<kProbeThreads>) {
    uint32_t* word = SharedMemory::begin().take<uint32_t>(kProbeThreads / 32) + threadIdx.x / 32;
    if (lane_index() == 5) *word = 1;
    warp_barrier();
    const uint32_t read = *word;
    if (lane_index() == 7) *word += 1;  // mistake
    warp_barrier();
    pointer<uint32_t>(params.output)[threadIdx.x] = read + *word;
}

RETROMAE_KERNEL(probe_divergent_barrier, ProbeParams, Launch<kProbeThreads>) {
    const uint32_t thread = threadIdx.x;
    if (thread >= 40) return;
    __syncthreads();  // mistake
    pointer<float>(params.output)[thread] = 1.0f;
}

RETROMAE_KERNEL(probe_two_barriers, ProbeParams, Launch<kProbeThreads>) {
    const uint32_t thread = threadIdx.x;
    if (thread < 32) {
        __syncthreads();  // mistake
    } else {
        __syncthreads();
    }
    pointer<float>(params.output)[thread] = 1.0f;
}

RETROMAE_KERNEL(probe_divergent_collective, ProbeParams, Launch<kProbeThreads>) {
    const uint32_t thread = threadIdx.x;
    if (thread % 32 >= 8) return;
    pointer<uint32_t>(params.output)[thread] = warp_ballot(true);  // mistake
}

RETROMAE_KERNEL(probe_divide_by_zero, ProbeParams, Launch<kProbeThreads>) {
    volatile uint32_t zero = params.count;
    pointer<uint32_t>(params.output)[threadIdx.x] = threadIdx.x / zero;  // mistake
}

RETROMAE_KERNEL(probe_stack_overflow, ProbeParams, Launch<kProbeThreads>) {  // mistake
    volatile float local[64 * 1024];
    for (uint32_t i = 0; i < 64 * 1024; ++i) local[64 * 1024 - 1 - i] = 0.0f;
    pointer<float>(params.output)[threadIdx.x] = local[threadIdx.x];
}

// output[0..64]: the sum over each warp; [64..128]: the maximum over groups of 8 lanes; [128..192]: the value
// of lane 3; [192..256]: how many lanes of the warp have a positive value.
RETROMAE_KERNEL(probe_collectives, ProbeParams, Launch<kProbeThreads>) {
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

// Bank conflicts. Each warp has this many words of shared memory, lane l's at word `stride`·l; what an access
// costs is known beforehand, and the tests look its line up by what ends it.
constexpr uint32_t kBankWords = 32 * 36;

template <class T>
RETROMAE_DEVICE T* bank_probe_memory() {
    SharedMemory memory = SharedMemory::begin();
    return reinterpret_cast<T*>(memory.take<float>(kProbeThreads / 32 * kBankWords) +
                                threadIdx.x / 32 * kBankWords);
}

RETROMAE_DEVICE void bank_probe_output(const ProbeParams& params, float value) {
    pointer<float>(params.output)[blockIdx.x * kProbeThreads + threadIdx.x] = value;
}

// Packs of `Count` elements, `params.count` elements apart.
template <class T, int Count>
RETROMAE_DEVICE void bank_probe_stride(const ProbeParams& params) {
    T* place = bank_probe_memory<T>() + threadIdx.x % 32 * params.count;
    float values[Count];
    for (int i = 0; i < Count; ++i) values[i] = pointer<const float>(params.input)[threadIdx.x];
    store(place, values);  // strided write
    __syncthreads();
    load(place, values);  // strided read
    bank_probe_output(params, values[0]);
}

RETROMAE_KERNEL(probe_bank_bf16, ProbeParams, Launch<kProbeThreads>) {
    bank_probe_stride<bf16, 1>(params);
}
RETROMAE_KERNEL(probe_bank_f32, ProbeParams, Launch<kProbeThreads>) {
    bank_probe_stride<float, 1>(params);
}
RETROMAE_KERNEL(probe_bank_f32x2, ProbeParams, Launch<kProbeThreads>) {
    bank_probe_stride<float, 2>(params);
}
RETROMAE_KERNEL(probe_bank_f32x4, ProbeParams, Launch<kProbeThreads>) {
    bank_probe_stride<float, 4>(params);
}
RETROMAE_KERNEL(probe_bank_f32x8, ProbeParams, Launch<kProbeThreads>) {
    bank_probe_stride<float, 8>(params);
}

// `params.count` is 32, which the compiler must not know.
RETROMAE_KERNEL(probe_bank_reads, ProbeParams, Launch<kProbeThreads>) {
    float* words = bank_probe_memory<float>();
    const uint32_t lane = threadIdx.x % 32, stride = static_cast<uint32_t>(params.count);
    for (uint32_t i = lane; i < kBankWords; i += 32) words[i] = 1.0f;  // write of all
    __syncthreads();
    float sum = words[stride];                           // broadcast
    if (lane % 2 == 0) sum += words[stride * lane + 1];  // half of the lanes
    if (lane < 8) {
        float values[4];
        load(words + 4 * lane, values);  // a quarter-warp
        sum += values[0];
    }
    for (uint32_t step = 1; step <= stride; step *= 2) sum += words[step * lane];     // loop
    for (uint32_t i = 0; i <= lane / 16; ++i) sum += words[(stride + i) * lane + 3];  // ragged loop
    bank_probe_output(params, sum);
}

// Even and odd lanes in turn, with a barrier of the block (`params.count` = 1) or of the warp between them.
RETROMAE_KERNEL(probe_bank_turns, ProbeParams, Launch<kProbeThreads>) {
    float* words = bank_probe_memory<float>();
    const uint32_t lane = threadIdx.x % 32;
    words[32 * lane] = 1.0f;  // write
    float sum = 0.0f;
    for (uint32_t turn = 0; turn < 4; ++turn) {
        if (turn % 2 == lane % 2) sum += words[32 * lane];  // turns
        if (params.count == 1) {
            __syncthreads();
        } else {
            warp_barrier();
        }
    }
    bank_probe_output(params, sum);
}

RETROMAE_KERNEL(probe_bank_copies, ProbeParams, Launch<kProbeThreads>) {
    float* place = bank_probe_memory<float>() + threadIdx.x % 32 * params.count;
    copy_async_16(place, pointer<const float>(params.input) + 4 * threadIdx.x, true);  // copy
    copy_async_commit();
    copy_async_wait<0>();
    bank_probe_output(params, *place);  // read of the copy
}

}  // namespace retromae
