//! Sentences and bags of the bag-of-words head.

use retromae::device::{Device, ModelFloat, bf16};
use retromae::ops::Packed;
use retromae::ops::bag_of_words::{self, Algorithm, Bags, Forward, Gradients};

use super::{COLUMNS, ROUNDS, matrix, stale};
use crate::common::{devices, garbage};

/// Returns losses and gradients of the hidden rows.
fn bag<T: ModelFloat>(
    device: &Device,
    algorithm: Algorithm,
    tokens: usize,
    [cu_seqlens, bag_offsets, bag_ids]: [&[i32]; 3],
) -> [Vec<f32>; 2] {
    const VOCABULARY: usize = 50;
    let sentences = cu_seqlens.len() - 1;
    let [hidden, weight] = [(1, tokens), (2, VOCABULARY)].map(|(seed, rows)| matrix::<T>(device, seed, rows));
    let bias = device.zeros::<f32>(VOCABULARY).unwrap();
    let ones = |count: usize| device.upload(&vec![1.0f32; count]).unwrap();
    let (bag_weights, sentence_weights) = (ones(bag_ids.len()), ones(sentences));
    let [cu_seqlens, bag_offsets, bag_ids] =
        [cu_seqlens, bag_offsets, bag_ids].map(|array| device.upload(array).unwrap());
    let (mut losses, mut d_hidden) = (stale::<f32>(device, sentences), stale::<T>(device, tokens * COLUMNS));
    let (mut d_weight, mut d_bias) =
        (stale::<f32>(device, VOCABULARY * COLUMNS), stale::<f32>(device, VOCABULARY));
    let needed = bag_of_words::workspace(algorithm, T::DTYPE, sentences, 3, VOCABULARY);
    // Bytes of large positions.
    let mut workspace = device.upload(&vec![0x7fu8; needed.bytes()]).unwrap();
    let bags = Bags { offsets: bag_offsets.view(), ids: bag_ids.view(), weights: Some(bag_weights.view()) };
    let forward = Forward {
        bias: Some(bias.view()),
        sentence_weights: Some(sentence_weights.view()),
        first_position: 1,
        algorithm,
        ..Forward::new(
            hidden.matrix(tokens, COLUMNS).unwrap(),
            weight.matrix(VOCABULARY, COLUMNS).unwrap(),
            Packed { cu_seqlens: cu_seqlens.view(), tokens, max_seqlen: tokens },
            bags,
            losses.view_mut(),
            workspace.view_mut(),
        )
    };
    let gradients = Gradients {
        d_hidden: Some(d_hidden.matrix_mut(tokens, COLUMNS).unwrap()),
        d_weight: Some(d_weight.matrix_mut(VOCABULARY, COLUMNS).unwrap()),
        d_bias: Some(d_bias.view_mut()),
    };
    bag_of_words::forward_backward(&device.stream(), forward, gradients).unwrap();
    let widen = |values: Vec<T>| values.into_iter().map(T::to_f32).collect();
    [losses.read().unwrap(), widen(d_hidden.read().unwrap())]
}

#[test]
fn bags_and_sentences_out_of_range_have_a_loss_of_nan() {
    fn check<T: ModelFloat>(device: &Device, algorithm: Algorithm) {
        let valid = bag::<T>(device, algorithm, 12, [&[0, 5, 12], &[0, 2, 4], &[3, 4, 5, 6]]);
        assert!(valid.iter().flatten().all(|value| value.is_finite()));
        // The second sentence leaves the batch, has falling offsets, or has such a bag; the third begins before it ends.
        for (cu_seqlens, bag_offsets) in [
            ([0, 5, 90], [0, 2, 4]),
            ([0, 5, 3], [0, 2, 4]),
            ([0, 5, -1], [0, 2, 4]),
            ([0, 5, 12], [0, 2, 5]),
            ([0, 5, 12], [0, 2, 1]),
        ] {
            let [losses, d_hidden] =
                bag::<T>(device, algorithm, 12, [&cu_seqlens, &bag_offsets, &[3, 4, 5, 6]]);
            let what = format!("{cu_seqlens:?}, {bag_offsets:?}, {algorithm:?}");
            assert_eq!(losses[0], valid[0][0], "{what}");
            assert!(losses[1].is_nan(), "{what}: {losses:?}");
            assert_eq!(d_hidden[..3 * COLUMNS], valid[1][..3 * COLUMNS], "{what}");
            assert!(d_hidden[5 * COLUMNS..].iter().all(|&value| value == 0.0), "{what}");
        }
        for seed in 0..ROUNDS {
            let arrays = [garbage(seed, 9, 13), garbage(seed + 1, 9, 5), garbage(seed + 2, 4, 50)];
            bag::<T>(device, algorithm, 12, [&arrays[0], &arrays[1], &arrays[2]]);
        }
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        check::<bf16>(&device, Algorithm::Library);
        check::<bf16>(&device, Algorithm::Fused);
    }
}
