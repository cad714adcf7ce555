//! The headline cases as kernel launches, at the sizes of a training step of BERT-base with 32,768 tokens in bf16: the number of blocks, and the
//! trips of each warp through its kernel's hottest loop.

/// A kernel launch of a case.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: &'static str,
    /// Path below `kernels`.
    pub source: &'static str,
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Blocks with work to do.
    pub blocks: f64,
    /// Number of hottest loops; 0 for straight-line code.
    pub loops: usize,
    /// Trips of a warp through each of them.
    pub trips: f64,
    /// Least traffic to device memory, read and written.
    pub bytes: f64,
}

pub struct Case {
    pub operation: &'static str,
    pub name: &'static str,
    pub launches: Vec<Launch>,
}

const TOKENS: f64 = 32_768.0;
const HIDDEN: f64 = 768.0;
const INTERMEDIATE: f64 = 3072.0;
const VOCABULARY: f64 = 30_522.0;
/// Parameters of BERT-base.
const PARAMETERS: f64 = 109_514_304.0;
/// Distinct words in the bench's batch: 15 % of the tokens are one word, the others follow Zipf's law over 30,522.
const DISTINCT_WORDS: f64 = 7800.0;
const HEADS: f64 = 12.0;
const HEAD_DIM: u32 = 64;
/// Queries or keys in a tile of attention.
const TILE: f64 = 64.0;
/// Bytes of one operand or result of attention or a normalization.
const OPERAND: f64 = 2.0 * TOKENS * HIDDEN;
/// Sentence lengths of a pack of mixed sentences, repeated in turn.
const MIXED: [f64; 12] = [16.0, 24.0, 32.0, 48.0, 64.0, 80.0, 96.0, 128.0, 160.0, 192.0, 256.0, 512.0];

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, lengths) in [("L128_d64", &[128.0][..]), ("L512_d64", &[512.0]), ("mixed_d64", &MIXED)] {
        for (masked, forward, backward) in [
            (false, "attention_forward", "attention_backward"),
            (true, "two_stream_forward", "two_stream_backward"),
        ] {
            cases.push(Case { operation: forward, name, launches: vec![attention_forward(lengths, masked)] });
            cases.push(Case { operation: backward, name, launches: attention_backward(lengths, masked) });
        }
    }
    cases.extend(cross_entropy());
    cases.extend(layer_norm());
    cases.extend(bias_gelu());
    cases.extend([embedding_backward(), adamw(), sentence_vectors()]);
    cases
}

/// Defaults of most launches: straight-line code in blocks of 256 threads.
const PLAIN: Launch =
    Launch { kernel: "", source: "", threads: 256, shared: 0, blocks: 0.0, loops: 0, trips: 0.0, bytes: 0.0 };

/// Returns a case of one kernel.
fn one(operation: &'static str, name: &'static str, launch: Launch) -> Case {
    Case { operation, name, launches: vec![launch] }
}

/// Launches of the kernel over the logits, and of the gradient of the head's bias; the matmuls run in cuBLASLt.
fn cross_entropy() -> [Case; 2] {
    let logits = 2.0 * TOKENS * VOCABULARY;
    let kernel = Launch {
        kernel: "cross_entropy_bf16",
        source: "cross_entropy/cross_entropy.cu",
        // One step's exponentials in f16, 32 columns a thread.
        shared: 4 * 256 * 32 * 2,
        blocks: TOKENS,
        // The first reads, the second writes.
        loops: 2,
        trips: (VOCABULARY / (256.0 * 32.0)).ceil(),
        bytes: 2.0 * logits,
        ..PLAIN
    };
    let bias = Launch {
        kernel: "cross_entropy_bias_slabs_bf16",
        source: "cross_entropy/bias_gradient.cu",
        threads: 128,
        blocks: TOKENS / 64.0 * (VOCABULARY / 1024.0).ceil(),
        loops: 1,
        // Eight rows a trip.
        trips: 8.0,
        bytes: logits,
        ..PLAIN
    };
    [one("cross_entropy kernel", "M32768", kernel), one("cross_entropy bias", "M32768", bias)]
}

