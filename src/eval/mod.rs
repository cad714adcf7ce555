//! How well embeddings find the document that a query came from, beside BM25.

mod bm25;
mod retrieval;

pub use bm25::Bm25;
pub use retrieval::{Error, HeldOut, RetrievalScore, Split, rank_bm25, rank_dense, split_held_out};
