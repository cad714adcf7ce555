//! Matmuls on tensor cores, and the loads of their operands.

use retromae::device::{Float, bf16, f16};

use super::{Expected, THREADS, assert_lanes, words};

/// Rows of A and C, and columns of A, which are rows of B.
const ROWS: usize = 16;
/// Columns of one tile of B and C.
const TILE: usize = 8;
/// Warps, each with its own operands.
const WARPS: usize = 16;

/// Error relative to the sum of the magnitudes of the addends of an element of C. The hardware may align the 17 addends to the exponent of the
/// greatest and truncate bits below its last one, 2^-23 of it, and truncate each of up to four intermediate sums in the same way (Fasi, Higham,
/// Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021): PTX leaves order and rounding open. A chain of fused
/// multiply-adds, which the host uses, errs by less. Products of 16-bit numbers are exact.
const ERROR: f64 = (17.0 + 4.0) / 8_388_608.0;

/// The operands of one warp, row by row.
struct Mma<T> {
    columns: usize,
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<f32>,
}

impl<T: Float> Mma<T> {
    /// Samples operands; `operand` and `addend` map 32 random bits to a number.
    fn sample(
        seed: u64,
        columns: usize,
        operand: impl Fn(u32) -> f32 + Copy,
        addend: impl Fn(u32) -> f32,
    ) -> Self {
        let sample = |seed, count| -> Vec<T> {
            let exactly = |word| {
                let value = operand(word);
                let rounded = T::from_f32(value);
                assert_eq!(rounded.to_f32().to_bits(), value.to_bits(), "not in {}", T::DTYPE.name());
                rounded
            };
            words(seed, count).into_iter().map(exactly).collect()
        };
        Self {
            columns,
            a: sample(3 * seed, ROWS * ROWS),
            b: sample(3 * seed + 1, ROWS * columns),
            c: words(3 * seed + 2, ROWS * columns).into_iter().map(addend).collect(),
        }
    }

    /// Returns a lane's registers of A, of B and of C, as the PTX ISA lays them out for m16n8k16.
    fn record(&self, lane: usize) -> Vec<u32> {
        let (group, quad_lane) = (lane / 4, lane % 4);
        let a = |row: usize, column: usize| self.a[row * ROWS + column];
        let b = |row: usize, column: usize| self.b[row * self.columns + column];
        let mut record: Vec<u32> = (0..4)
            .map(|register| {
                let (row, column) = (group + 8 * (register % 2), 2 * quad_lane + 8 * (register / 2));
                register_of(a(row, column), a(row, column + 1))
            })
            .collect();
        for tile in 0..self.columns / TILE {
            record.extend((0..2).map(|register| {
                let (row, column) = (2 * quad_lane + 8 * register, TILE * tile + group);
                register_of(b(row, column), b(row + 1, column))
            }));
        }
        record.extend(self.sums_of(lane).map(|(row, column)| self.c[row * self.columns + column].to_bits()));
        record
    }

    /// Returns row and column of each of a lane's sums.
    fn sums_of(&self, lane: usize) -> impl Iterator<Item = (usize, usize)> {
        let (group, quad_lane) = (lane / 4, lane % 4);
        (0..self.columns / TILE).flat_map(move |tile| {
            (0..4).map(move |i| (group + 8 * (i / 2), TILE * tile + 2 * quad_lane + i % 2))
        })
    }

    /// Returns an element of C + A B, and the sum of the magnitudes of its addends.
    fn sum(&self, (row, column): (usize, usize)) -> (f64, f64) {
        let wide = |value: T| f64::from(value.to_f32());
        let product = |k: usize| wide(self.a[row * ROWS + k]) * wide(self.b[k * self.columns + column]);
        let c = f64::from(self.c[row * self.columns + column]);
        let magnitude = c.abs() + (0..ROWS).map(|k| product(k).abs()).sum::<f64>();
        ((0..ROWS).map(product).fold(c, |sum, product| sum + product), magnitude)
    }
}

fn register_of<T: Float>(low: T, high: T) -> u32 {
    let [low, high] = [low, high].map(|value| u32::from(bytemuck::cast::<T, u16>(value)));
    low | high << 16
}

