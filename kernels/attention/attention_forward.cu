// Masked attention over packed sentences on tensor cores, forward: O = dropout(softmax(scale · Q Kᵀ + mask))
// V, one block a (sentence, 64 queries, head).
//
// Four warps of 16 queries walk over the keys in tiles of 64, online softmax (Milakov and Gimelshein, arXiv
// 1805.02867; Dao et al., arXiv 2205.14135) in base 2: the scale times log2 e is folded into one FMA a score.
// Q stays in registers as the operand A of mma.m16n8k16; the accumulators of Q Kᵀ are, rounded, the operand A
// of P V as they are. K and V come by cp.async, one tile ahead. Rounded are the probabilities before they are
// normalized and the output; all sums are f32. Dropout takes one Philox call for 16 keys, shared by a quad;
// what stays is scaled once, at the end.
//
// Masks: each thread makes 32 bits of visibility a tile and leaves them in shared memory; a lane then reads
// two 32-bit words for each of its two rows and shifts them by 2 · (lane % 4), after which the bit of every
// score is at a place that the compiler knows: 4 loads and 4 shifts for 32 scores. A tile that no query of
// the block sees is found by the vote that is the barrier anyway, and neither loaded nor multiplied.
//
// Work, a head of L tokens: 4·L²·d FLOPs, L² exponentials; bytes: Q and O once, K and V once from HBM and L /
// 64 times from L2. At L = 128 the floor is HBM, at 512 HBM, tensor cores and exponentials alike (d = 64,
// H100).
//
// d      shared memory   registers sm_80, sm_90 (full; masked)   blocks an SM (64 K registers)
// 32     20 KB           127; 147    123; 147                    4; 3
// 64     40 KB           158; 167    155; 167                    3; 3
// 96     60 KB           196; 215    201; 216                    2; 2
// 128    80 KB           220; 243    241; 249                    2; 2
// Masked kernels have 1.5 KB more, for bits. No spills, no stack.
//
// Bank conflicts: none. An ldmatrix phase reads one chunk of 8 rows, a cp.async phase writes 8 neighboring
// chunks; the swizzle of SharedTile puts both into 8 groups of 4 banks. Bits: 8 rows are 8 neighboring
// words, which the four lanes of a quad read together.
//
// Weighed and not taken, by counting instructions and bytes, as long as there is no card to ask:
// - Bits packed beforehand in the order of the fragments, with a transposed copy and flags a tile: saves six
//   instructions a lane and tile of 32 scores, for one more kernel and, as a pool's rows are gathered by
//   query, L² instead of K · L bits. To transpose 32 × 32 bits in the backward takes five shuffles a warp and
//   tile.
// - A kernel for each kind of mask: six times the kernels, to save a uniform branch a tile.
// - Rows padded by 16 bytes instead of swizzled: ldmatrix has no conflicts either, but copies have at d = 32
//   and 96, and tiles are 6 to 25 % larger.
// - A Philox call a lane, row and group: eight a lane and tile, against two and four shuffles.
#include "fragments.cuh"

namespace retromae {

// The running softmax of a lane's two rows (Milakov and Gimelshein, arXiv 1805.02867), and its share of their
// output.
template <class T, int D>
struct RunningRows {
    float output[D / 8][4] = {};
    float maximum[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.0f, 0.0f};

    // Turns a tile of scores, -inf where hidden, into exponentials, and brings what was summed so far to the
    // new maximum.
    RETROMAE_MEMBER void exponentiate(float (&scores)[8][4], float scale) {
        float highest[2] = {maximum[0], maximum[1]};
        for_each_accumulator(scores, [&](int row, int, float x) { highest[row] = fmaxf(highest[row], x); });
        warp_butterfly<Maximum, 4>(highest);
        float correction[2], offset[2];
        RETROMAE_UNROLL
        for (int row = 0; row < 2; ++row) {
            // A row that has seen no key yet keeps a finite reference, so that -inf - -inf never happens.
            offset[row] = highest[row] == -INFINITY ? 0.0f : -highest[row] * scale;
            correction[row] = exp2_approximate(fmaf(maximum[row], scale, offset[row]));
            maximum[row] = highest[row];
            sum[row] *= correction[row];
        }
        for_each_accumulator(scores, [&](int row, int, float& x) {
            x = exp2_approximate(fmaf(x, scale, offset[row]));
            sum[row] += x;
        });
        for_each_accumulator(output, [&](int row, int, float& x) { x *= correction[row]; });
    }

