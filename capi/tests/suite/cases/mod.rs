//! Right calls of every operation, with ugly sizes, gaps between rows, and optional arrays absent and present.

mod attention;
mod dense;
mod losses;
mod tables;
mod training;

use crate::common::{Case, Memory};

/// Returns all cases, in memory that `memory` makes; a file's are made when it is its turn, as guard pages are limited.
pub fn all(memory: fn() -> Memory) -> impl Iterator<Item = Case> {
    [attention::cases, dense::cases, losses::cases, tables::cases, training::cases]
        .into_iter()
        .flat_map(move |cases| cases(memory))
}
