//! All tests of the crate in one program: it links once, and a GPU machine needs only one file.
//!
//! One module an operation, mirroring `src/ops`.

mod accumulation;
mod adamw;
mod attention;
mod bag_of_words;
mod bank_conflicts;
mod baseline;
mod bias_gelu;
mod captures;
#[path = "../../benches/cases/mod.rs"]
mod cases;
mod cli;
mod column_sum;
mod common;
mod contexts;
mod cross_entropy;
mod cuda;
mod data;
mod embedding;
mod every_kernel;
mod fatbin;
mod faults;
mod gradients;
mod group_by_key;
mod host_device;
mod initial_weights;
mod instructions;
mod layer_norm;
mod lent_streams;
mod lifetimes;
mod linear;
mod linkage;
mod masks;
mod matmul;
mod model;
mod model_arguments;
mod model_files;
mod out_of_range;
mod peers;
mod pooling;
mod recorded;
mod reduce;
mod rows;
mod run_ends;
mod runs;
mod sampling;
mod segment_sum;
mod signals;
mod store_run;
mod streams;
mod text_kinds;
mod tokenize;
mod tokenizers;
mod training;
mod tutorial;
