//! Every kernel once, on one small shape: input for tools that slow a GPU down a hundredfold.
//!
//! Recorded training steps launch and name nearly all kernels; passes of attention and of the heads add the variants that no step needs. The shapes
//! are ragged, to include partial tiles.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use retromae::device::{self, Device, Float, ModelFloat, bf16, cuda_kernels, f16, host_kernels};
use retromae::model::{
    AdamW, Capacity, DecoderKind, Input, Masking, MicroBatch, Model, ModelConfig, PackedSentences, PoolRows,
    QueryKind, StepRandomness, TrainStep,
};
use retromae::ops::attention::HEAD_DIMS;
use retromae::ops::cross_entropy::Algorithm;
use retromae::ops::masks::MaskCountLimit;

use crate::attention::cases::{Case, Kind, Variant};
use crate::attention::passes;
use crate::bag_of_words;
use crate::common::prefix_sums;
use crate::cross_entropy;
use crate::layer_norm;
use crate::tutorial;

const LENGTHS: [usize; 4] = [5, 70, 1, 33];
const VOCABULARY: usize = 61;
/// Kernels outside the library: of tests and baselines.
const OTHERS: [&str; 3] = ["probe_", "instruction_", "baseline_"];

fn sentences() -> PackedSentences {
    let cu_seqlens = prefix_sums(&LENGTHS);
    let tokens = cu_seqlens[LENGTHS.len()];
    PackedSentences {
        sentence_indices: vec![3, 1, 4, 2],
        ids: (0..tokens).map(|token| token * 7 % VOCABULARY as i32).collect(),
        word_starts: vec![u32::MAX; (tokens as usize).div_ceil(32)],
        cu_seqlens,
    }
}

/// Runs two steps; the second is recorded, launched, and its kernels are named.
fn kernels<T: ModelFloat>(
    device: &Device,
    head_dim: usize,
    decoder: DecoderKind,
    query: QueryKind,
) -> Vec<String> {
    let config = ModelConfig {
        hidden_size: 2 * head_dim,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 96,
        max_position_embeddings: 70,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        decoder,
        query,
        bag_of_words_loss_weight: 0.1,
        ..ModelConfig::tiny(VOCABULARY)
    };
    let capacity = Capacity { tokens: 128, sentences: 6, sentence_length: 70 };
    let mut model = Model::<T>::new(device, &config, capacity).unwrap();
    model.initialize(1).unwrap();
    model.record_steps(true);
    let sentences = sentences();
    let masking = Masking {
        mask_id: 4,
        encoder: MaskCountLimit::of(0.3),
        decoder: MaskCountLimit::of(0.5),
        pool_rows: PoolRows::AtMost(40),
    };
    for update in 1..=2 {
        let step = TrainStep {
            batch: MicroBatch::new(
                Input::Sampled(&sentences, masking),
                StepRandomness { seed: 1, step: update },
            ),
            optimizer: &AdamW::default(),
            learning_rate: 1e-3,
            update,
        };
        let handle = model.train_step(&device.stream(), &step).unwrap();
        let outcome = model.result(handle).unwrap();
        assert!(outcome.losses.encoder > 0.0 && outcome.losses.decoder > 0.0, "{outcome:?}");
        assert!(outcome.gradient_norm > 0.0 && outcome.gradient_norm.is_finite(), "{outcome:?}");
    }
    model.recorded_kernels().map(str::to_owned).collect()
}

/// Runs attention in the variants that exist for `T`.
fn attention_kernels<T: Float>(device: &Device, head_dim: usize, variants: &[Variant]) -> Vec<String> {
    let mut launched = Vec::new();
    for kind in [Kind::Full, Kind::Pool] {
        let case = Case { dropout: 0.1, ..Case::new(&LENGTHS, head_dim, kind) };
        for &variant in variants {
            launched.extend(passes::kernels::<T>(device, &case, variant));
        }
    }
    launched
}

/// Kernels of one operation, launched once.
type Launched = OnceLock<BTreeSet<String>>;

/// An operation in every type that it takes. Each is a separate test, so that a fault of one on a GPU does not end the others; the names of its
/// kernels are kept, as [`together_they_launch_every_kernel`] needs them again.
struct Part {
    launch: fn(&Device) -> Vec<String>,
    launched: Launched,
}