    // Adds the 64 rows of values from `row` on, weighted by their keys' exponentials.
    RETROMAE_MEMBER void add(const float (&exponentials)[8][4], const SharedTile<T, D>& values,
                             uint32_t row) {
        RETROMAE_UNROLL
        for (int step = 0; step < kKeyTile / 16; ++step) {
            uint32_t probabilities[4];
            accumulators_as_a<T>(exponentials, step, probabilities);
            multiply_rows(output, probabilities, values, row + 16 * step, 0);
        }
    }

    // Writes the log-sum-exp of the lane's rows and, by way of the warp's own rows of `tile`, which nobody
    // else reads, their output.
    RETROMAE_MEMBER void write(const AttentionForwardParams& params, const Sentence& sentence, uint32_t head,
                               const QueryRows& own, const SharedTile<T, D>& tile, uint32_t tile_start) {
        warp_butterfly<Sum, 4>(sum);
        float factors[2];
        RETROMAE_UNROLL
        for (int row = 0; row < 2; ++row) {
            // A row that sees nothing: output 0, log-sum-exp -inf.
            factors[row] = sum[row] == 0.0f ? 0.0f : params.dropout.scale / sum[row];
            const uint32_t query = own.query + 8 * row;
            if (threadIdx.x % 4 == 0 && query < sentence.queries)
                pointer<float>(params.log_sum_exp)[sentence.head_queries(params, head) + query] =
                    maximum[row] * params.scale + logf(sum[row]);
        }
        warp_barrier();
        tile.store(own.row, 0, output, factors);
        warp_barrier();
        tile.template write_rows<D / 8>(
            own.row, 0,
            sentence.query_rows<T>(params.output, params.output_stride, head * D, tile_start + own.row),
            params.output_stride, own.left);
    }
};

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_forward(const AttentionForwardParams& params) {
    const SentenceTile block =
        SentenceTile::locate<kTileRows>(params.query_cu_seqlens, params.queries, params);
    const Sentence sentence = Sentence::at(params, block.sentence);
    if (block.start >= sentence.queries) return;
    const uint32_t head = block_head(params);
    if (!sentence.exists) return write_absent<T, D>(params, sentence, head, block.start, kTileRows);
    SharedMemory memory = SharedMemory::begin();
    const auto stream = KeyStream<T, D, Mask>::begin(memory, params, sentence, head, block.start);
    // The output's at the end.
    const SharedTile<T, D> queries = {memory.take<T>(kTileRows * D)};
    queries.template copy_rows<kTileRows, kAttentionThreads>(
        sentence.query_rows<const T>(params.query, params.query_stride, head * D), params.query_stride,
        block.start, sentence.queries);

    const QueryRows own = QueryRows::of(params, sentence, block.start);
    const float scale = base2_scale(params);
    uint32_t query_fragments[D / 16][4];
    RunningRows<T, D> rows;
    stream.for_each_tile([&](StreamedTile tile) {
        if (own.left == 0) return;
        if (tile.iteration == 0) {
            RETROMAE_UNROLL
            for (int step = 0; step < D / 16; ++step) queries.load_a(own.row, step, query_fragments[step]);
        }
        float scores[8][4] = {};
        RETROMAE_UNROLL
        for (int step = 0; step < D / 16; ++step) {
            uint32_t keys[4][4];
            stream.keys.template load_b_transposed<4>(tile.row(), step, keys);
            mma<T, 4>(scores, query_fragments[step], keys);
        }
        stream.hide(tile, own.row, -INFINITY, scores);
        rows.exponentiate(scores, scale);
        // Kept weights are scaled at the end.
        if (params.dropout.threshold != 0)
            select(kept_keys(params.dropout, head, own.tokens, tile.key), 0.0f, scores);
        rows.add(scores, stream.values, tile.row());
    });
    if (own.left > 0) rows.write(params, sentence, head, own, queries, block.start);
}

// One block per tile of queries and head.
template <class T, int D, class Mask>
struct AttentionForwardLaunch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionForwardParams& params) {
        return tiles_grid(params, params.queries, kTileRows);
    }
    static uint64_t shared_bytes(const AttentionForwardParams& params) {
        return bytes_with_mask<Mask>(params, KeyStream<T, D, Mask>::kBytes + taken_bytes<T>(kTileRows * D));
    }
};

#define RETROMAE_ATTENTION_FORWARD_KERNEL(part, mask_name, Mask, T, d)                   \
    RETROMAE_KERNEL(attention_##part##_##mask_name##_##T##_d##d, AttentionForwardParams, \
                    AttentionForwardLaunch<T, d, Mask>) {                                \
        attention_##part<T, d, Mask>(params);                                            \
    }
#define RETROMAE_ATTENTION_FORWARD(part, mask_name, Mask, T) \
    RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_FORWARD_KERNEL, part, mask_name, Mask, T)

RETROMAE_ATTENTION_TYPES(RETROMAE_ATTENTION_FORWARD, forward)

}  // namespace retromae
