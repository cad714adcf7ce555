//! What the layers share: configurations, batches, masking and losses as they are stated, and the random streams. It imports nothing above.

mod batch;
mod config;
mod content;
mod files;
mod loss;
mod masking;
pub mod random;

pub(crate) use batch::bag_of_words;
pub use batch::{Batch, IGNORE_INDEX, PackedSentences, VisibilityBank};
pub use config::{DecoderKind, ModelConfig, QueryKind, dropout_site};
pub(crate) use content::{Compression, Content, Encoding, HEAD_BYTES};
pub use files::FileError;
pub(crate) use files::{read_text, write_then_rename, write_whole};
pub use loss::Options;
pub use masking::{BankRows, Budget, Masking};
