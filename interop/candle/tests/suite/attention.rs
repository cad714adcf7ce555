//! Attention under every mask, with its gradients.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use retromae::model::{MaskPool, PoolRows};
use retromae::ops::attention::MaskBits;
use retromae::ops::masks::MaskCountLimit;
use retromae::reference::mask;
use retromae_candle::{Attention, GeneratedMask, Mask, PackedBatch};

use crate::{F32, assert_close, assert_no_worse, gradients, wave};

/// Each a sentence with less than, as many as and more tokens than a word of bits or a tile has; one without tokens.
const LENGTHS: [usize; 6] = [1, 17, 0, 33, 2, 65];
const TOKENS: usize = 1 + 17 + 33 + 2 + 65;
const HEADS: usize = 2;
const SEED: u64 = 5;
const STEP: u32 = 3;
const POOL_ROWS: usize = 7;

/// Whether the query at a position of a sentence sees a key.
type Visible<'a> = &'a dyn Fn(usize, usize, usize) -> bool;
/// The position of a query in its sentence, by the sentence and the query's number.
type Positions<'a> = &'a dyn Fn(usize, usize) -> usize;

/// Attention of candle's operations: softmax by exponentials, so that a query that sees nothing gives zeros and has no gradient.
///
/// Each result and, on the way back, its gradient is rounded to `dtype`.
fn unfused(
    dtype: DType,
    tensors: [&Tensor; 3],
    lengths: [&[usize]; 2],
    positions: Positions<'_>,
    visible: Visible<'_>,
) -> Result<Tensor> {
    let (_, heads, head_dim) = tensors[0].dims3()?;
    let round = |tensor: Tensor| tensor.to_dtype(dtype)?.to_dtype(DType::F32);
    let (mut outputs, mut start) = (Vec::new(), [0, 0]);
    for (sentence, (&queries, &keys)) in lengths[0].iter().zip(lengths[1]).enumerate() {
        if keys == 0 {
            outputs.push(Tensor::zeros((queries, heads, head_dim), DType::F32, &Device::Cpu)?);
        } else if queries > 0 {
            let of = |tensor: &Tensor, start, length| {
                tensor.narrow(0, start, length)?.transpose(0, 1)?.contiguous()
            };
            let query = of(tensors[0], start[0], queries)?;
            let [key, value] = [of(tensors[1], start[1], keys)?, of(tensors[2], start[1], keys)?];
            let scores =
                round((query.matmul(&key.transpose(1, 2)?.contiguous()?)? / (head_dim as f64).sqrt())?)?;
            let seen = (0..queries)
                .flat_map(|query| (0..keys).map(move |key| (query, key)))
                .map(|(query, key)| f32::from(u8::from(visible(sentence, positions(sentence, query), key))));
            let seen = Tensor::from_vec(seen.collect(), (queries, keys), &Device::Cpu)?;
            let largest = scores.max_keepdim(D::Minus1)?.detach();
            let weights = scores.broadcast_sub(&largest)?.exp()?.broadcast_mul(&seen)?;
            let sums = weights.sum_keepdim(D::Minus1)?;
            // One where nothing is seen, so that 0 is divided by it.
            let sums = (&sums + sums.eq(0f32)?.to_dtype(DType::F32)?)?;
            let probabilities = round(weights.broadcast_div(&sums)?)?;
            outputs.push(round(probabilities.matmul(&value)?)?.transpose(0, 1)?);
        }
        start = [start[0] + queries, start[1] + keys];
    }
    Tensor::cat(&outputs, 0)
}

