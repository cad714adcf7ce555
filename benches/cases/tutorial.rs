//! The operation of `docs/kernels.md`: a matrix' rows, all of them in another order, minus a center and divided by their norms. Beside it the gather
//! alone, which moves the same bytes.
//!
//! Bound, with R rows of C columns: no matmuls; 2·R·C·e bytes, an index and an f32 a row, C f32 of the center.

use retromae::device::{Buffer, ModelFloat, Stream};
use retromae::ops::rows::{self, Gather};
use retromae::ops::tutorial::{SentenceVectors, sentence_vectors};

use crate::harness::{Bench, Bound, FUSED, Outcome, Rank, Results, Variant, Work, typed, values, widened};

pub fn bench<T: ModelFloat>(bench: &mut Bench) {
    let (rows, columns) = if bench.on_gpu() { (32_768, 768) } else { (4096, 128) };
    let bound = Bound::new(0, 2 * rows * columns * T::DTYPE.bytes() + 8 * rows + 4 * columns);
    let variant = |name, gather| {
        Variant::new(name, move |stream: &Stream| Vectors::<T>::new(stream, [rows, columns], gather))
    };
    let variants = vec![variant(FUSED, false), variant("gather", true)];
    bench.group("sentence_vectors").case(Rank::Rest, &format!("R{rows}_C{columns}"), bound, variants);
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
            center: device.upload(&values(2, columns))?,
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
        if self.gather { Ok(Results::new()) } else { Ok(vec![("output".into(), widened(&self.output)?)]) }
    }
}
