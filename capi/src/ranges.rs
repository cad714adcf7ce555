//! The memory of a call's arrays, and what of it overlaps.

use crate::status::{Failure, Result, Status, invalid};

/// Rows of bytes, such as those of a matrix with gaps between its rows.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    field: &'static str,
    start: usize,
    /// The first byte after the last row.
    end: usize,
    row_bytes: usize,
    stride_bytes: usize,
    written: bool,
}

impl Range {
    /// Rows of `element` bytes each: rows, columns and stride in elements, none of them 0.
    ///
    /// # Errors
    /// When they exceed the address space.
    pub fn new(
        field: &'static str,
        start: usize,
        [rows, columns, stride]: [usize; 3],
        element: usize,
        written: bool,
    ) -> Result<Self> {
        let end = || {
            let span = (rows - 1).checked_mul(stride)?.checked_add(columns)?;
            start.checked_add(span.checked_mul(element)?)
        };
        let Some(end) = end() else {
            let actual = format_args!("[{rows}, {columns}] at {start:#x}");
            return invalid(field, actual, "within the address space");
        };
        // Rows without gaps are one row.
        let row_bytes = if rows == 1 || stride == columns { end - start } else { columns * element };
        let stride_bytes = if row_bytes == end - start { row_bytes } else { stride * element };
        Ok(Self { field, start, end, row_bytes, stride_bytes, written })
    }

    /// Returns whether a byte may belong to both. Exact for single rows and for equal strides, as of parts of one matrix.
    fn overlaps(&self, other: &Self) -> bool {
        if self.end <= other.start || other.end <= self.start {
            return false;
        }
        if self.stride_bytes != other.stride_bytes {
            return true;
        }
        let (first, second) = if self.start <= other.start { (self, other) } else { (other, self) };
        let column = (second.start - first.start) % first.stride_bytes;
        column < first.row_bytes || column + second.row_bytes > first.stride_bytes
    }
}

/// The arrays of a call.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    pub fn push(&mut self, range: Range) {
        self.0.push(range);
    }

    /// Refuses arrays of which one is written and overlaps another.
    ///
    /// # Errors
    /// One that names both.
    pub fn require_disjoint(&self) -> Result<()> {
        for (index, one) in self.0.iter().enumerate() {
            for other in &self.0[..index] {
                if (one.written || other.written) && one.overlaps(other) {
                    let (output, other) = if one.written { (one, other) } else { (other, one) };
                    let actual = format_args!("at {:#x}..{:#x}", output.start, output.end);
                    let expected =
                        format_args!("apart from {}, at {:#x}..{:#x}", other.field, other.start, other.end);
                    return Err(Failure::field(Status::Overlap, output.field, actual, expected));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(start: usize, rows: usize, columns: usize, stride: usize) -> Range {
        Range::new("rows", start, [rows, columns, stride], 4, true).unwrap()
    }

    #[test]
    fn parts_of_a_matrix_are_apart_and_others_are_not() {
        let thirds = [0, 1, 2].map(|third| rows(1024 + third * 16, 5, 4, 12));
        assert!(!thirds[0].overlaps(&thirds[1]) && !thirds[2].overlaps(&thirds[0]));
        assert!(thirds[0].overlaps(&rows(1024 + 12, 5, 4, 12)));
        assert!(thirds[0].overlaps(&rows(1024 + 44, 5, 4, 12)));
        assert!(thirds[1].overlaps(&rows(1024, 1, 60, 60)));
        assert!(!rows(0, 2, 8, 8).overlaps(&rows(64, 2, 8, 8)));
        assert!(rows(0, 2, 8, 8).overlaps(&rows(60, 1, 1, 1)));
        assert!(Range::new("rows", 8, [1 << 40, 8, 1 << 40], 4, false).is_err());
    }

    /// Every pair of small matrices, byte by byte.
    #[test]
    fn no_overlap_is_missed() {
        for start in 0..12 {
            for shape in [[1, 3, 3], [2, 2, 4], [3, 1, 4], [2, 2, 3], [2, 3, 3]] {
                let (one, other) = (rows(16, 3, 2, 4), rows(start * 4, shape[0], shape[1], shape[2]));
                let bytes = |start: usize, [rows, columns, stride]: [usize; 3]| {
                    (0..rows)
                        .flat_map(move |row| (0..columns).map(move |column| start + row * stride + column))
                };
                let own: Vec<usize> = bytes(4, [3, 2, 4]).collect();
                let common = bytes(start, shape).any(|element| own.contains(&element));
                assert!(!common || one.overlaps(&other), "{start} {shape:?}");
                assert_eq!(one.overlaps(&other), other.overlaps(&one));
            }
        }
    }
}
