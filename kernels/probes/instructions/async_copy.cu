// Twins of cp.async: groups of every size are waited for at every depth, and sources that do not exist.
#include "../../arch/async_copy.cuh"
#include "../../core/shared_memory.cuh"
#include "twins.cuh"

namespace retromae {

constexpr uint32_t kTwinGroups = 8;
// 16 bytes.
constexpr uint32_t kTwinCopyWords = 4;
// One copy by every thread.
constexpr uint32_t kTwinRoundWords = kTwinThreads * kTwinCopyWords;

// Group g holds g % 3 copies of each thread: none, one, two, none, …
RETROMAE_DEVICE uint32_t twin_group_copies(uint32_t group) {
    return group % 3;
}

constexpr uint32_t kTwinCopies = 7;

// A thread of the other warp: its copies are seen only after the barrier.
RETROMAE_DEVICE uint32_t twin_partner() {
    return kTwinThreads - 1 - threadIdx.x;
}

// Copies `kTwinCopies` rounds of input in `kTwinGroups` groups, waits until `Depth` of them are left, writes
// what has arrived to the output, and then the rest; each thread writes what its partner has copied.
template <int Depth>
RETROMAE_DEVICE void twin_copy(const uint32_t* input, uint32_t* staging, uint32_t* output) {
    uint32_t round = 0;
    for (uint32_t group = 0; group < kTwinGroups; ++group) {
        for (uint32_t i = 0; i < twin_group_copies(group); ++i, ++round) {
            const uint32_t place = round * kTwinRoundWords + threadIdx.x * kTwinCopyWords;
            copy_async_16(staging + place, input + place, true);
        }
        copy_async_commit();
    }
    uint32_t arrived = 0;
    for (uint32_t group = 0; group + Depth < kTwinGroups; ++group) arrived += twin_group_copies(group);
    const auto write_out = [&](uint32_t first, uint32_t end) {
        for (uint32_t i = first; i < end; ++i)
            for (uint32_t word = 0; word < kTwinCopyWords; ++word) {
                const uint32_t place = i * kTwinRoundWords + twin_partner() * kTwinCopyWords + word;
                output[place] = staging[place];
            }
    };
    copy_async_wait<Depth>();
    __syncthreads();
    write_out(0, arrived);
    copy_async_wait<0>();
    __syncthreads();
    write_out(arrived, kTwinCopies);
    // The next depth writes over the staging area.
    __syncthreads();
}

// A block copies nine stretches of its input, one a depth.
RETROMAE_KERNEL(twin_copy_async, ProbeParams, Launch<kTwinThreads>) {
    SharedMemory memory = SharedMemory::begin();
    constexpr uint32_t kWords = kTwinCopies * kTwinRoundWords;
    uint32_t* staging = memory.take<uint32_t>(kWords);
    const uint32_t* input = pointer<const uint32_t>(params.input) + blockIdx.x * 9 * kWords;
    uint32_t* output = pointer<uint32_t>(params.output) + blockIdx.x * 9 * kWords;
    twin_copy<0>(input, staging, output);
    twin_copy<1>(input + kWords, staging, output + kWords);
    twin_copy<2>(input + 2 * kWords, staging, output + 2 * kWords);
    twin_copy<3>(input + 3 * kWords, staging, output + 3 * kWords);
    twin_copy<4>(input + 4 * kWords, staging, output + 4 * kWords);
    twin_copy<5>(input + 5 * kWords, staging, output + 5 * kWords);
    twin_copy<6>(input + 6 * kWords, staging, output + 6 * kWords);
    twin_copy<7>(input + 7 * kWords, staging, output + 7 * kWords);
    twin_copy<8>(input + 8 * kWords, staging, output + 8 * kWords);
}

// Below all memory, and aligned: a read faults.
constexpr uint64_t kTwinNowhere = 16;

// input[thread][8]: 4 words, and whether they exist as a source; a source that does not is nowhere.
// output[thread][4]: what the partner has copied over ones.
RETROMAE_KERNEL(twin_copy_async_zeros, ProbeParams, Launch<kTwinThreads>) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* staging = memory.take<uint32_t>(kTwinRoundWords);
    uint32_t* own = staging + threadIdx.x * kTwinCopyWords;
    const uint32_t* record = pointer<const uint32_t>(params.input) + 8 * twin_index();
    for (uint32_t word = 0; word < kTwinCopyWords; ++word) own[word] = 0xffffffffu;
    const bool exists = record[kTwinCopyWords] != 0;
    copy_async_16(own, exists ? record : pointer<const uint32_t>(kTwinNowhere), exists);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const uint32_t* others = staging + twin_partner() * kTwinCopyWords;
    for (uint32_t word = 0; word < kTwinCopyWords; ++word)
        pointer<uint32_t>(params.output)[kTwinCopyWords * twin_index() + word] = others[word];
}

}  // namespace retromae