impl Part {
    fn launched(&self) -> &BTreeSet<String> {
        self.launched.get_or_init(|| {
            let device = Device::for_tests().expect("a device");
            let launched = (self.launch)(&device).into_iter().collect();
            // Nonempty only if they are counted: RETROMAE_HOST_BANK_CONFLICTS.
            device.shared_memory_accesses().iter().for_each(|access| println!("{access}"));
            launched
        })
    }
}

/// Makes a test of each part, and the list of all parts.
macro_rules! parts {
    ($($name:ident: $launch:expr;)*) => {
        static PARTS: [Part; [$(stringify!($name)),*].len()] =
            [$(Part { launch: $launch, launched: Launched::new() }),*];

        #[allow(non_camel_case_types)]
        enum Index { $($name),* }

        $(
            #[test]
            fn $name() {
                assert!(!PARTS[Index::$name as usize].launched().is_empty());
            }
        )*
    };
}

const VARIANTS: [Variant; 3] = [Variant::Default, Variant::Tiled, Variant::Atomic];

fn attention_of_every_size<T: Float>(device: &Device, variants: &[Variant]) -> Vec<String> {
    HEAD_DIMS.into_iter().flat_map(|head_dim| attention_kernels::<T>(device, head_dim, variants)).collect()
}

fn steps_of_every_size<T: ModelFloat>(device: &Device) -> Vec<String> {
    let decoders = [
        (DecoderKind::Basic, QueryKind::Embedding),
        (DecoderKind::Enhanced, QueryKind::Embedding),
        (DecoderKind::Enhanced, QueryKind::Position),
    ];
    let of_size = |head_dim| {
        decoders.into_iter().flat_map(move |(decoder, query)| kernels::<T>(device, head_dim, decoder, query))
    };
    HEAD_DIMS.into_iter().flat_map(of_size).collect()
}

parts! {
    attention_f32: |device| attention_of_every_size::<f32>(device, &VARIANTS[..1]);
    attention_bf16: |device| attention_of_every_size::<bf16>(device, &VARIANTS);
    attention_f16: |device| attention_of_every_size::<f16>(device, &VARIANTS);
    bag_of_words_f32: |device| bag_of_words::kernels::<f32>(device, Algorithm::Library);
    bag_of_words_bf16: |device| bag_of_words::kernels::<bf16>(device, Algorithm::Library);
    bag_of_words_f16: |device| bag_of_words::kernels::<f16>(device, Algorithm::Library);
    bag_of_words_fused_bf16: |device| bag_of_words::kernels::<bf16>(device, Algorithm::Fused);
    bag_of_words_fused_f16: |device| bag_of_words::kernels::<f16>(device, Algorithm::Fused);
    cross_entropy_f32: |device| cross_entropy::kernels::<f32>(device, Algorithm::Library);
    cross_entropy_bf16: |device| cross_entropy::kernels::<bf16>(device, Algorithm::Library);
    cross_entropy_f16: |device| cross_entropy::kernels::<f16>(device, Algorithm::Library);
    cross_entropy_fused_bf16: |device| cross_entropy::kernels::<bf16>(device, Algorithm::Fused);
    layer_norm_f16: layer_norm::kernels::<f16>;
    sentence_vectors_f32: tutorial::kernels::<f32>;
    sentence_vectors_bf16: tutorial::kernels::<bf16>;
    training_step_f32: steps_of_every_size::<f32>;
    training_step_bf16: steps_of_every_size::<bf16>;
}

/// The parts together launch every built kernel, and no kernel that is built for one kind of device only.
#[test]
fn together_they_launch_every_kernel() {
    let launched: BTreeSet<String> = PARTS.iter().flat_map(|part| part.launched().iter().cloned()).collect();
    let of_training = |name: &&str| !OTHERS.iter().any(|prefix| name.starts_with(prefix));
    let built: BTreeSet<String> =
        host_kernels().iter().map(|kernel| kernel.name).filter(of_training).map(str::to_owned).collect();
    assert_eq!(launched, built, "launched, and built for the host device");
    if device::nvcc().is_ok() {
        let cuda: BTreeSet<String> =
            cuda_kernels().iter().map(|kernel| kernel.name).filter(of_training).map(str::to_owned).collect();
        assert_eq!(launched, cuda, "launched, and built for a GPU");
    }
}
