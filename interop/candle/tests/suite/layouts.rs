//! Tensors that are parts of others, or turned around.

use candle_core::{Device, Result, Tensor, Var};
use retromae_candle::{Attention, LinearCrossEntropy, Mask, PackedBatch};

use crate::{error, gradients, wave};

const TOKENS: usize = 19;

/// Three tensors `[T, A, d]` of one variable, in a layout of their own.
type Parts = fn(&Var) -> Result<[Tensor; 3]>;

/// Results and gradients are those of contiguous copies, bit for bit.
#[test]
fn attention_over_parts_of_a_tensor() -> Result<()> {
    let packed: Parts = |var| {
        let all = var.reshape((TOKENS, 3, 2, 32))?;
        Ok([0, 1, 2].map(|part| all.narrow(1, part, 1).unwrap().squeeze(1).unwrap()))
    };
    let heads_first: Parts = |var| {
        let all = var.reshape((3, 2, TOKENS, 32))?;
        Ok([0, 1, 2].map(|part| all.get(part).unwrap().transpose(0, 1).unwrap()))
    };
    let columns_first: Parts = |var| {
        let all = var.reshape((3, 2, 32, TOKENS))?;
        Ok([0, 1, 2].map(|part| all.get(part).unwrap().permute((2, 0, 1)).unwrap()))
    };
    let misaligned: Parts = |var| {
        let flat = var.flatten_all()?;
        let part = |start| flat.narrow(0, start, TOKENS * 64).unwrap().reshape((TOKENS, 2, 32)).unwrap();
        Ok([1, 66, 131].map(part))
    };
    let one_row_for_all: Parts = |var| {
        let row = var.flatten_all()?.narrow(0, 64, 64)?.reshape((1, 2, 32))?;
        let all = row.broadcast_as((TOKENS, 2, 32))?;
        let rest = var.flatten_all()?.narrow(0, 128, TOKENS * 64)?.reshape((TOKENS, 2, 32))?;
        Ok([all, rest.clone(), rest])
    };
    let attention = Attention::new(&PackedBatch::new(&[7, 12], &Device::Cpu)?).mask(Mask::CAUSAL);
    for parts in [packed, heads_first, columns_first, misaligned, one_row_for_all] {
        let var = wave(&[TOKENS * 3 * 64], 0.37)?;
        let [query, key, value] = parts(&var)?;
        let actual = attention.forward(&query, &key, &value)?;
        let [query, key, value] = parts(&var)?.map(|part| part.force_contiguous().unwrap());
        let expected = attention.forward(&query, &key, &value)?;
        assert_eq!(error(&actual, &expected)?, 0.0);
        let [actual, expected] = [gradients(&actual, &[&var])?, gradients(&expected, &[&var])?];
        assert_eq!(error(&actual[0], &expected[0])?, 0.0);
    }
    Ok(())
}

#[test]
fn losses_of_parts_of_a_tensor() -> Result<()> {
    let (hidden, weight, bias) = (wave(&[12, 17], 0.37)?, wave(&[12, 2 * 30], 0.71)?, wave(&[31], 1.3)?);
    let targets = Tensor::new(&[9u32, 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], &Device::Cpu)?;
    let loss = |copy: &dyn Fn(&Tensor) -> Tensor| {
        let tensors =
            [hidden.t()?, weight.narrow(1, 30, 30)?.t()?, bias.narrow(0, 1, 30)?, targets.narrow(0, 1, 11)?];
        let [hidden, weight, bias, targets] = tensors.each_ref().map(copy);
        let hidden = hidden.narrow(0, 6, 11)?;
        LinearCrossEntropy::default().forward(&hidden, &weight, Some(&bias), &targets)
    };
    let [actual, expected] = [loss(&Tensor::clone)?, loss(&|tensor| tensor.force_contiguous().unwrap())?];
    assert_eq!(error(&actual, &expected)?, 0.0);
    let [actual, expected] = [actual.backward()?, expected.backward()?];
    for var in [&hidden, &weight, &bias] {
        assert_eq!(error(actual.get(var).unwrap(), expected.get(var).unwrap())?, 0.0);
    }
    Ok(())
}
