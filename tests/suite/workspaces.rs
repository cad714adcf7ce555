//! Workspace queries of sizes that no array can have.

use retromae::device::DType;
use retromae::ops::cross_entropy::{self, Algorithm};
use retromae::ops::{
    attention, bag_of_words, column_sum, embedding, group_by_key, layer_norm, masks, reduce, segment_sum,
};

/// No query panics or wraps, whatever the sizes.
#[test]
fn every_query_takes_any_size() {
    let huge = [usize::MAX, usize::MAX - 6, 1 << 62, 1 << 40, u32::MAX as usize + 1];
    for rows in huge {
        let queries = |columns: usize| {
            [Algorithm::Library, Algorithm::Fused].map(|algorithm| {
                cross_entropy::workspace(algorithm, DType::F32, rows, columns, rows)
                    .either(cross_entropy::forward_workspace(algorithm, DType::F32, rows, columns, rows))
                    .either(bag_of_words::workspace(algorithm, DType::Bf16, rows, columns, rows))
            })
        };
        for columns in huge.into_iter().chain([8, 768]) {
            assert!(queries(columns).iter().all(|needed| needed.bytes() >= rows), "{rows}, {columns}");
            for needed in [
                attention::workspace(rows, 12, columns),
                column_sum::workspace(rows, columns),
                embedding::workspace(DType::Bf16, rows, columns),
                group_by_key::workspace(3, rows),
                masks::workspace(rows, 8192, columns),
                segment_sum::workspace(rows, columns),
            ] {
                assert!(needed.bytes() >= rows / 512, "{rows}, {columns}");
            }
            let _ = (layer_norm::workspace(rows, columns), reduce::workspace(rows));
        }
    }
}