/// Compares output and gradients, with one query a token.
#[track_caller]
fn compare(name: &str, head_dim: usize, mask: Mask, visible: Visible<'_>) {
    let compare = || -> Result<()> {
        let batch = PackedBatch::new(&LENGTHS, &Device::Cpu)?;
        let vars = [0.37, 0.71, 1.3].map(|step| wave(&[TOKENS, HEADS, head_dim], step).unwrap());
        let [query, key, value] = vars.each_ref().map(Var::as_tensor);
        let actual = Attention::new(&batch).mask(mask.clone()).forward(query, key, value)?;
        let expected = unfused(DType::F32, [query, key, value], [&LENGTHS; 2], &|_, query| query, visible)?;
        assert_close(&format!("{name}: output"), &actual, &expected, F32);
        let vars = vars.each_ref();
        let pairs = gradients(&actual, &vars)?.into_iter().zip(gradients(&expected, &vars)?);
        for ((actual, expected), of) in pairs.zip(["query", "key", "value"]) {
            assert_close(&format!("{name}: gradient of {of}"), &actual, &expected, F32);
        }
        Ok(())
    };
    compare().unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn every_key() {
    for head_dim in [32, 64] {
        compare("full", head_dim, Mask::FULL, &|_, _, _| true);
    }
}

#[test]
fn causal_and_windows() {
    for head_dim in [32, 64] {
        compare("causal", head_dim, Mask::CAUSAL, &|_, query, key| key <= query);
        let window = Mask::window(Some(4), Some(2), true);
        let visible = |_, query, key| key == 0 || (key + 4 >= query && key <= query + 2);
        compare("window", head_dim, window, &visible);
    }
}

/// No pattern in words of 32, and queries that see nothing.
fn sparse(sentence: usize, query: usize, key: usize) -> bool {
    query % 5 != 1 && (7 * sentence + 13 * query + 5 * key * key) % 11 < 4
}

#[test]
fn bits_of_ones_own() {
    let bits = MaskBits::from_fn(&LENGTHS, sparse).unwrap();
    for head_dim in [32, 64] {
        compare("bits", head_dim, Mask::bits(&bits, &Device::Cpu).unwrap(), &sparse);
    }
}

#[test]
fn factorization_order() {
    let order: Vec<u16> =
        LENGTHS.iter().flat_map(|&length| (0..length).map(move |i| ((7 * i + 3) % length) as u16)).collect();
    let starts: Vec<usize> =
        LENGTHS.iter().scan(0, |end, &length| Some(std::mem::replace(end, *end + length))).collect();
    let place = |sentence: usize, position: usize| order[starts[sentence] + position];
    for include_self in [false, true] {
        let mask = Mask::permutation(&order, include_self, &Device::Cpu).unwrap();
        let visible = |sentence, query, key| {
            place(sentence, key) < place(sentence, query) || include_self && key == query
        };
        compare("permutation", 32, mask, &visible);
    }
}

/// The pool that seed and step stand for, by the f64 reference.
fn pool(rows: PoolRows) -> MaskPool {
    let starts = [true; TOKENS];
    let half = mask::MaskCountLimit { ratio: 0.5, cap: None };
    let mut all = MaskPool { offsets: vec![0], ..MaskPool::default() };
    for (index, &length) in (0..).zip(&LENGTHS) {
        if length > 0 {
            let sentence = mask::MaskedSentence { index, word_starts: &starts[..length] };
            let own = mask::mask_pool(SEED, STEP, &[sentence], half, rows);
            all.bits.extend(own.bits);
            all.rows.extend(own.rows);
        }
        all.offsets.push(all.bits.len() as u32);
    }
    all
}

/// Whether a pool shows a key to a query of two-stream attention.
fn pool_shows(pool: &MaskPool, sentence: usize, query: usize, key: usize) -> bool {
    let start: usize = LENGTHS[..sentence].iter().sum();
    let words = LENGTHS[sentence].div_ceil(32);
    let row = pool.offsets[sentence] as usize + usize::from(pool.rows[start + query]) * words;
    key != query && (key == 0 || pool.bits[row + key / 32] >> (key % 32) & 1 == 1)
}

#[test]
fn two_streams() {
    let shared = pool(PoolRows::AtMost(POOL_ROWS));
    let own = pool(PoolRows::Independent);
    let generated = GeneratedMask {
        seed: SEED,
        step: STEP,
        sentence_indices: &[0, 1, 2, 3, 4, 5],
        word_starts: &[true; TOKENS],
        pool_rows_max: POOL_ROWS,
        count_limit: MaskCountLimit::of(0.5),
    };
    let shows = |sentence, query, key| pool_shows(&shared, sentence, query, key);
    for head_dim in [32, 64] {
        compare("pool", head_dim, Mask::pool(&shared, &Device::Cpu).unwrap(), &shows);
        compare("generated", head_dim, Mask::generated(generated, &Device::Cpu).unwrap(), &shows);
        let mask = Mask::independent(&own, &Device::Cpu).unwrap();
        compare("independent", head_dim, mask, &|sentence, query, key| {
            pool_shows(&own, sentence, query, key)
        });
    }
}

/// Fewer queries than keys at positions of their own, and more queries than keys.
#[test]
fn queries_that_are_packed_separately() -> Result<()> {
    let device = &Device::Cpu;
    let keys = PackedBatch::new(&LENGTHS, device)?;
    let fewer = LENGTHS.map(|length| length.div_ceil(3));
    let positions: Vec<i32> = LENGTHS.iter().flat_map(|&length| (0..length as i32).step_by(3)).collect();
    let more = LENGTHS.map(|length| length + 1);
    let at_third = Attention::new(&keys)
        .mask(Mask::CAUSAL)
        .queries(&PackedBatch::new(&fewer, device)?, Some(&positions))?;
    let unmasked = Attention::new(&keys).queries(&PackedBatch::new(&more, device)?, None)?;
    let causal = |_, query, key| key <= query;
    let cases: [(_, _, Positions<'_>, Visible<'_>); 2] = [
        (at_third, fewer, &|_, query| 3 * query, &causal),
        (unmasked, more, &|_, query| query, &|_, _, _| true),
    ];
    for (attention, lengths, positions, visible) in cases {
        let query = wave(&[lengths.iter().sum(), HEADS, 32], 0.37)?;
        let [key, value] = [0.71, 1.3].map(|step| wave(&[TOKENS, HEADS, 32], step).unwrap());
        let actual = attention.forward(&query, &key, &value)?;
        let expected = unfused(DType::F32, [&query, &key, &value], [&lengths, &LENGTHS], positions, visible)?;
        assert_close("output", &actual, &expected, F32);
        let vars = [&query, &key, &value];
        for (actual, expected) in gradients(&actual, &vars)?.iter().zip(&gradients(&expected, &vars)?) {
            assert_close("gradient", actual, expected, F32);
        }
    }
    Ok(())
}

#[test]
fn sixteen_bits() -> Result<()> {
    let batch = PackedBatch::new(&LENGTHS, &Device::Cpu)?;
    for (dtype, head_dim) in [(DType::BF16, 32), (DType::BF16, 64), (DType::F16, 32), (DType::F16, 64)] {
        let narrow = [0.37, 0.71, 1.3].map(|step| wave(&[TOKENS, HEADS, head_dim], step).unwrap());
        let narrow = narrow.map(|var| Var::from_tensor(&var.to_dtype(dtype).unwrap()).unwrap());
        let wide = narrow.each_ref().map(|var| Var::from_tensor(&var.to_dtype(DType::F32).unwrap()).unwrap());
        let [query, key, value] = narrow.each_ref().map(Var::as_tensor);
        let actual = Attention::new(&batch).mask(Mask::CAUSAL).forward(query, key, value)?;
        assert_eq!(actual.dtype(), dtype);
        let causal = |_, query, key| key <= query;
        let [naive, exact] = [dtype, DType::F32].map(|dtype| {
            let tensors = wide.each_ref().map(Var::as_tensor);
            unfused(dtype, tensors, [&LENGTHS; 2], &|_, query| query, &causal).unwrap()
        });
        assert_no_worse(&format!("{dtype:?} output"), [&actual, &naive, &exact], dtype);
        let actual = gradients(&actual, &narrow.each_ref())?;
        let [naive, exact] = [naive, exact].map(|result| gradients(&result, &wide.each_ref()).unwrap());
        for index in 0..3 {
            let of_three = [&actual[index], &naive[index], &exact[index]];
            assert_no_worse(&format!("{dtype:?} gradient {index}"), of_three, dtype);
        }
    }
    Ok(())
}

#[test]
fn the_scale_of_the_scores() -> Result<()> {
    let batch = PackedBatch::new(&[9], &Device::Cpu)?;
    let [query, key, value] = [0.37, 0.71, 1.3].map(|step| wave(&[9, 1, 32], step).unwrap());
    let scaled = Attention::new(&batch).scale(0.5).forward(&query, &key, &value)?;
    let factor = 0.5 * 32f64.sqrt();
    let same = Attention::new(&batch).forward(&(query.as_tensor() * factor)?, &key, &value)?;
    assert_close("output", &scaled, &same, F32);
    Ok(())
}

/// Two layers of one attention, whose first output is used twice, and two ways back.
#[test]
fn several_calls_in_a_graph() -> Result<()> {
    let batch = PackedBatch::new(&LENGTHS, &Device::Cpu)?;
    let (content, weight) = (wave(&[TOKENS, 2, 32], 0.37)?, wave(&[64, 64], 0.11)?);
    let attention = Attention::new(&batch).mask(Mask::CAUSAL);
    let fused = |query: &Tensor, key: &Tensor, value: &Tensor| attention.forward(query, key, value);
    let causal = |_, query, key| key <= query;
    let own = |query: &Tensor, key: &Tensor, value: &Tensor| {
        unfused(DType::F32, [query, key, value], [&LENGTHS; 2], &|_, query| query, &causal)
    };
    let network = |attention: &dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>| -> Result<Tensor> {
        let first = attention(&content, &content, &content)?;
        let linear = (first.reshape((TOKENS, 64))?.matmul(&weight)? / 8.)?.reshape((TOKENS, 2, 32))?;
        let second = attention(&linear, &first, &content)?;
        let third = attention(&second, &linear, &first)?;
        &first + (second + third)?
    };
    let (actual, expected) = (network(&fused)?, network(&own)?);
    assert_close("output", &actual, &expected, F32);
    let vars = [&content, &weight];
    let [once, again] = [gradients(&actual, &vars)?, gradients(&actual, &vars)?];
    for (index, expected) in gradients(&expected, &vars)?.iter().enumerate() {
        assert_close("gradient", &once[index], expected, F32);
        assert_eq!(crate::error(&once[index], &again[index])?, 0.0, "the way back may be gone twice");
    }
    Ok(())
}
