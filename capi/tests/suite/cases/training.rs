//! Masks sampled on the device, and AdamW.

use retromae::device::bf16;
use retromae::ops::adamw::{self, Hyperparameters};
use retromae::ops::masks::{self, MaskCountLimit};
use retromae::ops::rng_state;
use retromae_capi::*;

use crate::common::{Case, Field, Memory, integers, maybe_mut, prefix_sums, view, view_mut, workspace};
use crate::{case, fields, give_workspace, init};

pub fn cases(memory: fn() -> Memory) -> Vec<Case> {
    let mut all = Vec::new();
    for parts in [[true, false, false], [false, true, false], [true, true, false], [true, true, true]] {
        all.push(sample(memory(), &[17, 0, 40, 2], parts));
    }
    // The permutations of long sentences are in the workspace.
    all.push(sample(memory(), &[1030, 9], [true, false, true]));
    all.extend([adamw_of(memory(), false), adamw_of(memory(), true)]);
    all
}

const POOL_LIMIT: MaskCountLimit = MaskCountLimit { ratio: 0.5, cap: None };
const INPUT_LIMIT: MaskCountLimit = MaskCountLimit { ratio: 0.3, cap: Some(9) };
const VOCABULARY: usize = 50;
const POOL_ROWS: usize = 8;

fn c_limit(limit: MaskCountLimit) -> rmae_count_limit {
    rmae_count_limit { ratio: limit.ratio, cap: limit.cap.map_or(0, |cap| cap as i64) }
}

fn corruption(memory: &mut Memory, cu_seqlens: &[i32]) -> rmae_corruption {
    let tokens = *cu_seqlens.last().unwrap() as usize;
    let offsets = masks::labeled_offsets(cu_seqlens, INPUT_LIMIT).unwrap();
    let labeled = *offsets.last().unwrap() as usize;
    rmae_corruption {
        ids: memory.put(&integers(1, tokens, VOCABULARY as u32)),
        count_limit: c_limit(INPUT_LIMIT),
        replacement: rmae_replacement {
            mask_id: 3,
            vocab_size: VOCABULARY as i64,
            mask_share: 0.7,
            random_share: 0.2,
        },
        input_ids: memory.put(&vec![7; tokens]),
        offsets: memory.put(&offsets),
        labeled_rows: memory.put(&vec![7; labeled]),
        targets: memory.put(&vec![7; labeled]),
        counts: memory.put(&vec![7; cu_seqlens.len() - 1]),
        labeled: labeled as i64,
    }
}

fn rust_corruption(
    corruption: rmae_corruption,
    tokens: usize,
    sentences: usize,
) -> Option<masks::Corruption<'static>> {
    (!corruption.ids.is_null()).then(|| masks::Corruption {
        count_limit: INPUT_LIMIT,
        replacement: masks::Replacement {
            mask_id: 3,
            vocab_size: VOCABULARY,
            mask_share: 0.7,
            random_share: 0.2,
        },
        ids: view(corruption.ids, tokens),
        input_ids: view_mut(corruption.input_ids, tokens),
        offsets: view(corruption.offsets, sentences + 1),
        labeled_rows: view_mut(corruption.labeled_rows, corruption.labeled as usize),
        targets: view_mut(corruption.targets, corruption.labeled as usize),
        counts: view_mut(corruption.counts, sentences),
    })
}

/// Samples those of pool, encoder and decoder that are wanted.
fn sample(mut memory: Memory, lengths: &[usize], parts: [bool; 3]) -> Case {
    let (cu_seqlens, sentences) = (prefix_sums(lengths), lengths.len());
    let (tokens, length_max) = (lengths.iter().sum::<usize>(), *lengths.iter().max().unwrap());
    let mut desc = rmae_masks_desc {
        rng: memory.put(&rng_state(11, 4)),
        cu_seqlens: memory.put(&cu_seqlens),
        indices: memory.put(&(5..5 + sentences as u32).collect::<Vec<_>>()),
        word_starts: memory.put(&vec![0xfff7_bd6fu32; tokens.div_ceil(32)]),
        sentences: sentences as i64,
        tokens: tokens as i64,
        length_max: length_max as i64,
        ..init!(rmae_masks_desc, RMAE_MASKS_VERSION)
    };
    let mut fields = fields! { rmae_masks_desc:
        IN rng, IN cu_seqlens, IN indices, IN word_starts, Size sentences, Size tokens, Size length_max,
        MAYBE_OUT pool.bits, MAYBE encoder.ids, MAYBE decoder.ids,
    };
    fields.extend(give_parts(&mut memory, &mut desc, &cu_seqlens, parts));
    give_workspace!(desc, memory, rmae_masks_workspace);
    let name = format!("masks {tokens} {parts:?}");
    case!(name, rmae_masks_sample, rmae_masks_workspace, desc, memory, fields, move |stream| {
        let arguments = masks::Sentences {
            rng: view(desc.rng, 4),
            cu_seqlens: view(desc.cu_seqlens, sentences + 1),
            indices: view(desc.indices, sentences),
            word_starts: view(desc.word_starts, tokens.div_ceil(32)),
            tokens,
            length_max,
        };
        let pool = maybe_mut(desc.pool.bits, |bits| masks::Pool {
            count_limit: POOL_LIMIT,
            rows_max: POOL_ROWS,
            offsets: view(desc.pool.offsets, sentences + 1),
            bits: view_mut(bits, desc.pool.words as usize),
            rows: maybe_mut(desc.pool.rows, |rows| view_mut(rows, tokens)),
            workspace: workspace(desc.workspace, desc.workspace_bytes, false),
        });
        let [encoder, decoder] =
            [desc.encoder, desc.decoder].map(|corruption| rust_corruption(corruption, tokens, sentences));
        masks::sample(stream, arguments, masks::Outputs { pool, encoder, decoder })
    })
}

