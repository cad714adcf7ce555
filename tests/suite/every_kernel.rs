//! Every kernel once, on one small shape: what tools that slow a GPU down a hundredfold are run on.
//!
//! Recorded training steps launch nearly all kernels and say which, passes of attention and of the heads their variants that no step needs; the shapes are
//! ragged, so that partial tiles are among them.

use std::collections::BTreeSet;

use retromae::device::{self, Device, Float, ModelFloat, bf16, cuda_kernels, f16, host_kernels};
use retromae::model::{
    AdamW, BankRows, Capacity, DecoderKind, Input, Masking, Model, ModelConfig, PackedSentences, QueryKind,
    StepRandomness, TrainStep,
};
use retromae::ops::attention::HEAD_DIMS;
use retromae::ops::cross_entropy::Algorithm;
use retromae::ops::masks::Budget;

use crate::attention::cases::{Case, Kind, Variant};
use crate::attention::passes;
use crate::bag_of_words;
use crate::common::prefix_sums;
use crate::cross_entropy;

const LENGTHS: [usize; 4] = [5, 70, 1, 33];
const VOCABULARY: usize = 61;
/// Kernels that are not the library's: of tests and baselines.
const OTHERS: [&str; 3] = ["probe_", "twin_", "baseline_"];

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

/// Two steps, the second of which is recorded, launched and named.
fn kernels<T: ModelFloat>(
    device: &Device,
    head_dim: usize,
    decoder: DecoderKind,
    query: QueryKind,
) -> BTreeSet<String> {
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
    model.initialise(1).unwrap();
    model.record_steps(true);
    let sentences = sentences();
    let masking = Masking {
        mask_id: 4,
        encoder: Budget::of(0.3),
        decoder: Budget::of(0.5),
        bank_rows: BankRows::AtMost(40),
    };
    for update in 1..=2 {
        let step = TrainStep {
            input: Input::Drawn(&sentences, masking),
            randomness: StepRandomness { seed: 1, step: update },
            optimizer: &AdamW::default(),
            learning_rate: 1e-3,
            update,
        };
        let ticket = model.train_step(&device.stream(), &step).unwrap();
        let outcome = model.outcome(ticket).unwrap();
        assert!(outcome.losses.encoder > 0.0 && outcome.losses.decoder > 0.0, "{outcome:?}");
        assert!(outcome.gradient_norm > 0.0 && outcome.gradient_norm.is_finite(), "{outcome:?}");
    }
    model.recorded_kernels().map(str::to_owned).collect()
}

/// Attention in the variants that there are for `T`.
fn attention_kernels<T: Float>(device: &Device, head_dim: usize, variants: &[Variant]) -> BTreeSet<String> {
    let mut launched = BTreeSet::new();
    for kind in [Kind::Full, Kind::Bank] {
        let case = Case { dropout: 0.1, ..Case::new(&LENGTHS, head_dim, kind) };
        for &variant in variants {
            launched.extend(passes::kernels::<T>(device, &case, variant));
        }
    }
    launched
}

/// Every operation in every type that it takes: together they launch every kernel that is built, and none that is not built for both kinds
/// of device.
#[test]
fn every_kernel_runs() {
    const ALL: [Variant; 3] = [Variant::Default, Variant::Tiled, Variant::Atomic];
    let device = Device::for_tests().expect("a device");
    let mut launched = BTreeSet::new();
    for head_dim in HEAD_DIMS {
        launched.extend(attention_kernels::<f32>(&device, head_dim, &ALL[..1]));
        launched.extend(attention_kernels::<bf16>(&device, head_dim, &ALL));
        launched.extend(attention_kernels::<f16>(&device, head_dim, &ALL));
        for (decoder, query) in [
            (DecoderKind::Basic, QueryKind::Embedding),
            (DecoderKind::Enhanced, QueryKind::Embedding),
            (DecoderKind::Enhanced, QueryKind::Position),
        ] {
            launched.extend(kernels::<f32>(&device, head_dim, decoder, query));
            launched.extend(kernels::<bf16>(&device, head_dim, decoder, query));
        }
    }
    launched.extend(bag_of_words::kernels::<f32>(&device, Algorithm::Library));
    launched.extend(bag_of_words::kernels::<bf16>(&device, Algorithm::Library));
    launched.extend(bag_of_words::kernels::<f16>(&device, Algorithm::Library));
    launched.extend(bag_of_words::kernels::<f16>(&device, Algorithm::Fused));
    launched.extend(bag_of_words::kernels::<bf16>(&device, Algorithm::Fused));
    launched.extend(cross_entropy::kernels::<f32>(&device, Algorithm::Library));
    launched.extend(cross_entropy::kernels::<f16>(&device, Algorithm::Library));
    launched.extend(cross_entropy::kernels::<bf16>(&device, Algorithm::Library));
    launched.extend(cross_entropy::kernels::<bf16>(&device, Algorithm::Fused));
    // Where they are counted: RETROMAE_HOST_BANK_CONFLICTS.
    device.shared_memory_accesses().iter().for_each(|access| println!("{access}"));
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
