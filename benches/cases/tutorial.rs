//! The operation of `docs/kernels.md`: a matrix' rows, all of them in another order, minus a center and divided by their norms. Beside it the gather
//! alone, which moves the same bytes.
//!
//! Bound, with R rows of C columns: no matmuls; 2·R·C·e bytes, an index and an f32 a row, C f32 of the center.

use retromae::device::{Buffer, ModelFloat, Stream};
use retromae::ops::rows::{self, Gather};
use retromae::ops::tutorial::{SentenceVectors, sentence_vectors};
use serde_json::Value;

use super::data::{read, typed};
use super::{Bound, FUSED, Operation, Outcome, Rank, Results, Scale, Variant, Work, named};

struct Case {
    rows: usize,
    columns: usize,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let (rows, columns) = scale.choose((32_768, 768), (4096, 128));
    vec![Operation::new("sentence_vectors", [Case { rows, columns }])]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("R{}_C{}", self.rows, self.columns)
    }

    fn rank(&self) -> Rank {
        Rank::Rest
    }

    fn sizes(&self) -> Option<Value> {
        None
    }

    fn bound(&self) -> Bound {
        let Self { rows, columns } = *self;
        Bound::new(0, 2 * rows * columns * T::DTYPE.bytes() + 8 * rows + 4 * columns)
    }

    fn variants(&self) -> Vec<Variant> {
        let shape = [self.rows, self.columns];
        let variant =
            |name, gather| Variant::new(name, move |stream| Vectors::<T>::new(stream, shape, gather));
        vec![variant(FUSED, false), variant("gather", true)]
    }
}

struct Vectors<T: ModelFloat> {
    shape: [usize; 2],
    /// The gather alone.
    gather: bool,
    input: Buffer<T>,
    rows: Buffer<i32>,
    center: Buffer<f32>,
    output: Buffer<T>,
    norms: Buffer<f32>,
}

impl<T: ModelFloat> Vectors<T> {
    fn new(stream: &Stream, shape @ [rows, columns]: [usize; 2], gather: bool) -> Outcome<Self> {
        let device = stream.device();
        Ok(Self {
            shape,
            gather,
            input: device.upload(&typed(1, rows * columns))?,
            rows: device.upload(&(0..rows as i32).rev().collect::<Vec<i32>>())?,
            center: device.upload(&typed::<f32>(2, columns))?,
            output: device.zeros(rows * columns)?,
            norms: device.zeros(rows)?,
        })
    }
}

impl<T: ModelFloat> Work for Vectors<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let [rows, columns] = self.shape;
        let (input, output) = (self.input.matrix(rows, columns)?, self.output.matrix_mut(rows, columns)?);
        if self.gather {
            return Ok(rows::gather(stream, Gather { input, rows: self.rows.view(), output })?);
        }
        let arguments = SentenceVectors {
            input,
            rows: self.rows.view(),
            center: self.center.view(),
            eps: 1e-12,
            output,
            norms: self.norms.view_mut(),
        };
        Ok(sentence_vectors(stream, arguments)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        // The gather computes something else.
        if self.gather { Ok(Results::new()) } else { Ok(named([("output", read(&self.output)?)])) }
    }
}