/// Launches of LayerNorm and its backward pass: one warp a row.
fn layer_norm() -> [Case; 2] {
    let both = Launch { source: "norm/layer_norm.cu", loops: 1, bytes: 4.0 * OPERAND, ..PLAIN };
    let forward = Launch {
        kernel: "layer_norm_forward_bf16",
        threads: 128,
        blocks: TOKENS / 32.0,
        trips: 8.0,
        ..both.clone()
    };
    let backward = Launch {
        kernel: "layer_norm_backward_bf16",
        shared: 8 * 3 * 768 * 4,
        blocks: 256.0,
        trips: TOKENS / 256.0 / 8.0,
        ..both
    };
    [one("layer_norm_forward", "R32768_C768", forward), one("layer_norm_backward", "R32768_C768", backward)]
}

/// Launches of GELU and its backward pass: a thread takes packs of 8 elements, and reads or writes `arrays` arrays.
fn bias_gelu() -> [Case; 2] {
    let pass = |operation, kernel, packs: f64, arrays: f64| {
        let elements = TOKENS * INTERMEDIATE;
        let (blocks, bytes) = (elements / (8.0 * packs) / 256.0, 2.0 * arrays * elements);
        let launch = Launch { kernel, source: "activation/bias_gelu.cu", blocks, bytes, ..PLAIN };
        one(operation, "R32768_C3072", launch)
    };
    [
        pass("bias_gelu_forward", "bias_gelu_forward_bf16", 8.0, 2.0),
        pass("bias_gelu_backward", "bias_gelu_backward_bf16", 4.0, 3.0),
    ]
}

/// Launch that sums the embeddings' gradients.
fn embedding_backward() -> Case {
    let launch = Launch {
        kernel: "segment_sum_bf16",
        source: "embedding/segment_sum.cu",
        shared: 8 * 256 * 4,
        // A warp takes 256 columns of eight rows at a time.
        blocks: TOKENS * (HIDDEN / 256.0) / 8.0 / 8.0,
        loops: 1,
        trips: 1.0,
        bytes: OPERAND + 2.0 * 4.0 * HIDDEN * DISTINCT_WORDS,
        ..PLAIN
    };
    one("embedding_backward", "T32768_H768", launch)
}

/// Launches of the gradients' norm and of the update.
fn adamw() -> Case {
    let norm = Launch {
        kernel: "reduce_squares",
        source: "optimizer/reduce.cu",
        blocks: PARAMETERS / 16_384.0,
        loops: 1,
        trips: 2.0,
        bytes: 4.0 * PARAMETERS,
        ..PLAIN
    };
    let update = Launch {
        kernel: "adamw_bf16",
        source: "optimizer/adamw.cu",
        blocks: PARAMETERS / 4096.0,
        bytes: 34.0 * PARAMETERS,
        ..PLAIN
    };
    Case { operation: "adamw", name: "base", launches: vec![norm, update] }
}

/// Launch of the operation of docs/kernels.md: a block takes a row.
fn sentence_vectors() -> Case {
    let launch = Launch {
        kernel: "sentence_vectors_bf16",
        source: "probes/tutorial/sentence_vectors.cu",
        threads: 128,
        shared: 4 * 4,
        blocks: TOKENS,
        bytes: 2.0 * OPERAND,
        ..PLAIN
    };
    one("sentence_vectors", "R32768_C768", launch)
}

/// Returns the number of repetitions of `lengths` that fill the tokens.
fn repeats(lengths: &[f64]) -> f64 {
    TOKENS / lengths.iter().sum::<f64>()
}

fn tiles(length: f64) -> f64 {
    (length / TILE).ceil()
}

/// Returns the number of tiles of 64 queries or keys, and the mean number of tiles on the other side of each.
fn tile_pairs(lengths: &[f64]) -> (f64, f64) {
    let own: f64 = lengths.iter().map(|&length| tiles(length)).sum();
    let pairs: f64 = lengths.iter().map(|&length| tiles(length) * tiles(length)).sum();
    (own, pairs / own)
}

