//! The headline cases of the benches as kernel launches: the number of blocks, and the trips of each warp through its kernel's hottest loop.

use crate::cases as table;

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

/// Elements of an attention head: the kernels named below are those of this size.
const HEAD_DIM: u32 = 64;
/// Queries or keys in a tile of attention.
const TILE: f64 = 64.0;

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (masked, forward, backward) in [
        (false, "attention_forward", "attention_backward"),
        (true, "two_stream_forward", "two_stream_backward"),
    ] {
        let forward =
            table::headlines(forward).map(|case| one(case, attention_forward(&Pack::new(case), masked)));
        cases.extend(forward);
        let backward = table::headlines(backward).map(|case| Case {
            operation: &case.op,
            name: &case.name,
            launches: attention_backward(&Pack::new(case), masked),
        });
        cases.extend(backward);
    }
    cases.extend(cross_entropy(table::headline("cross_entropy")));
    cases.extend(layer_norm());
    cases.extend(bias_gelu(table::headline("step")));
    cases.extend([embedding_backward(), adamw(), sentence_vectors()]);
    cases
}

/// Defaults of most launches: straight-line code in blocks of 256 threads.
const PLAIN: Launch =
    Launch { kernel: "", source: "", threads: 256, shared: 0, blocks: 0.0, loops: 0, trips: 0.0, bytes: 0.0 };

/// Returns a case of one kernel.
fn one(case: &'static table::Case, launch: Launch) -> Case {
    Case { operation: &case.op, name: &case.name, launches: vec![launch] }
}

/// Returns the bytes of a matrix in 16 bits.
fn matrix_bytes(rows: f64, columns: f64) -> f64 {
    2.0 * rows * columns
}

/// Launches of the kernel over the logits, and of the gradient of the head's bias; the matmuls run in cuBLASLt.
fn cross_entropy(case: &'static table::Case) -> [Case; 2] {
    let (rows, vocabulary) = (case.size("rows"), case.size("vocab_size"));
    let logits = matrix_bytes(rows, vocabulary);
    let kernel = Launch {
        kernel: "cross_entropy_bf16",
        source: "cross_entropy/cross_entropy.cu",
        // One step's exponentials in f16, 32 columns a thread.
        shared: 4 * 256 * 32 * 2,
        blocks: rows,
        // The first reads, the second writes.
        loops: 2,
        trips: (vocabulary / (256.0 * 32.0)).ceil(),
        bytes: 2.0 * logits,
        ..PLAIN
    };
    let bias = Launch {
        kernel: "cross_entropy_bias_slabs_bf16",
        source: "cross_entropy/bias_gradient.cu",
        threads: 128,
        blocks: rows / 64.0 * (vocabulary / 1024.0).ceil(),
        loops: 1,
        // Eight rows a trip.
        trips: 8.0,
        bytes: logits,
        ..PLAIN
    };
    [("cross_entropy kernel", kernel), ("cross_entropy bias", bias)].map(|(operation, launch)| Case {
        operation,
        name: &case.name,
        launches: vec![launch],
    })
}

/// Launches of LayerNorm and its backward pass: one warp a row.
fn layer_norm() -> [Case; 2] {
    let [forward_case, backward_case] = ["layer_norm_forward", "layer_norm_backward"].map(table::headline);
    let (rows, columns) = (forward_case.size("rows"), forward_case.size("columns"));
    let bytes = 4.0 * matrix_bytes(rows, columns);
    let both = Launch { source: "norm/layer_norm.cu", loops: 1, bytes, ..PLAIN };
    let forward = Launch {
        kernel: "layer_norm_forward_bf16",
        threads: 128,
        blocks: rows / 32.0,
        trips: 8.0,
        ..both.clone()
    };
    let backward = Launch {
        kernel: "layer_norm_backward_bf16",
        shared: 8 * 3 * columns as u32 * 4,
        blocks: 256.0,
        trips: rows / 256.0 / 8.0,
        ..both
    };
    [one(forward_case, forward), one(backward_case, backward)]
}

/// Launches of GELU and its backward pass in a step: a thread takes groups of 8 elements, and reads or writes `arrays` arrays.
fn bias_gelu(step: &table::Case) -> [Case; 2] {
    let elements = step.size("sentences") * step.size("length") * step.size("intermediate_size");
    let pass = |operation, kernel, packs: f64, arrays: f64| {
        let (blocks, bytes) = (elements / (8.0 * packs) / 256.0, 2.0 * arrays * elements);
        let launch = Launch { kernel, source: "activation/bias_gelu.cu", blocks, bytes, ..PLAIN };
        Case { operation, name: "R32768_C3072", launches: vec![launch] }
    };
    [
        pass("bias_gelu_forward", "bias_gelu_forward_bf16", 8.0, 2.0),
        pass("bias_gelu_backward", "bias_gelu_backward_bf16", 4.0, 3.0),
    ]
}

/// Launch that sums the embeddings' gradients.
fn embedding_backward() -> Case {
    let case = table::headline("embedding_backward");
    let (tokens, hidden) = (case.size("tokens"), case.size("hidden_size"));
    let launch = Launch {
        kernel: "segment_sum_bf16",
        source: "embedding/segment_sum.cu",
        shared: 8 * 256 * 4,
        // A warp takes 256 columns of eight rows at a time.
        blocks: tokens * (hidden / 256.0) / 8.0 / 8.0,
        loops: 1,
        trips: 1.0,
        bytes: matrix_bytes(tokens, hidden) + 2.0 * 4.0 * hidden * case.size("distinct_ids"),
        ..PLAIN
    };
    one(case, launch)
}

