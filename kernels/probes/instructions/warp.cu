// Tests of the collectives of a warp and of a block.
#include "../../arch/block.cuh"
#include "../../arch/warp_primitives.cuh"
#include "../../core/shared_memory.cuh"
#include "instructions.cuh"

namespace retromae {

// output[thread][3][32]: from lane s, from lane ^ s, and from lane + s, which wraps, for every s.
RETROMAE_KERNEL(instruction_warp_shuffle, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t value = pointer<const uint32_t>(params.input)[thread_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 96 * thread_index();
    for (uint32_t s = 0; s < 32; ++s) {
        output[s] = warp_shuffle(value, s);
        output[32 + s] = warp_shuffle(value, lane ^ s);
        output[64 + s] = warp_shuffle(value, lane + s);
    }
}

// output[thread][32]: the votes on each bit of the lanes' words.
RETROMAE_KERNEL(instruction_warp_ballot, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[thread_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * thread_index();
    for (uint32_t bit = 0; bit < 32; ++bit) output[bit] = warp_ballot((word >> bit & 1u) != 0);
}

// output[thread][32]: the lanes with the same lowest bits, of each number of them from 1 to 32.
RETROMAE_KERNEL(instruction_warp_match, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[thread_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * thread_index();
    for (uint32_t bits = 1; bits <= 32; ++bits) output[bits - 1] = warp_match(word << (32 - bits));
}

// output[thread][32]: what each lane of the warp wrote to shared memory, a round for each distance.
RETROMAE_KERNEL(instruction_warp_barrier, ProbeParams, Launch<kInstructionThreads>) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* words = memory.take<uint32_t>(kInstructionThreads);
    const uint32_t thread = threadIdx.x, lane = thread % 32;
    const uint32_t value = pointer<const uint32_t>(params.input)[thread_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * thread_index();
    for (uint32_t distance = 0; distance < 32; ++distance) {
        words[thread] = value + distance;
        warp_barrier();
        output[distance] = words[thread - lane + (lane + distance) % 32];
        warp_barrier();
    }
}

// output[thread][32]: whether any thread of the block has each bit.
RETROMAE_KERNEL(instruction_block_any, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[thread_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * thread_index();
    for (uint32_t bit = 0; bit < 32; ++bit) output[bit] = block_any((word >> bit & 1u) != 0) ? 1 : 0;
}

// output[thread][4].
RETROMAE_KERNEL(instruction_quad_gather, ProbeParams, Launch<kInstructionThreads>) {
    uint32_t values[4];
    quad_gather(pointer<const uint32_t>(params.input)[thread_index()], values);
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) pointer<uint32_t>(params.output)[4 * thread_index() + i] = values[i];
}

// output[thread][2]: transposed once, and once more.
RETROMAE_KERNEL(instruction_warp_transpose_bits, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t once = warp_transpose_bits(pointer<const uint32_t>(params.input)[thread_index()]);
    uint32_t* output = pointer<uint32_t>(params.output) + 2 * thread_index();
    output[0] = once;
    output[1] = warp_transpose_bits(once);
}

// For two consecutive values.
RETROMAE_KERNEL(instruction_sum, ProbeParams, Launch<kInstructionThreads>) {
    const float* pair = pointer<const float>(params.input) + 2 * thread_index();
    pointer<float>(params.output)[thread_index()] = Sum::apply(pair[0], pair[1]);
}

RETROMAE_KERNEL(instruction_maximum, ProbeParams, Launch<kInstructionThreads>) {
    const float* pair = pointer<const float>(params.input) + 2 * thread_index();
    pointer<float>(params.output)[thread_index()] = Maximum::apply(pair[0], pair[1]);
}

// Reduces `input[3]` over groups of `Width` lanes into `output[4]`: the first value alone, then all three.
template <class Operation, int Width>
RETROMAE_DEVICE void reduce(const float* input, float* output) {
    float one[1] = {input[0]};
    float three[3] = {input[0], input[1], input[2]};
    warp_butterfly<Operation, Width>(one);
    warp_butterfly<Operation, Width>(three);
    output[0] = one[0];
    RETROMAE_UNROLL
    for (int i = 0; i < 3; ++i) output[1 + i] = three[i];
}

// output[thread][5][4]: over 2, 4, 8, 16 and 32 lanes.
template <class Operation>
RETROMAE_DEVICE void reduce_every_width(const ProbeParams& params) {
    const float* input = pointer<const float>(params.input) + 3 * thread_index();
    float* output = pointer<float>(params.output) + 20 * thread_index();
    reduce<Operation, 2>(input, output);
    reduce<Operation, 4>(input, output + 4);
    reduce<Operation, 8>(input, output + 8);
    reduce<Operation, 16>(input, output + 12);
    reduce<Operation, 32>(input, output + 16);
}

RETROMAE_KERNEL(instruction_warp_butterfly_sum, ProbeParams, Launch<kInstructionThreads>) {
    reduce_every_width<Sum>(params);
}

RETROMAE_KERNEL(instruction_warp_butterfly_maximum, ProbeParams, Launch<kInstructionThreads>) {
    reduce_every_width<Maximum>(params);
}

}  // namespace retromae
