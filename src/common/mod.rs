//! Types that all layers share: configurations, batches, masking and loss options, and the random streams. It imports nothing above.

mod batch;
mod config;
pub(crate) mod constants;
pub(crate) mod content;
mod files;
pub(crate) mod loss;
mod masking;
pub mod random;

pub(crate) use batch::bag_of_words;
pub use batch::{Batch, MaskPool, PackedSentences};
pub use config::{DecoderKind, ModelConfig, QueryKind, dropout_site};
pub use constants::IGNORE_INDEX;
pub use files::FileError;
pub(crate) use files::{read_text, write_then_rename, write_whole};
pub use masking::{MaskCountLimit, Masking, PoolRows};