/// Launches of the gradients' norm and of the update.
fn adamw() -> Case {
    let case = table::headline("adamw");
    let parameters = case.size("parameters");
    let norm = Launch {
        kernel: "reduce_squares",
        source: "optimizer/reduce.cu",
        blocks: parameters / 16_384.0,
        loops: 1,
        trips: 2.0,
        bytes: 4.0 * parameters,
        ..PLAIN
    };
    let update = Launch {
        kernel: "adamw_bf16",
        source: "optimizer/adamw.cu",
        blocks: parameters / 4096.0,
        bytes: 34.0 * parameters,
        ..PLAIN
    };
    Case { operation: &case.op, name: &case.name, launches: vec![norm, update] }
}

/// Launch of the operation of docs/kernels.md, for a matrix of LayerNorm's size: a block takes a row.
fn sentence_vectors() -> Case {
    let case = table::headline("layer_norm_forward");
    let (rows, columns) = (case.size("rows"), case.size("columns"));
    let launch = Launch {
        kernel: "sentence_vectors_bf16",
        source: "probes/tutorial/sentence_vectors.cu",
        threads: 128,
        shared: 4 * 4,
        blocks: rows,
        bytes: 2.0 * matrix_bytes(rows, columns),
        ..PLAIN
    };
    Case { operation: "sentence_vectors", name: &case.name, launches: vec![launch] }
}

/// Sentences of a case of attention.
struct Pack {
    /// Lengths of sentences that repeat.
    lengths: Vec<f64>,
    /// Number of repetitions that fill the tokens.
    repeats: f64,
    heads: f64,
}

impl Pack {
    fn new(case: &table::Case) -> Self {
        let lengths = case.lengths();
        Self {
            repeats: case.size("tokens") / lengths.iter().sum::<f64>(),
            heads: case.size("heads"),
            lengths,
        }
    }

    /// Returns the bytes of one operand or result.
    fn operand_bytes(&self) -> f64 {
        matrix_bytes(self.repeats * self.lengths.iter().sum::<f64>(), self.heads * f64::from(HEAD_DIM))
    }
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

fn attention_forward(pack: &Pack, masked: bool) -> Launch {
    let (tiles, trips) = tile_pairs(&pack.lengths);
    Launch {
        kernel: if masked { "attention_forward_masked_bf16_d64" } else { "attention_forward_full_bf16_d64" },
        source: "attention/attention_forward.cu",
        threads: 128,
        shared: 5 * 64 * HEAD_DIM * 2 + mask_bytes(masked),
        blocks: pack.heads * pack.repeats * tiles,
        loops: 1,
        trips,
        bytes: 4.0 * pack.operand_bytes(),
    }
}

/// Most queries of a sentence that one block handles whole.
const FUSED_QUERIES: f64 = 256.0;

fn attention_backward(pack: &Pack, masked: bool) -> Vec<Launch> {
    let (short, long): (Vec<f64>, Vec<f64>) =
        pack.lengths.iter().partition(|&&length| length <= FUSED_QUERIES);
    let part = |lengths| Pack { lengths, ..*pack };
    let mut launches = Vec::new();
    if !short.is_empty() {
        launches.push(attention_backward_fused(&part(short), masked));
    }
    if !long.is_empty() {
        launches.extend(attention_backward_tiled(&part(long), masked));
    }
    launches
}

/// Returns the fused launch: one block for each sentence and head.
fn attention_backward_fused(pack: &Pack, masked: bool) -> Launch {
    let sentences = pack.lengths.len() as f64;
    let (own, trips) = tile_pairs(&pack.lengths);
    let rows = pack.lengths.iter().map(|&length| tiles(length)).fold(0.0, f64::max) * TILE;
    let kernels = ["attention_backward_fused_full_bf16_d64", "attention_backward_fused_masked_bf16_d64"];
    Launch {
        kernel: kernels[usize::from(masked)],
        source: "attention/attention_backward_fused.cu",
        threads: 128,
        // Query, gradient of the output, gradient of the query in f32 and two statistics a row; a tile of keys, values and dS; mask bits.
        shared: rows as u32 * (8 * HEAD_DIM + 8) + 3 * 2 * 64 * HEAD_DIM + 4 * 64 * 64 / 32,
        blocks: pack.heads * pack.repeats * sentences,
        loops: 1,
        trips: own * trips / sentences,
        bytes: 8.0 * pack.operand_bytes(),
    }
}

/// Returns three launches: δ for each query, then a block for each tile of keys, and a block for each tile of queries.
fn attention_backward_tiled(pack: &Pack, masked: bool) -> [Launch; 3] {
    let operand = pack.operand_bytes();
    let (own, trips) = tile_pairs(&pack.lengths);
    let plain = Launch {
        kernel: "attention_backward_delta_bf16_d64",
        source: "attention/attention_backward_tiled.cu",
        threads: 128,
        blocks: pack.heads * pack.repeats * own,
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