/// Bytes of the mask bits that hide three tiles of keys from 64 rows.
fn mask_bytes(masked: bool) -> u32 {
    if masked { 3 * 64 * 2 * 4 } else { 0 }
}

fn attention_forward(lengths: &[f64], masked: bool) -> Launch {
    let (tiles, trips) = tile_pairs(lengths);
    Launch {
        kernel: if masked { "attention_forward_masked_bf16_d64" } else { "attention_forward_full_bf16_d64" },
        source: "attention/attention_forward.cu",
        threads: 128,
        shared: 5 * 64 * HEAD_DIM * 2 + mask_bytes(masked),
        blocks: HEADS * repeats(lengths) * tiles,
        loops: 1,
        trips,
        bytes: 4.0 * OPERAND,
    }
}

/// Most queries of a sentence that one block handles whole.
const FUSED_QUERIES: f64 = 256.0;

fn attention_backward(lengths: &[f64], masked: bool) -> Vec<Launch> {
    let repeats = repeats(lengths);
    let (short, long): (Vec<f64>, Vec<f64>) = lengths.iter().partition(|&&length| length <= FUSED_QUERIES);
    let mut launches = Vec::new();
    if !short.is_empty() {
        launches.push(attention_backward_fused(&short, repeats, masked));
    }
    if !long.is_empty() {
        launches.extend(attention_backward_tiled(&long, repeats, masked));
    }
    launches
}

/// Returns the bytes of one operand or result, for sentences repeated `repeats` times.
fn operand_bytes(lengths: &[f64], repeats: f64) -> f64 {
    2.0 * HIDDEN * repeats * lengths.iter().sum::<f64>()
}

/// Returns the fused launch: one block for each sentence and head.
fn attention_backward_fused(lengths: &[f64], repeats: f64, masked: bool) -> Launch {
    let sentences = lengths.len() as f64;
    let (own, trips) = tile_pairs(lengths);
    let rows = lengths.iter().map(|&length| tiles(length)).fold(0.0, f64::max) * TILE;
    let kernels = ["attention_backward_fused_full_bf16_d64", "attention_backward_fused_masked_bf16_d64"];
    Launch {
        kernel: kernels[usize::from(masked)],
        source: "attention/attention_backward_fused.cu",
        threads: 128,
        // Query, gradient of the output, gradient of the query in f32 and two statistics a row; a tile of keys, values and dS; mask bits.
        shared: rows as u32 * (8 * HEAD_DIM + 8) + 3 * 2 * 64 * HEAD_DIM + 4 * 64 * 64 / 32,
        blocks: HEADS * repeats * sentences,
        loops: 1,
        trips: own * trips / sentences,
        bytes: 8.0 * operand_bytes(lengths, repeats),
    }
}

/// Returns three launches: δ for each query, then a block for each tile of keys, and a block for each tile of queries.
fn attention_backward_tiled(lengths: &[f64], repeats: f64, masked: bool) -> [Launch; 3] {
    let operand = operand_bytes(lengths, repeats);
    let (own, trips) = tile_pairs(lengths);
    let plain = Launch {
        kernel: "attention_backward_delta_bf16_d64",
        source: "attention/attention_backward_tiled.cu",
        threads: 128,
        blocks: HEADS * repeats * own,
        bytes: 2.0 * operand,
        ..PLAIN
    };
    let keys = ["attention_backward_key_value_full_bf16_d64", "attention_backward_key_value_masked_bf16_d64"];
    let queries = ["attention_backward_query_full_bf16_d64", "attention_backward_query_masked_bf16_d64"];
    let own_keys = Launch {
        kernel: keys[usize::from(masked)],
        shared: 6 * 2 * 64 * HEAD_DIM + 2 * 2 * 4 * 64 + mask_bytes(masked),
        loops: 1,
        trips,
        bytes: 6.0 * operand,
        ..plain.clone()
    };
    let own_queries = Launch {
        kernel: queries[usize::from(masked)],
        shared: 6 * 2 * 64 * HEAD_DIM + mask_bytes(masked),
        bytes: 5.0 * operand,
        ..own_keys.clone()
    };
    [plain, own_keys, own_queries]
}
