//! A trainer of one's own: warm-up, gradients accumulated over several batches, the host one step ahead of the device, and a state that is saved
//! and restored. Runs in the CPU emulator.
//!
//!     cargo run --release --example 06_custom_trainer

use retromae::device::Device;
use retromae::model::{
    AdamW, Capacity, Input, Masking, MicroBatch, Model, ModelConfig, PackedSentences, StepRandomness,
    TrainStep,
};
use retromae::ops::masks::word_start_bits;

const UPDATES: u32 = 6;
/// Batches of an update.
const ACCUMULATED: u32 = 2;
const MASKING: Masking = Masking::new(3);

/// Eight sentences of eight tokens, of which each is a word: \[CLS\] is 1, \[SEP\] 2.
fn sentences(batch: u32) -> PackedSentences {
    let ids = (0..64u32).map(|token| match token % 8 {
        0 => 1,
        7 => 2,
        _ => 4 + (token * 7 + batch % 2 * 3) as i32 % 60,
    });
    PackedSentences {
        sentence_indices: (0..8).map(|sentence| batch * 8 + sentence).collect(),
        cu_seqlens: (0..=8).map(|sentence| sentence * 8).collect(),
        ids: ids.collect(),
        word_starts: word_start_bits(&[true; 64]),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::host()?;
    let (stream, optimizer) = (device.stream(), AdamW::default());
    let config = ModelConfig {
        hidden_size: 64,
        num_attention_heads: 2,
        intermediate_size: 128,
        ..ModelConfig::tiny(64)
    };
    let capacity = Capacity { tokens: 64, sentences: 8, sentence_length: 8 };
    let mut model = Model::<f32>::new(&device, &config, capacity)?;
    model.initialize(1)?;

    let mut waiting = None;
    for update in 1..=UPDATES {
        let learning_rate = 1e-2 * (f64::from(update) / 3.0).min(1.0);
        for part in 0..ACCUMULATED {
            let number = (update - 1) * ACCUMULATED + part;
            let sentences = sentences(number);
            let input = Input::Sampled(&sentences, MASKING);
            let batch = MicroBatch::new(input, StepRandomness { seed: 1, step: number })
                .weight(1.0 / ACCUMULATED as f32);
            // Nothing here waits for the device: the result is read after the next batch has been enqueued.
            let handle = if part + 1 < ACCUMULATED {
                model.accumulate(&stream, &batch)?
            } else {
                model
                    .train_step(&stream, &TrainStep { batch, optimizer: &optimizer, learning_rate, update })?
            };
            if let Some((update, before)) = waiting.replace((update, handle)) {
                let losses = model.result(before)?.losses;
                println!("update {update}: encoder {:.3}, decoder {:.3}", losses.encoder, losses.decoder);
            }
        }
    }

    // Weights, the decoder's included, and the optimizer's moments; `Model::save` writes the encoder as Hugging Face reads it.
    let path = std::env::temp_dir().join(format!("retromae-{}.safetensors", std::process::id()));
    model.save_state(&path)?;
    let mut restored = Model::<f32>::new(&device, &config, capacity)?;
    restored.load_state(&path)?;
    std::fs::remove_file(&path)?;
    assert_eq!(restored.parameter("cls.predictions.bias")?, model.parameter("cls.predictions.bias")?);
    Ok(())
}
