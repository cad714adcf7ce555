// Masked attention over packed sentences on tensor cores, forward: O = dropout(softmax(scale · Q Kᵀ + mask))
// V, one block a (sentence, 64 queries, head).
//
// Four warps of 16 queries walk over the keys in tiles of 64, online softmax (Milakov and Gimelshein, arXiv
// 1805.02867; Dao et al., arXiv 2205.14135) in base 2: the scale times log2 e is folded into one FMA a score.
// Q stays in registers as the operand A of mma.m16n8k16; the products of Q Kᵀ are, rounded, the operand A of
// P V as they are. K and V come by cp.async, one tile ahead. Rounded are the probabilities before they are
// normalised and the output; all sums are f32. Dropout draws one Philox call for 16 keys, shared by a quad;
// what stays is scaled once, at the end.
//
// Masks: each thread makes 32 bits of visibility a tile and leaves them in shared memory; a lane then reads
// two words for each of its two rows and shifts them by 2 · (lane % 4), after which the bit of every score is
// at a place that the compiler knows: 4 loads and 4 shifts for 32 scores. A tile that no query of the block
// sees is found by the vote that is the barrier anyway, and neither loaded nor multiplied.
//
// Work, a head of L tokens: 4·L²·d FLOPs, L² exponentials; bytes: Q and O once, K and V once from HBM and L /
// 64 times from L2. At L = 128 the floor is HBM, at 512 HBM, tensor cores and exponentials alike (d = 64,
// H100).
//
// d      shared memory   registers sm_80, sm_90 (full; masked)   blocks an SM (64 K registers)
// 32     20 KB           123; 149    127; 145                    4; 3
// 64     40 KB           156; 167    154; 167                    3; 3
// 96     60 KB           195; 215    199; 216                    2; 2
// 128    80 KB           221; 243    237; 251                    2; 2
// Masked kernels have 1.5 KB more, for bits. No spills, no stack.
//
// Bank conflicts: none. An ldmatrix phase reads one chunk of 8 rows, a cp.async phase writes 8 neighbouring
// chunks; the swizzle of SharedTile puts both into 8 groups of 4 banks. Bits: 8 rows are 8 neighbouring
// words, which the four lanes of a quad read together.
//
// Weighed and not taken, by counting instructions and bytes, as long as there is no card to ask:
// - Bits packed beforehand in the order of the fragments, with a transposed copy and flags a tile: saves six
//   instructions a lane and tile of 32 scores, for one more kernel and, as a bank's rows are gathered by
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
template <int D>
struct RunningRows {
    float output[D / 8][4];
    float maximum[2];
    float sum[2];

    RETROMAE_MEMBER void clear() {
        RETROMAE_UNROLL
        for (int n = 0; n < D / 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) output[n][i] = 0.0f;
        }
        maximum[0] = maximum[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
    }

