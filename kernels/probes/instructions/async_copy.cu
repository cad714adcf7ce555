// Tests of cp.async: groups of every size are waited for at every depth, and sources that do not exist.
#include "../../arch/async_copy.cuh"
#include "../../core/shared_memory.cuh"
#include "instructions.cuh"

namespace retromae {

constexpr uint32_t kCopyGroups = 8;
// 16 bytes.
constexpr uint32_t kCopyWords = 4;
// One copy by every thread.
constexpr uint32_t kRoundWords = kInstructionThreads * kCopyWords;

// Group g holds g % 3 copies of each thread: none, one, two, none, …
RETROMAE_DEVICE uint32_t group_copies(uint32_t group) {
    return group % 3;
}

constexpr uint32_t kCopies = 7;

// A thread of the other warp: its copies are seen only after the barrier.
RETROMAE_DEVICE uint32_t partner() {
    return kInstructionThreads - 1 - threadIdx.x;
}

// Copies `kCopies` rounds of input in `kCopyGroups` groups, waits until `Depth` of them are left, writes
// what has arrived to the output, and then the rest; each thread writes what its partner has copied.
template <int Depth>
RETROMAE_DEVICE void copy_rounds(const uint32_t* input, uint32_t* staging, uint32_t* output) {
    uint32_t round = 0;
    for (uint32_t group = 0; group < kCopyGroups; ++group) {
        for (uint32_t i = 0; i < group_copies(group); ++i, ++round) {
            const uint32_t place = round * kRoundWords + threadIdx.x * kCopyWords;
            copy_async_16(staging + place, input + place, true);
        }
        copy_async_commit();
    }
    uint32_t arrived = 0;
    for (uint32_t group = 0; group + Depth < kCopyGroups; ++group) arrived += group_copies(group);
    const auto write_out = [&](uint32_t first, uint32_t end) {
        for (uint32_t i = first; i < end; ++i)
            for (uint32_t word = 0; word < kCopyWords; ++word) {
                const uint32_t place = i * kRoundWords + partner() * kCopyWords + word;
                output[place] = staging[place];
            }
    };
    copy_async_wait<Depth>();
    __syncthreads();
    write_out(0, arrived);
    copy_async_wait<0>();
    __syncthreads();
    write_out(arrived, kCopies);
    // The next depth writes over the staging area.
    __syncthreads();
}

// A block copies nine stretches of its input, one a depth.
RETROMAE_KERNEL(instruction_copy_async, ProbeParams, Launch<kInstructionThreads>) {
    SharedMemory memory = SharedMemory::begin();
    constexpr uint32_t kWords = kCopies * kRoundWords;
    uint32_t* staging = memory.take<uint32_t>(kWords);
    const uint32_t* input = pointer<const uint32_t>(params.input) + blockIdx.x * 9 * kWords;
    uint32_t* output = pointer<uint32_t>(params.output) + blockIdx.x * 9 * kWords;
    copy_rounds<0>(input, staging, output);
    copy_rounds<1>(input + kWords, staging, output + kWords);
    copy_rounds<2>(input + 2 * kWords, staging, output + 2 * kWords);
    copy_rounds<3>(input + 3 * kWords, staging, output + 3 * kWords);
    copy_rounds<4>(input + 4 * kWords, staging, output + 4 * kWords);
    copy_rounds<5>(input + 5 * kWords, staging, output + 5 * kWords);
    copy_rounds<6>(input + 6 * kWords, staging, output + 6 * kWords);
    copy_rounds<7>(input + 7 * kWords, staging, output + 7 * kWords);
    copy_rounds<8>(input + 8 * kWords, staging, output + 8 * kWords);
}

// Below all memory, and aligned: a read faults.
constexpr uint64_t kNowhere = 16;

// input[thread][8]: 4 words, and whether they exist as a source; a source that does not is nowhere.
// output[thread][4]: what the partner has copied over ones.
RETROMAE_KERNEL(instruction_copy_async_zeros, ProbeParams, Launch<kInstructionThreads>) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* staging = memory.take<uint32_t>(kRoundWords);
    uint32_t* own = staging + threadIdx.x * kCopyWords;
    const uint32_t* record = pointer<const uint32_t>(params.input) + 8 * thread_index();
    for (uint32_t word = 0; word < kCopyWords; ++word) own[word] = 0xffffffffu;
    const bool exists = record[kCopyWords] != 0;
    copy_async_16(own, exists ? record : pointer<const uint32_t>(kNowhere), exists);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const uint32_t* others = staging + partner() * kCopyWords;
    for (uint32_t word = 0; word < kCopyWords; ++word)
        pointer<uint32_t>(params.output)[kCopyWords * thread_index() + word] = others[word];
}

}  // namespace retromae
