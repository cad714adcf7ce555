//! Models in files: weights in the safetensors format by the names of Hugging Face's `BertForMaskedLM`, and sizes in its `config.json`.
//!
//! | method | file | holds |
//! |---|---|---|
//! | [`Model::save`](super::Model::save), [`Model::load`](super::Model::load) | `model.safetensors` | `bert.*` and `cls.*`, in f32 |
//! | | `config.json` | sizes and options |
//! | [`Model::save_state`](super::Model::save_state), [`Model::load_state`](super::Model::load_state) | one of any name | every parameter and its moments, in f32 |
//!
//! ```
//! use retromae::device::Device;
//! use retromae::model::{Capacity, Model, ModelConfig};
//!
//! let device = Device::host()?;
//! let config = ModelConfig { hidden_size: 32, num_attention_heads: 1, intermediate_size: 64, ..ModelConfig::tiny(40) };
//! let capacity = Capacity { tokens: 16, sentences: 2, sentence_length: 16 };
//! let mut model = Model::<f32>::new(&device, &config, capacity)?;
//! model.initialize(1)?;
//!
//! let directory = std::env::temp_dir().join(format!("retromae-{}", std::process::id()));
//! std::fs::create_dir_all(&directory)?;
//! model.save(&directory, None)?;
//! let (loaded, weights) = Model::<f32>::load(&device, &directory, capacity)?;
//! let name = "bert.encoder.layer.0.attention.self.query.weight";
//! assert_eq!(loaded.parameter(name)?, model.parameter(name)?);
//! assert!(weights.fresh.iter().all(|name| name.starts_with("decoder.")));
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod state;
mod tensors;
mod weights;

pub use crate::common::FileError;
pub use config::{CONFIG_FILE, load_config, parse_config, save_config};
pub use error::{Error, Result};
pub use weights::{LoadedWeights, Purpose, WEIGHTS_FILE};
