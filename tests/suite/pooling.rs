//! Sentence vectors of every pooling against the reference's last hidden states.

use retromae::device::{Device, ModelFloat, bf16};
use retromae::model::{Batch, Capacity, DecoderKind, IGNORE_INDEX, Model, ModelConfig, Pooling};
use retromae::reference::{self, Parameters, parameter_shapes};

use crate::common::{devices, integers, prefix_sums, values};

const LENGTHS: [usize; 6] = [2, 1, 17, 33, 65, 7];
const CAPACITY: Capacity = Capacity { tokens: 160, sentences: 8, sentence_length: 70 };

fn config() -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        num_attention_heads: 2,
        intermediate_size: 96,
        max_position_embeddings: 70,
        decoder: DecoderKind::Basic,
        ..ModelConfig::tiny(97)
    }
}

fn parameters(config: &ModelConfig) -> Parameters {
    let sample = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let offset = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let sampled = values(index as u64, shape.iter().product());
        // Rounded to f32.
        (name, sampled.iter().map(|value| f64::from((offset + 0.15 * value) as f32)).collect())
    };
    parameter_shapes(config).into_iter().enumerate().map(sample).collect()
}

fn batch() -> Batch {
    let ids = integers(1, LENGTHS.iter().sum(), 97);
    Batch {
        cu_seqlens: prefix_sums(&LENGTHS),
        encoder_labels: vec![IGNORE_INDEX; ids.len()],
        decoder_labels: vec![IGNORE_INDEX; ids.len()],
        decoder_input_ids: ids.clone(),
        encoder_input_ids: ids,
        visibility: None,
    }
}

/// Pools the tokens' last hidden states, `[T, H]`, to `[B, H]`.
fn pooled(hidden: &[f64], batch: &Batch, pooling: Pooling, columns: usize) -> Vec<f64> {
    let row = |token: usize| &hidden[token * columns..][..columns];
    let vector = |b: usize| -> Vec<f64> {
        let tokens = batch.sentence(b);
        match pooling {
            Pooling::Cls => row(tokens.start).to_vec(),
            Pooling::Mean => {
                let mean = |column| {
                    tokens.clone().map(|token| row(token)[column]).sum::<f64>() / tokens.len() as f64
                };
                (0..columns).map(mean).collect()
            }
        }
    };
    (0..batch.num_sentences()).flat_map(vector).collect()
}

fn check<T: ModelFloat>(device: &Device, tolerance: f64) {
    let (config, batch) = (config(), batch());
    let parameters = parameters(&config);
    let hidden = reference::step(&config, &parameters, &batch, None).encoder_hidden;
    let mut model = Model::<T>::new(device, &config, CAPACITY).unwrap();
    for (name, values) in &parameters {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        model.set_parameter(name, &values).unwrap();
    }
    // The second run starts on the buffers that the first has left.
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Mean] {
        let ids = &batch.encoder_input_ids;
        let actual = model.embed_pooled(&device.stream(), &batch.cu_seqlens, ids, pooling).unwrap();
        let expected = pooled(&hidden, &batch, pooling, config.hidden_size);
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let off = norm(&mut actual.iter().zip(&expected).map(|(&a, e)| f64::from(a) - e));
        let error = off / norm(&mut expected.iter().copied());
        assert!(error < tolerance, "{pooling:?} in {}: off by {error:e}", T::DTYPE.name());
    }
}

#[test]
fn vectors_of_every_pooling_match_the_reference() {
    for device in devices() {
        check::<f32>(&device, 1e-5);
    }
    // A few roundings of a layer's outputs.
    check::<bf16>(&devices()[0], 2e-2);
}