    // Turns a tile of scores, -inf where hidden, into exponentials, and brings what was summed so far to the
    // new maximum.
    RETROMAE_MEMBER void exponentiate(float (&scores)[8][4], float scale) {
        float highest[2] = {maximum[0], maximum[1]};
        RETROMAE_UNROLL
        for (int n = 0; n < 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) highest[i / 2] = fmaxf(highest[i / 2], scores[n][i]);
        }
        warp_butterfly<Maximum, 4>(highest);
        float correction[2], offset[2];
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            // A row that has seen no key yet keeps a finite reference, so that -inf - -inf never happens.
            offset[half] = highest[half] == -INFINITY ? 0.0f : -highest[half] * scale;
            correction[half] = exp2_approximate(fmaf(maximum[half], scale, offset[half]));
            maximum[half] = highest[half];
            sum[half] *= correction[half];
        }
        RETROMAE_UNROLL
        for (int n = 0; n < 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) {
                scores[n][i] = exp2_approximate(fmaf(scores[n][i], scale, offset[i / 2]));
                sum[i / 2] += scores[n][i];
            }
        }
        RETROMAE_UNROLL
        for (int n = 0; n < D / 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) output[n][i] *= correction[i / 2];
        }
    }
};

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_forward(const AttentionForwardParams& params) {
    const SentenceTile tile =
        SentenceTile::locate<kTileRows>(params.query_cu_seqlens, params.queries, params);
    const Sentence sentence = Sentence::at(params, tile.sentence);
    if (tile.start >= sentence.queries) return;
    const uint32_t head = block_head(params);
    if (!sentence.exists) return write_absent<T, D>(params, sentence, head, tile.start, kTileRows);
    SharedMemory memory = SharedMemory::begin();
    const auto stream = KeyStream<T, D, Mask>::begin(memory, params, sentence, head, tile.start);
    // The output's at the end.
    const SharedTile<T, D> queries = {memory.take<T>(kTileRows * D)};
    queries.template copy_rows<kTileRows, kAttentionThreads>(
        sentence.query_rows<const T>(params.query, params.query_stride, head * D), params.query_stride,
        tile.start, sentence.queries);

    const QueryRows own = QueryRows::of(params, sentence, tile.start);
    const float scale = base2_scale(params);
    uint32_t query_fragments[D / 16][4];
    RunningRows<D> rows;
    rows.clear();

    uint32_t iteration = 0;
    uint32_t key = stream.find(0, 0);
    stream.copy(key, 0);
    while (key < sentence.keys) {
        const uint32_t next = stream.find(key + kKeyTile, iteration + 1);
        stream.copy(next, iteration + 1);
        copy_async_wait<1>();
        __syncthreads();
        if (own.left > 0) {
            const uint32_t stage = iteration % 2 * kKeyTile;
            if (iteration == 0) {
                RETROMAE_UNROLL
                for (int k = 0; k < D / 16; ++k) queries.load_a(own.row, k, query_fragments[k]);
            }
            float scores[8][4] = {};
            RETROMAE_UNROLL
            for (int k = 0; k < D / 16; ++k) {
                uint32_t keys[4][4];
                stream.keys.template load_b_transposed<4>(stage, k, keys);
                mma<T, 4>(scores, query_fragments[k], keys);
            }
            stream.hide(key, iteration, own.row, -INFINITY, scores);
            rows.exponentiate(scores, scale);
            // What stays is scaled at the end.
            if (params.dropout.threshold != 0)
                select(kept_keys(params.dropout, head, own.tokens, key), 0.0f, scores);
            RETROMAE_UNROLL
            for (int k = 0; k < kKeyTile / 16; ++k) {
                uint32_t probabilities[4];
                products_as_a<T>(scores, k, probabilities);
                multiply_rows(rows.output, probabilities, stream.values, stage + 16 * k, 0);
            }
        }
        key = next;
        ++iteration;
    }
    copy_async_wait<0>();
    if (iteration == 0) __syncthreads();  // nothing is seen: the queries were not waited for

    if (own.left == 0) return;
    warp_butterfly<Sum, 4>(rows.sum);
    float factors[2];
    RETROMAE_UNROLL
    for (int half = 0; half < 2; ++half) {
        // A row that sees nothing: output 0, log-sum-exp -inf.
        const float sum = rows.sum[half];
        factors[half] = sum == 0.0f ? 0.0f : params.dropout.scale / sum;
        const uint32_t query = own.query + 8 * half;
        if (threadIdx.x % 4 == 0 && query < sentence.queries)
            pointer<float>(params.log_sum_exp)[sentence.head_queries(params, head) + query] =
                rows.maximum[half] * params.scale + logf(sum);
    }
    // A warp's own rows of the queries' tile; nobody else reads them.
    warp_barrier();
    queries.store(own.row, 0, rows.output, factors);
    warp_barrier();
    queries.template write_rows<D / 8>(
        own.row, 0,
        sentence.query_rows<T>(params.output, params.output_stride, head * D, tile.start + own.row),
        params.output_stride, own.left);
}

// A tile of queries a block.
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
