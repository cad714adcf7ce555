// Test of atomic additions.
#include "../../arch/atomic_add.cuh"
#include "instructions.cuh"

namespace retromae {

// input[thread][2]: which sum, and what is added to it; output: the sums, zeros before.
RETROMAE_KERNEL(instruction_atomic_add, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t place = pointer<const uint32_t>(params.input)[2 * thread_index()];
    const float value = pointer<const float>(params.input)[2 * thread_index() + 1];
    atomic_add(pointer<float>(params.output) + place, value);
}

}  // namespace retromae