/// Adds the arrays of the parts that are wanted; returns their fields.
fn give_parts(
    memory: &mut Memory,
    desc: &mut rmae_masks_desc,
    cu_seqlens: &[i32],
    [has_pool, has_encoder, has_decoder]: [bool; 3],
) -> Vec<Field> {
    let mut fields = Vec::new();
    if has_pool {
        let offsets = masks::pool_offsets(cu_seqlens, POOL_ROWS).unwrap();
        let words = *offsets.last().unwrap() as usize;
        desc.pool = rmae_pool {
            count_limit: c_limit(POOL_LIMIT),
            rows_max: POOL_ROWS as i64,
            offsets: memory.put(&offsets),
            bits: memory.put(&vec![7u32; words]),
            words: words as i64,
            rows: memory.put(&vec![7u16; *cu_seqlens.last().unwrap() as usize]),
        };
        fields.extend(fields! { rmae_masks_desc:
            F64 pool.count_limit.ratio, Size pool.count_limit.cap, Size pool.rows_max, IN pool.offsets, Size pool.words,
            MAYBE_OUT pool.rows, WORKSPACE workspace, WorkspaceBytes workspace_bytes,
        });
    }
    if has_encoder {
        desc.encoder = corruption(memory, cu_seqlens);
        fields.extend(fields! { rmae_masks_desc:
            F64 encoder.count_limit.ratio, Size encoder.count_limit.cap, I32 encoder.replacement.mask_id,
            Size encoder.replacement.vocab_size, F64 encoder.replacement.mask_share,
            F64 encoder.replacement.random_share, OUT encoder.input_ids, IN encoder.offsets, OUT encoder.labeled_rows,
            OUT encoder.targets, OUT encoder.counts, Size encoder.labeled,
        });
    }
    if has_decoder {
        desc.decoder = corruption(memory, cu_seqlens);
        fields.extend(fields! { rmae_masks_desc:
            F64 decoder.count_limit.ratio, Size decoder.count_limit.cap, I32 decoder.replacement.mask_id,
            Size decoder.replacement.vocab_size, F64 decoder.replacement.mask_share,
            F64 decoder.replacement.random_share, OUT decoder.input_ids, IN decoder.offsets, OUT decoder.labeled_rows,
            OUT decoder.targets, OUT decoder.counts, Size decoder.labeled,
        });
    }
    fields
}

const COUNT: usize = 37;

fn adamw_of(mut memory: Memory, present: bool) -> Case {
    let constants = rmae_adamw_constants {
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-7,
        weight_decay: 0.1,
        max_norm: if present { 0.5 } else { 0.0 },
    };
    let rust = Hyperparameters {
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-7,
        weight_decay: 0.1,
        max_norm: present.then_some(0.5),
    };
    let moments: Vec<f32> = (0..COUNT).map(|i| i as f32 / 40.0).collect();
    let desc = rmae_adamw_desc {
        constants,
        count: COUNT as i64,
        decayed: 20,
        parameters: memory.floats::<f32>(1, COUNT).cast(),
        gradients: memory.floats::<f32>(2, COUNT).cast(),
        first_moments: memory.floats::<f32>(3, COUNT).cast(),
        second_moments: memory.put(&moments),
        compute_parameters: if present { memory.floats::<bf16>(4, COUNT) } else { std::ptr::null_mut() },
        squared_norm: memory.put(&[12.5f32]),
        schedule: memory.put(&rust.schedule(1e-2, 3).unwrap()),
        ..init!(rmae_adamw_desc, RMAE_ADAMW_VERSION)
    };
    let fields = fields! { rmae_adamw_desc:
        F64 constants.beta1, F64 constants.beta2, F64 constants.eps, F64 constants.weight_decay, F64 constants.max_norm,
        Size count, Size decayed, OUT16 parameters, OUT16 gradients, OUT16 first_moments, OUT16 second_moments,
        MAYBE_OUT16 compute_parameters, IN squared_norm, IN schedule,
    };
    case!("adamw".into(), rmae_adamw_step, desc, memory, fields, move |stream| {
        let step = adamw::Step {
            parameters: view_mut(desc.parameters, COUNT),
            gradients: view_mut(desc.gradients, COUNT),
            first_moments: view_mut(desc.first_moments, COUNT),
            second_moments: view_mut(desc.second_moments, COUNT),
            compute_parameters: maybe_mut(desc.compute_parameters.cast(), |data| view_mut(data, COUNT)),
            squared_norm: view(desc.squared_norm, 1),
            schedule: view(desc.schedule, 4),
            decayed: 20,
            hyperparameters: rust,
        };
        adamw::step(stream, step)
    })
}
