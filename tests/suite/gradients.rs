//! Finite differences are the oracle for every gradient of `retromae::reference`, which in turn is the oracle for the kernels.
//!
//! All of it is f64. A central difference with step 1e-5 errs by about 1e-10 of the loss's scale (its third derivative times the step squared, and
//! rounding over the step), far below the tolerance.

use approx::abs_diff_eq;
use retromae::model::{Batch, DecoderKind, IGNORE_INDEX, MaskPool, ModelConfig, PoolRows, QueryKind};
use retromae::ops::cross_entropy::Options;
use retromae::random::{Dropout, bounded, philox};
use retromae::reference::attention::{self, Attention, Mask};
use retromae::reference::bag_of_words::{self, BagOfWords};
use retromae::reference::cross_entropy::{self, CrossEntropy};
use retromae::reference::embedding::{self, Embedding, EmbeddingMode};
use retromae::reference::layer_norm::{self, DropoutResidual};
use retromae::reference::mask::{self, MaskedSentence};
use retromae::reference::{self, Parameters, Step, gelu, linear, parameter_shapes};

/// Sentence lengths with their edge cases: alone, one neighbor, odd, and more than one word of mask bits.
const CU_SEQLENS: [i32; 6] = [0, 1, 3, 8, 17, 50];
const STEP: f64 = 1e-5;
/// Tolerance relative to the tensor's largest gradient.
const RELATIVE: f64 = 1e-6;
/// Rounding error of a loss of about 1, divided by [`STEP`].
const ABSOLUTE: f64 = 1e-9;

/// Returns `count` values in `[-1, 1)`, the same for the same `tag`.
fn values(tag: u32, count: usize) -> Vec<f64> {
    let value = |index: usize| {
        let random = philox([7, 11], [index as u32, tag, 0, 0])[0];
        f64::from(random) / 2f64.powi(31) - 1.0
    };
    (0..count).map(value).collect()
}

/// `Σ a_i b_i`: turns an output into a scalar loss whose gradient by the output is the other factor.
fn project(output: &[f64], direction: &[f64]) -> f64 {
    assert_eq!(output.len(), direction.len());
    output.iter().zip(direction).map(|(a, b)| a * b).sum()
}

/// Central difference of `loss` at `at` along `direction`.
fn slope(at: &[f64], direction: &[f64], loss: &mut dyn FnMut(&[f64]) -> f64) -> f64 {
    let mut shifted = |step: f64| {
        let moved: Vec<f64> = at.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        loss(&moved)
    };
    (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP)
}

