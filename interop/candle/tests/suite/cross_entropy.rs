//! Linear layer and cross-entropy, with its gradients.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::ops::log_softmax;
use retromae::model::IGNORE_INDEX;
use retromae_candle::LinearCrossEntropy;

use crate::{F32, assert_close, assert_no_worse, wave};

const HIDDEN: usize = 40;
const WORDS: usize = 133;

/// Rows with a loss: all but each fifth.
fn targets(rows: usize) -> Vec<i64> {
    let target = |row: usize| if row % 5 == 4 { IGNORE_INDEX.into() } else { (row * 37 % WORDS) as i64 };
    (0..rows).map(target).collect()
}

/// The mean loss by candle's operations, over rows that are not ignored.
///
/// The logits and, on the way back, their gradient are rounded to `dtype`, as are all gradients.
fn unfused(
    dtype: DType,
    hidden: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &[i64],
) -> Result<Tensor> {
    let round = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_dtype(DType::F32);
    let labeled: Vec<u32> =
        (0..).zip(targets).filter(|(_, target)| **target >= 0).map(|(row, _)| row).collect();
    let ids: Vec<i64> = targets.iter().copied().filter(|&target| target >= 0).collect();
    let hidden = round(hidden)?.index_select(&Tensor::new(&labeled[..], &Device::Cpu)?, 0)?;
    let logits = hidden.matmul(&round(weight)?.t()?)?;
    let logits = round(&bias.map_or(Ok(logits.clone()), |bias| logits.broadcast_add(&round(bias)?))?)?;
    let ids = Tensor::new(&ids[..], &Device::Cpu)?.unsqueeze(1)?;
    log_softmax(&logits, 1)?.gather(&ids, 1)?.mean_all()?.neg()
}

/// The loss, and the gradients of three times it.
fn results(loss: &Tensor, vars: &[&Var]) -> Result<Vec<Tensor>> {
    assert_eq!((loss.dims(), loss.dtype()), (&[][..], DType::F32));
    let gradients = (loss * 3.)?.backward()?;
    let gradients = vars.iter().map(|var| gradients.get(var).expect("a gradient").clone());
    Ok(std::iter::once(loss.clone()).chain(gradients).collect())
}

#[test]
fn losses_and_gradients() -> Result<()> {
    for (rows, chunk_rows) in [(1, 1024), (2, 1), (17, 16), (33, 8), (65, 1024)] {
        let vars = [wave(&[rows, HIDDEN], 0.37)?, wave(&[WORDS, HIDDEN], 0.71)?, wave(&[WORDS], 1.3)?];
        let [hidden, weight, bias] = vars.each_ref().map(Var::as_tensor);
        let labels = targets(rows);
        let layer = LinearCrossEntropy { chunk_rows, ..LinearCrossEntropy::default() };
        for bias in [None, Some(bias)] {
            let used = &vars.each_ref()[..if bias.is_some() { 3 } else { 2 }];
            let actual = layer.forward(hidden, weight, bias, &Tensor::new(&labels[..], &Device::Cpu)?)?;
            let expected = unfused(DType::F32, hidden, weight, bias, &labels)?;
            let pairs = results(&actual, used)?.into_iter().zip(results(&expected, used)?);
            for (index, (actual, expected)) in pairs.enumerate() {
                assert_close(&format!("{rows} rows, {index}"), &actual, &expected, F32);
            }
        }
    }
    Ok(())
}

#[test]
fn sixteen_bits() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        let narrow = [wave(&[33, HIDDEN], 0.37)?, wave(&[WORDS, HIDDEN], 0.71)?, wave(&[WORDS], 1.3)?]
            .map(|var| Var::from_tensor(&var.to_dtype(dtype).unwrap()).unwrap());
        let wide = narrow.each_ref().map(|var| Var::from_tensor(&var.to_dtype(DType::F32).unwrap()).unwrap());
        let (labels, [hidden, weight, bias]) = (targets(33), narrow.each_ref().map(Var::as_tensor));
        let ids = Tensor::new(&labels[..], &Device::Cpu)?;
        let actual = LinearCrossEntropy::default().forward(hidden, weight, Some(bias), &ids)?;
        let actual = results(&actual, &narrow.each_ref())?;
        assert!(actual[1..].iter().all(|gradient| gradient.dtype() == dtype));
        let [naive, exact] = [dtype, DType::F32].map(|dtype| {
            let [hidden, weight, bias] = wide.each_ref().map(Var::as_tensor);
            let loss = unfused(dtype, hidden, weight, Some(bias), &labels).unwrap();
            results(&loss, &wide.each_ref()).unwrap()
        });
        for (index, actual) in actual.iter().enumerate() {
            assert_no_worse(&format!("{dtype:?} {index}"), [actual, &naive[index], &exact[index]], dtype);
        }
    }
    Ok(())
}

