//! The headline cases as launches of kernels, at the sizes of a training step of BERT-base with 32,768 tokens in bf16: how many blocks there are, and how
//! often each warp of a block goes through its kernel's hottest loop.

/// A kernel of a case.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: &'static str,
    /// Below `kernels`.
    pub source: &'static str,
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Blocks that have something to do.
    pub blocks: f64,
    /// Loops that take its time; 0 where the code is gone through once.
    pub loops: usize,
    /// How often a warp goes through each of them.
    pub trips: f64,
    /// What must be read from and written to device memory.
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
/// Of BERT-base.
const PARAMETERS: f64 = 109_514_304.0;
/// Of the bench's batch: 15 % is one word, the others follow Zipf's law over 30,522.
const DISTINCT_WORDS: f64 = 7800.0;
const HEADS: f64 = 12.0;
const HEAD_DIM: u32 = 64;
/// Queries and keys of a tile of attention.
const TILE: f64 = 64.0;
/// Of one operand or result of attention or a normalisation.
const OPERAND: f64 = 2.0 * TOKENS * HIDDEN;
/// The lengths of a pack of mixed sentences, in turn.
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
    cases.extend(memory_bound());
    cases
}

/// What is the same in most launches: code that is gone through once.
const PLAIN: Launch =
    Launch { kernel: "", source: "", threads: 256, shared: 0, blocks: 0.0, loops: 0, trips: 0.0, bytes: 0.0 };

/// What is bound by memory, if its instructions do not take longer.
fn memory_bound() -> Vec<Case> {
    let one = |operation, name, launch| Case { operation, name, launches: vec![launch] };
    let activations = TOKENS * INTERMEDIATE;
    vec![
        one(
            "cross_entropy kernel",
            "M32768",
            Launch {
                kernel: "cross_entropy_bf16",
                source: "cross_entropy/cross_entropy.cu",
                // A step's exponentials in f16, of 32 columns a thread.
                shared: 4 * 256 * 32 * 2,
                blocks: TOKENS,
                // One reads, the other writes.
                loops: 2,
                trips: (VOCABULARY / (256.0 * 32.0)).ceil(),
                bytes: 2.0 * 2.0 * TOKENS * VOCABULARY,
                ..PLAIN
            },
        ),
        one(
            "cross_entropy bias",
            "M32768",
            Launch {
                kernel: "cross_entropy_bias_slabs_bf16",
                source: "cross_entropy/bias_gradient.cu",
                threads: 128,
                blocks: TOKENS / 64.0 * (VOCABULARY / 1024.0).ceil(),
                loops: 1,
                // Eight rows at a time.
                trips: 8.0,
                bytes: 2.0 * TOKENS * VOCABULARY,
                ..PLAIN
            },
        ),
        one(
            "layer_norm_forward",
            "R32768_C768",
            Launch {
                kernel: "layer_norm_forward_bf16",
                source: "norm/layer_norm.cu",
                threads: 128,
                blocks: TOKENS / 32.0,
                // A warp a row.
                loops: 1,
                trips: 8.0,
                bytes: 4.0 * OPERAND,
                ..PLAIN
            },
        ),
        one(
            "layer_norm_backward",
            "R32768_C768",
            Launch {
                kernel: "layer_norm_backward_bf16",
                source: "norm/layer_norm.cu",
                shared: 8 * 3 * 768 * 4,
                blocks: 256.0,
                loops: 1,
                trips: TOKENS / 256.0 / 8.0,
                bytes: 4.0 * OPERAND,
                ..PLAIN
            },
        ),
        one(
            "bias_gelu_forward",
            "R32768_C3072",
            Launch {
                kernel: "bias_gelu_forward_bf16",
                source: "activation/bias_gelu.cu",
                // Eight times 8 elements a thread.
                blocks: activations / 64.0 / 256.0,
                bytes: 2.0 * 2.0 * activations,
                ..PLAIN
            },
        ),
        one(
            "bias_gelu_backward",
            "R32768_C3072",
            Launch {
                kernel: "bias_gelu_backward_bf16",
                source: "activation/bias_gelu.cu",
                blocks: activations / 32.0 / 256.0,
                bytes: 3.0 * 2.0 * activations,
                ..PLAIN
            },
        ),
        one(
            "embedding_backward",
            "T32768_H768",
            Launch {
                kernel: "segment_sum_bf16",
                source: "embedding/segment_sum.cu",
                shared: 8 * 256 * 4,
                // A warp takes 256 columns of eight rows at a time.
                blocks: TOKENS * (HIDDEN / 256.0) / 8.0 / 8.0,
                loops: 1,
                trips: 1.0,
                bytes: OPERAND + 2.0 * 4.0 * HIDDEN * DISTINCT_WORDS,
                ..PLAIN
            },
        ),
        Case {
            operation: "adamw",
            name: "base",
            launches: vec![
                Launch {
                    kernel: "reduce_squares_f32",
                    source: "optimizer/reduce.cu",
                    blocks: PARAMETERS / 16_384.0,
                    loops: 1,
                    trips: 2.0,
                    bytes: 4.0 * PARAMETERS,
                    ..PLAIN
                },
                Launch {
                    kernel: "adamw_bf16",
                    source: "optimizer/adamw.cu",
                    blocks: PARAMETERS / 4096.0,
                    bytes: 34.0 * PARAMETERS,
                    ..PLAIN
                },
            ],
        },
    ]
}