/// Compares `gradient` with differences along `samples` single elements (all, if there are no more) and along one random direction, which involves
/// every element.
fn check(name: &str, at: &[f64], gradient: &[f64], samples: usize, mut loss: impl FnMut(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{name}");
    let largest = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
    let mut compare = |what: &str, direction: &[f64]| {
        let (numeric, analytic) = (slope(at, direction, &mut loss), project(gradient, direction));
        let length = project(direction, direction).sqrt();
        let tolerance = (RELATIVE * largest + ABSOLUTE) * length;
        assert!(
            abs_diff_eq!(numeric, analytic, epsilon = tolerance),
            "{name} {what}: {analytic} by the reference, {numeric} by differences"
        );
    };
    compare("along a random direction", &values(1, at.len()));
    for sample in 0..samples.min(at.len()) {
        let element = sample * at.len() / samples.min(at.len());
        let mut direction = vec![0.0; at.len()];
        direction[element] = 1.0;
        compare(&format!("element {element}"), &direction);
    }
}

fn dropout(site: u32) -> Dropout {
    Dropout::new(0.3, 42, 5, site)
}

const ALL: usize = usize::MAX;

#[test]
fn linear_gradients() {
    let (x, weight, bias) = (values(10, 5 * 3), values(11, 4 * 3), values(12, 4));
    let d_out = values(13, 5 * 4);
    let loss =
        |x: &[f64], weight: &[f64], bias: &[f64]| project(&linear::forward(x, weight, Some(bias), 3), &d_out);
    let (d_x, d_weight, d_bias) = linear::backward(&x, &weight, &d_out, 3);
    check("x", &x, &d_x, ALL, |x| loss(x, &weight, &bias));
    check("weight", &weight, &d_weight, ALL, |weight| loss(&x, weight, &bias));
    check("bias", &bias, &d_bias, ALL, |bias| loss(&x, &weight, bias));
}

#[test]
fn layer_norm_gradients() {
    let (x, gamma, beta, d_out) = (values(20, 21), values(21, 7), values(22, 7), values(23, 21));
    // A large eps checks its place under the root as well.
    for eps in [1e-12, 0.3] {
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| {
            project(&layer_norm::forward(x, gamma, beta, eps), &d_out)
        };
        let (d_x, d_gamma, d_beta) = layer_norm::backward(&x, &gamma, eps, &d_out);
        check("x", &x, &d_x, ALL, |x| loss(x, &gamma, &beta));
        check("gamma", &gamma, &d_gamma, ALL, |gamma| loss(&x, gamma, &beta));
        check("beta", &beta, &d_beta, ALL, |beta| loss(&x, &gamma, beta));
    }
}

#[test]
fn dropout_residual_gradients() {
    let (x, bias, residual) = (values(30, 36), values(31, 18), values(32, 36));
    let (gamma, beta, d_out) = (values(33, 18), values(34, 18), values(35, 36));
    for dropout in [None, Some(&dropout(3))] {
        let block =
            DropoutResidual { x: &x, bias: &bias, residual: &residual, gamma: &gamma, eps: 1e-12, dropout };
        let loss = |block: DropoutResidual, beta: &[f64]| {
            project(&layer_norm::dropout_residual_forward(&block, beta), &d_out)
        };
        let d = layer_norm::dropout_residual_backward(&block, &d_out);
        check("x", &x, &d.x, ALL, |x| loss(DropoutResidual { x, ..block }, &beta));
        check("bias", &bias, &d.bias, ALL, |bias| loss(DropoutResidual { bias, ..block }, &beta));
        check("residual", &residual, &d.residual, ALL, |residual| {
            loss(DropoutResidual { residual, ..block }, &beta)
        });
        check("gamma", &gamma, &d.gamma, ALL, |gamma| loss(DropoutResidual { gamma, ..block }, &beta));
        check("beta", &beta, &d.beta, ALL, |beta| loss(block, beta));
    }
}

#[test]
fn gelu_gradients() {
    let x: Vec<f64> = values(40, 24).iter().map(|x| 5.0 * x).collect();
    let (bias, d_out) = (values(41, 6), values(42, 24));
    let (d_x, d_bias) = gelu::backward(&x, &bias, &d_out);
    check("x", &x, &d_x, ALL, |x| project(&gelu::forward(x, &bias), &d_out));
    check("bias", &bias, &d_bias, ALL, |bias| project(&gelu::forward(&x, bias), &d_out));
}

#[test]
fn attention_gradients() {
    let tokens = CU_SEQLENS[5] as usize;
    let tensor = |tag| values(tag, tokens * 6);
    let (query, key, value, d_out) = (tensor(50), tensor(51), tensor(52), tensor(53));
    let (pool, dropout) = (pool(), dropout(8));
    for mask in [Mask::Full, Mask::Pool(&pool)] {
        for dropout in [None, Some(&dropout)] {
            let attention = Attention { scale: 0.7, mask, dropout, ..Attention::new(&CU_SEQLENS, 2, 3) };
            let loss = |query: &[f64], key: &[f64], value: &[f64]| {
                project(&attention::forward(&attention, query, key, value).output, &d_out)
            };
            let (d_query, d_key, d_value) = attention::backward(&attention, &query, &key, &value, &d_out);
            check("query", &query, &d_query, 40, |query| loss(query, &key, &value));
            check("key", &key, &d_key, 40, |key| loss(&query, key, &value));
            check("value", &value, &d_value, 40, |value| loss(&query, &key, value));
        }
    }
}

/// The gradient of the log-sum-exp by the scores is the probabilities; it must include scale and mask, too.
#[test]
fn attention_log_sum_exp_is_the_potential_of_the_probabilities() {
    let tokens = CU_SEQLENS[5] as usize;
    let (query, key, pool) = (values(54, tokens), values(55, tokens), pool());
    let mask = Mask::Pool(&pool);
    let attention = Attention { scale: 0.7, mask, ..Attention::new(&CU_SEQLENS, 1, 1) };
    // With the keys as values, d lse / d q = scale * output.
    let attended = attention::forward(&attention, &query, &key, &key);
    assert!(attended.log_sum_exp[0] == f64::NEG_INFINITY && attended.output[0] == 0.0);
    let gradient: Vec<f64> = attended.output.iter().map(|output| 0.7 * output).collect();
    check("query", &query, &gradient, ALL, |query| {
        let log_sum_exp = attention::forward(&attention, query, &key, &key).log_sum_exp;
        log_sum_exp.iter().filter(|lse| lse.is_finite()).sum()
    });
}

#[test]
fn embedding_gradients() {
    let (hidden_size, tokens) = (5, CU_SEQLENS[5] as usize);
    let tensor = |tag, rows: usize| values(tag, rows * hidden_size);
    let (word, position, token_type) = (tensor(60, 11), tensor(61, 40), tensor(62, 2));
    let (gamma, beta, sentence) = (tensor(63, 1), tensor(64, 1), tensor(65, 5));
    let (ids, d_out, dropout) = (ids(66, tokens, 11), tensor(67, tokens), dropout(2));
    use EmbeddingMode::{Content, QueryEmbedding, QueryPosition, Word};
    for mode in [Word, Content, QueryEmbedding, QueryPosition] {
        for dropout in [None, Some(&dropout)] {
            let base = Embedding {
                mode,
                cu_seqlens: &CU_SEQLENS,
                ids: &ids,
                word: &word,
                position: &position,
                token_type: &token_type,
                gamma: &gamma,
                beta: &beta,
                eps: 1e-12,
                sentence: &sentence,
                dropout,
            };
            let loss = |embedding: Embedding| project(&embedding::forward(&embedding), &d_out);
            let d = embedding::backward(&base, &d_out);
            check("word", &word, &d.word, ALL, |word| loss(Embedding { word, ..base }));
            check("position", &position, &d.position, ALL, |position| loss(Embedding { position, ..base }));
            check("type", &token_type, &d.token_type, ALL, |token_type| {
                loss(Embedding { token_type, ..base })
            });
            check("gamma", &gamma, &d.gamma, ALL, |gamma| loss(Embedding { gamma, ..base }));
            check("beta", &beta, &d.beta, ALL, |beta| loss(Embedding { beta, ..base }));
            check("sentence", &sentence, &d.sentence, ALL, |sentence| loss(Embedding { sentence, ..base }));
        }
    }
}

#[test]
fn cross_entropy_gradients() {
    let (hidden, weight, bias) = (values(70, 4 * 3), values(71, 6 * 3), values(72, 6));
    let base = CrossEntropy {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        targets: &[5, IGNORE_INDEX, 0, 5],
        row_weights: &[0.5, 3.0, 0.0, 1.25],
        options: Options::default(),
    };
    let plain = base.options;
    for options in [
        plain,
        Options { label_smoothing: 0.3, ..plain },
        Options { z_loss: 0.2, ..plain },
        Options { soft_cap: Some(1.5), ..plain },
        Options { label_smoothing: 0.1, z_loss: 0.4, soft_cap: Some(2.5), ..plain },
    ] {
        let base = CrossEntropy { options, ..base };
        let loss = |head: CrossEntropy| cross_entropy::forward(&head).loss;
        let (d_hidden, d_weight, d_bias) = cross_entropy::backward(&base);
        check("hidden", &hidden, &d_hidden, ALL, |hidden| loss(CrossEntropy { hidden, ..base }));
        check("weight", &weight, &d_weight, ALL, |weight| loss(CrossEntropy { weight, ..base }));
        check("bias", &bias, &d_bias, ALL, |bias| loss(CrossEntropy { bias, ..base }));
    }
}

/// The random logits' maxima lead by more than the step of the differences.
#[test]
fn bag_of_words_gradients() {
    let (hidden, weight, bias) = (values(80, 6 * 3), values(81, 5 * 3), values(82, 5));
    let base = BagOfWords {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        lengths: &[1, 3, 2],
        bags: &[vec![(2, 1.0)], vec![(0, 0.5), (4, 0.25), (0, 0.5)], vec![]],
        sentence_weights: &[0.5, 2.0, 7.0],
    };
    let loss = |head: BagOfWords| bag_of_words::forward(&head).iter().sum::<f64>();
    let (d_hidden, d_weight, d_bias) = bag_of_words::backward(&base);
    check("hidden", &hidden, &d_hidden, ALL, |hidden| loss(BagOfWords { hidden, ..base }));
    check("weight", &weight, &d_weight, ALL, |weight| loss(BagOfWords { weight, ..base }));
    check("bias", &bias, &d_bias, ALL, |bias| loss(BagOfWords { bias, ..base }));
}

// ---- the whole model ----

const SEED_AND_STEP: (u64, u32) = (0x1234_5678_9abc, 3);

fn ids(tag: u32, count: usize, vocab_size: u32) -> Vec<i32> {
    (0..count as u32).map(|index| bounded(philox([3, 3], [index, tag, 0, 0])[0], vocab_size) as i32).collect()
}

fn pool() -> MaskPool {
    let lengths: Vec<usize> = CU_SEQLENS.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect();
    let word_starts: Vec<Vec<bool>> =
        lengths.iter().map(|&length| (0..length).map(|position| position % 3 != 2).collect()).collect();
    let sentences: Vec<MaskedSentence> = word_starts
        .iter()
        .enumerate()
        .map(|(index, word_starts)| MaskedSentence { index: index as u32, word_starts })
        .collect();
    let count_limit = mask::MaskCountLimit { ratio: 0.5, cap: None };
    mask::mask_pool(17, 2, &sentences, count_limit, PoolRows::AtMost(6))
}

/// Returns a ragged batch. The lone `[CLS]` of sentence 0 carries a decoder label, which training never gives it, so that a gradient passes through a
/// query that sees no key.
fn batch() -> Batch {
    let tokens = CU_SEQLENS[5] as usize;
    let label = |every: usize, tag| {
        let all = ids(tag, tokens, 13);
        (0..tokens).map(|token| if token % every == 0 { all[token] } else { IGNORE_INDEX }).collect()
    };
    Batch {
        cu_seqlens: CU_SEQLENS.to_vec(),
        encoder_input_ids: ids(80, tokens, 13),
        encoder_labels: label(3, 81),
        decoder_input_ids: ids(82, tokens, 13),
        decoder_labels: label(2, 83),
        visibility: Some(pool()),
    }
}

fn config(decoder: DecoderKind, query: QueryKind) -> ModelConfig {
    ModelConfig {
        hidden_size: 6,
        num_attention_heads: 2,
        intermediate_size: 10,
        max_position_embeddings: 40,
        hidden_dropout_prob: 0.2,
        attention_probs_dropout_prob: 0.3,
        encoder_loss_weight: 0.75,
        decoder_loss_weight: 1.5,
        decoder,
        query,
        ..ModelConfig::tiny(13)
    }
}

/// Values large enough that no gradient vanishes in rounding, LayerNorm weights around 1.
fn parameters(config: &ModelConfig) -> Parameters {
    let tensor = |(tag, (name, shape)): (usize, (String, Vec<usize>))| {
        let center = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let data = values(100 + tag as u32, shape.iter().product());
        (name, data.into_iter().map(|x| center + 0.6 * x).collect())
    };
    parameter_shapes(config).into_iter().enumerate().map(tensor).collect()
}

fn total(config: &ModelConfig, result: &Step) -> f64 {
    f64::from(config.encoder_loss_weight) * result.encoder_loss
        + f64::from(config.decoder_loss_weight) * result.decoder_loss
        + f64::from(config.bag_of_words_loss_weight) * result.bag_of_words_loss
}

fn check_model(decoder: DecoderKind, query: QueryKind, dropout: Option<(u64, u32)>) {
    check_gradients(&config(decoder, query), dropout);
}

fn check_gradients(config: &ModelConfig, dropout: Option<(u64, u32)>) {
    let batch = batch();
    let parameters = parameters(config);
    let result = reference::step(config, &parameters, &batch, dropout);
    assert_eq!(result.gradients.len(), parameters.len());
    for (name, at) in &parameters {
        let gradient = &result.gradients[name];
        let largest = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
        // A key's bias adds the same to all scores of a row, and softmax ignores it.
        let has_gradient = !name.ends_with("key.bias");
        assert_eq!(largest > 1e-4, has_gradient, "the gradient of {name} is at most {largest}");
        check(name, at, gradient, 3, |moved| {
            let mut parameters = parameters.clone();
            parameters.insert(name.clone(), moved.to_vec());
            total(config, &reference::step(config, &parameters, &batch, dropout))
        });
    }
}

#[test]
fn basic_model_gradients() {
    check_model(DecoderKind::Basic, QueryKind::Embedding, None);
}

#[test]
fn basic_model_gradients_under_dropout() {
    check_model(DecoderKind::Basic, QueryKind::Embedding, Some(SEED_AND_STEP));
}

#[test]
fn enhanced_model_gradients_with_position_queries() {
    check_model(DecoderKind::Enhanced, QueryKind::Position, None);
}

#[test]
fn enhanced_model_gradients_with_position_queries_under_dropout() {
    check_model(DecoderKind::Enhanced, QueryKind::Position, Some(SEED_AND_STEP));
}

#[test]
fn enhanced_model_gradients_with_embedding_queries() {
    check_model(DecoderKind::Enhanced, QueryKind::Embedding, None);
}

#[test]
fn model_gradients_with_a_bag_of_words() {
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding);
    check_gradients(&ModelConfig { bag_of_words_loss_weight: 2.0, ..config }, None);
}

#[test]
fn enhanced_model_gradients_with_embedding_queries_under_dropout() {
    check_model(DecoderKind::Enhanced, QueryKind::Embedding, Some(SEED_AND_STEP));
}