/// A mean over many rows has gradients that f16 cannot hold; with a loss scale it can.
#[test]
fn a_loss_scale_keeps_small_gradients() -> Result<()> {
    let (rows, scale) = (1 << 15, 4096.);
    let hidden = Var::from_tensor(&wave(&[rows, 8], 0.37)?.to_dtype(DType::F16)?)?;
    let weight = (wave(&[16, 8], 0.71)?.as_tensor() * 0.02)?.to_dtype(DType::F16)?;
    let labels: Vec<u32> = (0..rows as u32).map(|row| row % 16).collect();
    let labels = Tensor::new(&labels[..], &Device::Cpu)?;
    let loss = LinearCrossEntropy::default().forward(&hidden, &weight, None, &labels)?;
    let scaled = (loss * scale)?.backward()?.get(&hidden).unwrap().clone();
    let wide = Var::from_tensor(&hidden.to_dtype(DType::F32)?)?;
    let loss = LinearCrossEntropy::default().forward(&wide, &weight.to_dtype(DType::F32)?, None, &labels)?;
    let exact = (loss * scale)?.backward()?.get(&wide).unwrap().clone();
    // Each element is rounded to 11 bits twice.
    assert_close("scaled gradient", &scaled, &exact, 2f64.powi(-11));
    Ok(())
}

#[test]
fn only_what_candle_tracks_has_a_gradient() -> Result<()> {
    let (hidden, weight) = (wave(&[9, HIDDEN], 0.37)?, wave(&[WORDS, HIDDEN], 0.71)?);
    let labels = Tensor::new(&targets(9)[..], &Device::Cpu)?;
    let layer = LinearCrossEntropy::default();
    let frozen = layer.forward(&hidden, &weight.detach(), None, &labels)?;
    let (both, neither) = (
        layer.forward(&hidden, &weight, None, &labels)?,
        layer.forward(&hidden.detach(), &weight.detach(), None, &labels)?,
    );
    assert!(!neither.track_op());
    assert_eq!(frozen.to_scalar::<f32>()?, neither.to_scalar::<f32>()?);
    let [frozen, both] =
        [frozen.backward()?, both.backward()?].map(|store| store.get(&hidden).unwrap().clone());
    assert_eq!(crate::error(&frozen, &both)?, 0.0);
    Ok(())
}

#[test]
fn no_rows_with_a_loss() -> Result<()> {
    let (hidden, weight) = (wave(&[3, HIDDEN], 0.37)?, wave(&[WORDS, HIDDEN], 0.71)?);
    for labels in [vec![i64::from(IGNORE_INDEX); 3], vec![]] {
        let hidden = hidden.narrow(0, 0, labels.len())?;
        let loss = LinearCrossEntropy::default().forward(
            &hidden,
            &weight,
            None,
            &Tensor::new(&labels[..], &Device::Cpu)?,
        )?;
        assert_eq!(loss.to_scalar::<f32>()?, 0.0);
        let gradient = loss.backward()?.get(&weight).unwrap().sqr()?.sum_all()?.to_scalar::<f32>()?;
        assert_eq!(gradient, 0.0);
    }
    Ok(())
}

/// Unsigned ids, and the ignored one in two's complement; an id beyond the vocabulary shows.
#[test]
fn unsigned_targets() -> Result<()> {
    let (hidden, weight) = (wave(&[9, HIDDEN], 0.37)?, wave(&[WORDS, HIDDEN], 0.71)?);
    let unsigned: Vec<u32> = targets(9).iter().map(|&target| target as u32).collect();
    let layer = LinearCrossEntropy::default();
    let [signed, unsigned_loss] = [
        layer.forward(&hidden, &weight, None, &Tensor::new(&targets(9)[..], &Device::Cpu)?)?,
        layer.forward(&hidden, &weight, None, &Tensor::new(&unsigned[..], &Device::Cpu)?)?,
    ]
    .map(|loss| loss.to_scalar::<f32>().unwrap());
    assert_eq!(signed, unsigned_loss);
    let beyond = Tensor::new(&[WORDS as u32; 9], &Device::Cpu)?;
    assert!(layer.forward(&hidden, &weight, None, &beyond)?.to_scalar::<f32>()?.is_nan());
    Ok(())
}
