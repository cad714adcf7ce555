//! All tests of the crate in one program: it links once, and a GPU machine needs to be given one file.
//!
//! One module an operation, mirroring `src/ops`.

mod adamw;
mod attention;
mod bag_of_words;
mod bank_conflicts;
mod baseline;
mod bias_gelu;
mod cli;
mod column_sum;
mod common;
mod cross_entropy;
mod cuda;
mod data;
mod drawing;
mod embedding;
mod every_kernel;
mod fatbin;
mod faults;
mod gradients;
mod group_by_key;
mod host_device;
mod layer_norm;
mod linear;
mod linkage;
mod masks;
mod model;
mod model_files;
mod out_of_range;
mod pooling;
mod product;
mod reduce;
mod rows;
mod runs;
mod segment_sum;
mod signals;
mod store_run;
mod streams;
mod tokenize;
mod tokenizers;
mod twins;