/// How many times `lengths` in turn fill the tokens.
fn repeats(lengths: &[f64]) -> f64 {
    TOKENS / lengths.iter().sum::<f64>()
}

fn tiles(length: f64) -> f64 {
    (length / TILE).ceil()
}

/// Tiles of 64 queries or keys, and the mean number of tiles on the other side of each.
fn tile_pairs(lengths: &[f64]) -> (f64, f64) {
    let own: f64 = lengths.iter().map(|&length| tiles(length)).sum();
    let pairs: f64 = lengths.iter().map(|&length| tiles(length) * tiles(length)).sum();
    (own, pairs / own)
}

/// Bits that hide three tiles of keys from 64 rows.
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

/// The most queries of a sentence that is one block's work.
const FUSED_QUERIES: f64 = 256.0;

fn attention_backward(lengths: &[f64], masked: bool) -> Vec<Launch> {
    let repeats = repeats(lengths);
    let (short, long): (Vec<f64>, Vec<f64>) = lengths.iter().partition(|&&length| length <= FUSED_QUERIES);
    let kind = usize::from(masked);
    let mut launches = Vec::new();
    // Of one operand or result.
    let bytes = |lengths: &[f64]| 2.0 * HIDDEN * repeats * lengths.iter().sum::<f64>();
    if !short.is_empty() {
        let sentences = HEADS * repeats * short.len() as f64;
        let pairs: f64 = short.iter().map(|&length| tiles(length) * tiles(length)).sum();
        let rows = (short.iter().copied().fold(0.0, f64::max) / TILE).ceil() * TILE;
        launches.push(Launch {
            kernel: ["attention_backward_fused_full_bf16_d64", "attention_backward_fused_masked_bf16_d64"]
                [kind],
            source: "attention/attention_backward_fused.cu",
            threads: 128,
            // Query, gradient of the output, gradient of the query in f32 and two statistics a row; a tile of keys, values and dS; bits.
            shared: rows as u32 * (8 * HEAD_DIM + 8) + 3 * 2 * 64 * HEAD_DIM + 4 * 64 * 64 / 32,
            blocks: sentences,
            loops: 1,
            trips: pairs / short.len() as f64,
            bytes: 8.0 * bytes(&short),
        });
    }
    if !long.is_empty() {
        let operand = bytes(&long);
        let (tiles, trips) = tile_pairs(&long);
        let blocks = HEADS * repeats * tiles;
        let tiled = Launch {
            source: "attention/attention_backward_tiled.cu",
            threads: 128,
            blocks,
            loops: 1,
            trips,
            ..PLAIN
        };
        launches.push(Launch {
            kernel: "attention_backward_delta_bf16_d64",
            loops: 0,
            trips: 0.0,
            bytes: 2.0 * operand,
            ..tiled.clone()
        });
        launches.push(Launch {
            kernel: [
                "attention_backward_key_value_full_bf16_d64",
                "attention_backward_key_value_masked_bf16_d64",
            ][kind],
            shared: 6 * 2 * 64 * HEAD_DIM + 2 * 2 * 4 * 64 + mask_bytes(masked),
            bytes: 6.0 * operand,
            ..tiled.clone()
        });
        launches.push(Launch {
            kernel: ["attention_backward_query_full_bf16_d64", "attention_backward_query_masked_bf16_d64"]
                [kind],
            shared: 6 * 2 * 64 * HEAD_DIM + mask_bytes(masked),
            bytes: 5.0 * operand,
            ..tiled
        });
    }
    launches
}
