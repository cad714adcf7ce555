//! Retrieval quality of embeddings: finding the document that a query came from, compared with BM25.

mod bm25;
mod embed;
mod retrieval;

pub use bm25::Bm25;
pub use embed::{EmbedError, Embedder, normalize_rows};
pub use retrieval::{
    Error, HeldOut, RetrievalScore, Split, rank_bm25, rank_dense, sample_held_out, split_held_out,
};
