//! Names, shapes and places of parameters in the arena that holds them.

use std::collections::HashMap;
use std::ops::Range;

use crate::ops::{Result, wrong};

/// Alignment of every parameter's start, in elements: 16 bytes of a 16-bit type.
const ALIGNMENT: usize = 8;

/// Place of a parameter in the arena of its table: a matrix `[rows, columns]`, or a vector of `rows` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Counted within the matrices or within the vectors.
    offset: usize,
    rows: usize,
    columns: usize,
    is_matrix: bool,
}

impl Parameter {
    /// Number of rows, or of a vector's elements.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns; 1 for a vector.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The rows of `range`, or these elements of a vector.
    ///
    /// # Panics
    /// When `range` exceeds the rows, as in indexing a slice.
    #[must_use]
    pub fn slice_rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        Self { offset: self.offset + range.start * self.columns, rows: range.len(), ..self }
    }

    /// One parameter of all rows of `parts`, which follow each other in the arena: such as the projections to queries, keys and values.
    ///
    /// # Panics
    /// When they do not follow each other without a gap, or have not equally many columns.
    #[must_use]
    pub fn join<const N: usize>(parts: [Self; N]) -> Self {
        let mut whole = parts[0];
        for part in &parts[1..] {
            let next = Self { offset: whole.offset + whole.len(), rows: part.rows, ..whole };
            assert!(*part == next, "{part:?} does not follow {whole:?}");
            whole.rows += part.rows;
        }
        whole
    }

    pub(super) fn len(self) -> usize {
        self.rows * self.columns
    }
}

/// A parameter's name, shape, place and initial value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub parameter: Parameter,
    /// Initial value of a vector; `None` for a matrix, whose initial values are random.
    pub initial: Option<f32>,
}

/// Names, shapes and places of a model's parameters.
#[derive(Clone, Debug, Default)]
pub struct ParameterTable {
    matrices: Vec<Entry>,
    vectors: Vec<Entry>,
    /// Elements of all matrices, and of all vectors, rounded up to whole alignments.
    pub(super) matrix_elements: usize,
    vector_elements: usize,
}

impl ParameterTable {
    /// A table without parameters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a matrix `[rows, columns]`, which weight decay acts on. Its initial values are normally distributed.
    pub fn matrix(&mut self, name: impl Into<String>, [rows, columns]: [usize; 2]) -> Parameter {
        let parameter = Parameter { offset: self.matrix_elements, rows, columns, is_matrix: true };
        self.matrix_elements = (parameter.offset + parameter.len()).next_multiple_of(ALIGNMENT);
        self.matrices.push(Entry { name: name.into(), shape: vec![rows, columns], parameter, initial: None });
        parameter
    }

    /// Adds a vector of `length` elements, which weight decay leaves alone: a bias or a LayerNorm weight. All its elements are `initial` at first.
    pub fn vector(&mut self, name: impl Into<String>, length: usize, initial: f32) -> Parameter {
        let parameter =
            Parameter { offset: self.vector_elements, rows: length, columns: 1, is_matrix: false };
        self.vector_elements = (parameter.offset + length).next_multiple_of(ALIGNMENT);
        self.vectors.push(Entry {
            name: name.into(),
            shape: vec![length],
            parameter,
            initial: Some(initial),
        });
        parameter
    }

    /// Names and shapes, in the order of the arena: matrices, then vectors, each in the order in which they were added.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries().map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    /// Names and places, in the order of the arena: ranges of elements in each of its [arrays](super::ParameterArena::arrays).
    pub fn ranges(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.entries().map(|entry| (entry.name.as_str(), range(entry.parameter, self.matrix_elements)))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.matrices.iter().chain(&self.vectors)
    }

    /// Elements of the arena.
    pub(super) fn len(&self) -> usize {
        self.matrix_elements + self.vector_elements
    }

    /// Maps each name to its entry; refuses a name that occurs twice.
    pub(super) fn names(&self) -> Result<HashMap<String, usize>> {
        let mut names = HashMap::new();
        for (index, entry) in self.entries().enumerate() {
            if names.insert(entry.name.clone(), index).is_some() {
                return wrong(
                    "table",
                    format_args!("with two parameters {:?}", entry.name),
                    "of unique names",
                );
            }
        }
        Ok(names)
    }
}

/// Returns the place of a parameter in an arena that begins with `matrix_elements` elements of matrices.
pub(super) fn range(parameter: Parameter, matrix_elements: usize) -> Range<usize> {
    let start = if parameter.is_matrix { parameter.offset } else { matrix_elements + parameter.offset };
    start..start + parameter.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_apart_and_aligned() {
        let mut table = ParameterTable::new();
        let parameters = [
            table.vector("a", 3, 0.0),
            table.matrix("b", [3, 5]),
            table.matrix("c", [2, 4]),
            table.vector("d", 9, 1.0),
        ];
        let [a, b, c, d] = parameters.map(|parameter| range(parameter, table.matrix_elements));
        assert_eq!([b, c, a, d], [0..15, 16..24, 24..27, 32..41]);
        assert_eq!(table.len(), 48);
        let names: Vec<&str> = table.shapes().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "c", "a", "d"]);
    }

    #[test]
    fn neighbors_are_one_parameter() {
        let mut table = ParameterTable::new();
        let parts = ["query", "key", "value"].map(|name| table.matrix(name, [4, 8]));
        let whole = Parameter::join(parts);
        assert_eq!((whole.rows(), whole.columns(), whole.offset), (12, 8, 0));
        assert_eq!(whole.slice_rows(4..8), parts[1]);
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn parameters_with_a_gap_are_not_joined() {
        let mut table = ParameterTable::new();
        let parts = ["a", "b"].map(|name| table.vector(name, 3, 0.0));
        let _ = Parameter::join(parts);
    }
}