/// Returns a kernel of every width that is built.
fn kernels<T: Float>() -> [(&'static str, usize); 3] {
    match T::DTYPE.name() {
        "bf16" => {
            [("instruction_mma_bf16_1", 16), ("instruction_mma_bf16_2", 32), ("instruction_mma_bf16_4", 64)]
        }
        _ => [("instruction_mma_f16_1", 16), ("instruction_mma_f16_2", 32), ("instruction_mma_f16_4", 64)],
    }
}

/// Checks the kernels of a type on operands sampled for each warp.
fn assert_mma<T: Float>(
    operand: impl Fn(u32) -> f32 + Copy,
    addend: impl Fn(u32) -> f32 + Copy,
    expected: impl Fn((f64, f64)) -> Expected,
) {
    for (kernel, columns) in kernels::<T>() {
        let warps: Vec<Mma<T>> =
            (0..WARPS).map(|warp| Mma::sample(1000 + warp as u64, columns, operand, addend)).collect();
        let lanes = || warps.iter().flat_map(|warp| (0..32).map(move |lane| (warp, lane)));
        let input: Vec<u32> = lanes().flat_map(|(warp, lane)| warp.record(lane)).collect();
        let sums = lanes().flat_map(|(warp, lane)| warp.sums_of(lane).map(|place| warp.sum(place)));
        let expected: Vec<Expected> = sums.map(&expected).collect();
        assert_lanes(kernel, 0, 32 * WARPS / THREADS, &input, &expected);
    }
}

fn exactly((sum, _): (f64, f64)) -> Expected {
    Expected::Float(sum as f32)
}

/// Maps a word to an integer from -`limit` to `limit`.
fn integer(word: u32, limit: u32) -> f32 {
    (word % (2 * limit + 1)) as f32 - limit as f32
}

#[test]
fn mma_of_small_integers_is_exact() {
    let operand = |word| integer(word, 9);
    let addend = |word| integer(word, 5000);
    assert_mma::<bf16>(operand, addend, exactly);
    assert_mma::<f16>(operand, addend, exactly);
}

/// An infinite operand makes a sum infinite, or NaN if it meets a zero or an infinite operand of the other sign.
#[test]
fn mma_of_infinities_and_nan_gives_theirs() {
    // Rare enough that most sums have none, while one, two and more occur.
    let special = |word: u32, ordinary: f32| match word >> 16 & 0xff {
        0 => f32::INFINITY,
        1 => f32::NEG_INFINITY,
        2 if word >> 30 == 0 => f32::NAN,
        _ => ordinary,
    };
    let operand = |word| special(word, integer(word & 0xffff, 3));
    let addend = |word| special(word, integer(word & 0xffff, 5000));
    assert_mma::<bf16>(operand, addend, exactly);
    assert_mma::<f16>(operand, addend, exactly);
}

/// Values of 8 bits, which both types hold, at scales so far apart that the truncated part differs from sum to sum.
#[test]
fn mma_of_any_numbers_is_near() {
    let scaled = |word: u32, limit| integer(word & 0xffff, limit) * 2f32.powi(-((word >> 16) as i32 % 13));
    let near = |(value, magnitude): (f64, f64)| Expected::Near {
        value,
        tolerance: ERROR * magnitude,
        or_infinity: false,
    };
    assert_mma::<bf16>(|word| scaled(word, 255), |word| scaled(word, 32_767) * 1.37, near);
    assert_mma::<f16>(|word| scaled(word, 255), |word| scaled(word, 32_767) * 1.37, near);
}

/// Rows of 8 elements that a thread writes to shared memory.
const OWN_ROWS: usize = 4;
/// 32-bit words of a row.
const ROW_WORDS: usize = 4;
const OWN_WORDS: usize = OWN_ROWS * ROW_WORDS;

/// Checks loads of rows anywhere in the block's shared memory, each lane's at random.
fn assert_loads(kernel: &str, transposed: bool, count: usize) {
    let blocks = 4;
    let mut input = words(24, blocks * THREADS * (OWN_WORDS + count));
    let threads: Vec<&mut [u32]> = input.chunks_mut(OWN_WORDS + count).collect();
    for thread in threads {
        for row in &mut thread[OWN_WORDS..] {
            *row %= (THREADS * OWN_ROWS) as u32;
        }
    }
    let record = |thread: usize| &input[thread * (OWN_WORDS + count)..][..OWN_WORDS + count];
    // Element `column` of the row that a thread contributes to load `load`.
    let element = |thread: usize, load: usize, column: usize| {
        let row = record(thread)[OWN_WORDS + load] as usize;
        let owner = thread / THREADS * THREADS + row / OWN_ROWS;
        let word = record(owner)[row % OWN_ROWS * ROW_WORDS + column / 2];
        if column.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
    };
    let mut expected = Vec::new();
    for thread in 0..blocks * THREADS {
        let (group, quad_lane) = (thread % 32 / 4, thread % 4);
        for load in 0..count {
            for matrix in 0..4 {
                let at = |row, column| element(thread / 32 * 32 + 8 * matrix + row, load, column);
                let [low, high] = [2 * quad_lane, 2 * quad_lane + 1]
                    .map(|place| if transposed { at(place, group) } else { at(group, place) });
                expected.push(Expected::Bits(low | high << 16));
            }
        }
    }
    assert_lanes(kernel, (THREADS * OWN_WORDS * 4) as u32, blocks, &input, &expected);
}

#[test]
fn matrices_are_loaded_by_rows() {
    assert_loads("instruction_load_matrices_plain_1", false, 1);
    assert_loads("instruction_load_matrices_plain_2", false, 2);
    assert_loads("instruction_load_matrices_plain_4", false, 4);
}

#[test]
fn matrices_are_loaded_transposed() {
    assert_loads("instruction_load_matrices_transposed_1", true, 1);
    assert_loads("instruction_load_matrices_transposed_2", true, 2);
    assert_loads("instruction_load_matrices_transposed_4", true, 4);
}
