//! A checkpoint in Hugging Face's layout, `config.json` and `model.safetensors` of a BERT, read, used and written. The argument is its directory;
//! without one, the example writes a small one first. Runs in the CPU emulator.
//!
//!     cargo run --release --example 08_hugging_face_checkpoint -- path/to/bert

use std::path::PathBuf;

use retromae::device::Device;
use retromae::model::io::{Purpose, load_config};
use retromae::model::{Capacity, Model, ModelConfig, Pooling};

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("retromae-{}-{name}", std::process::id()))
}

/// Writes a checkpoint with random weights.
fn write_checkpoint(device: &Device, capacity: Capacity) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let directory = temporary("checkpoint");
    std::fs::create_dir_all(&directory)?;
    let mut model = Model::<f32>::new(device, &ModelConfig::tiny(1000), capacity)?;
    model.initialize(1)?;
    model.save(&directory, None)?;
    Ok(directory)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::host()?;
    let capacity = Capacity { tokens: 32, sentences: 2, sentence_length: 16 };
    let directory = match std::env::args().nth(1) {
        Some(directory) => PathBuf::from(directory),
        None => write_checkpoint(&device, capacity)?,
    };

    let config = load_config(&directory.join("config.json"), None)?;
    println!("{} layers × {}, {} words", config.num_hidden_layers, config.hidden_size, config.vocab_size);
    let mut model = Model::<f32>::new(&device, &config, capacity)?;
    // Every tensor that was taken, is fresh or was left, by name.
    let weights = model.load_weights(&directory.join("model.safetensors"), Purpose::Embedding)?;
    println!("{weights}");

    // Two packed sentences of token ids, as the checkpoint's tokenizer makes them.
    let (cu_seqlens, ids) =
        ([0, 5, 8], [101, 7, 8, 9, 102, 101, 7, 102].map(|id| id % config.vocab_size as i32));
    let vectors = model.embed_pooled(&device.stream(), &cu_seqlens, &ids, Pooling::Cls)?;
    let [first, second] =
        [0, 1].map(|sentence| &vectors[sentence * config.hidden_size..][..config.hidden_size]);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    println!("cosine: {:.4}", dot(first, second) / (dot(first, first) * dot(second, second)).sqrt());

    // Written as `BertForMaskedLM` reads it.
    let copy = temporary("copy");
    std::fs::create_dir_all(&copy)?;
    model.save(&copy, None)?;
    println!("written to {}", copy.display());
    Ok(())
}
