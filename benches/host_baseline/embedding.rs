//! The gradient of an embedding table: rows added one after the other, each task owning some of the table.

use rayon::prelude::*;

/// `table[ids[t]] += rows[t]`; both matrices have `columns` columns.
pub fn backward(table: &mut [f32], ids: &[i32], rows: &[f32], columns: usize) {
    let tasks = rayon::current_num_threads();
    let owned = (table.len() / columns).div_ceil(tasks);
    table.par_chunks_mut(owned * columns).enumerate().for_each(|(task, table)| {
        for (&id, row) in ids.iter().zip(rows.chunks_exact(columns)) {
            let Some(place) = (id as usize).checked_sub(task * owned).filter(|&place| place < owned) else {
                continue;
            };
            let sums = &mut table[place * columns..][..columns];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    });
}
