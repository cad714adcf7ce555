//! The masks of a batch. Fused: bits of a pool and the encoder's corrupted input, sampled on the device in one launch. Unfused: the algorithm of the
//! authors' public collator, in Rust, on one CPU core, as in a data loader's worker: the same masks as a dense `[B, L, L]` of 64-bit integers,
//! uploaded if the device is a GPU. Third: that collator in Python and NumPy (`benches/peers/collator.py`, run by the interpreter that
//! `RETROMAE_BENCH_PYTHON` names, else `python3`), likewise in one process.
//!
//! Bound: no matmuls; the bytes of the bits, of a 16-bit row index and a word-start bit for each token, and of ids and labels.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use retromae::device::{Buffer, Device, ModelFloat, Stream};
use retromae::model::{MaskPool, PoolRows};
use retromae::ops::masks::{self, Corruption, MaskCountLimit, Outputs, Pool, Replacement, Sentences};
use retromae::ops::{self, rng_state};
use serde_json::{Value, json};

use super::data::{POOL_ROWS_MAX, RATIO, SEED, STEP, WORD_LENGTHS, prefix_sums, visibility, word_starts};
use super::{Bound, FUSED, Operation, Outcome, Rank, Results, Scale, UNFUSED, Variant, Work, named};

const ENCODER_RATIO: f64 = 0.3;
const MASK_ID: i32 = 103;
const VOCABULARY: usize = 30522;

#[derive(Clone, Copy, Debug)]
struct Case {
    sentences: usize,
    length: usize,
    pool_rows_max: usize,
}

pub fn operations<T: ModelFloat>(_: Scale) -> Vec<Operation<T>> {
    let case = |pool_rows_max| Case { sentences: 64, length: 512, pool_rows_max };
    vec![Operation::new("masks", [POOL_ROWS_MAX, 2 * POOL_ROWS_MAX].map(case))]
}

impl<T> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("B{}_L{}_K{}", self.sentences, self.length, self.pool_rows_max)
    }

    fn rank(&self) -> Rank {
        Rank::headline(self.pool_rows_max == POOL_ROWS_MAX)
    }

    fn sizes(&self) -> Option<Value> {
        Some(json!({
            "sentences": self.sentences,
            "length": self.length,
            "set_size": self.pool_rows_max,
            "ratio": RATIO,
            "encoder_ratio": ENCODER_RATIO,
            "mask_id": MASK_ID,
            "vocab_size": VOCABULARY,
            "word_lengths": WORD_LENGTHS,
        }))
    }

    fn bound(&self) -> Bound {
        let words = self.sentences * self.length.min(self.pool_rows_max) * self.length.div_ceil(32);
        let labeled = (self.tokens() as f64 * ENCODER_RATIO) as usize;
        Bound::new(0, 4 * words + self.tokens() * (2 + 8) + self.tokens() / 8 + 8 * labeled)
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        vec![
            Variant::new(FUSED, move |stream| Fused::new(stream, case)),
            Variant::new(UNFUSED, move |stream| Unfused::new(stream, case)),
            Variant::new("python", move |_| Python::new(case)),
        ]
    }
}

impl Case {
    fn lengths(&self) -> Vec<usize> {
        vec![self.length; self.sentences]
    }

    fn tokens(&self) -> usize {
        self.sentences * self.length
    }

    /// `[B, L, L]`: 1 where a query sees a key
    fn dense(&self, pool: &MaskPool) -> Vec<i64> {
        let mut dense = Vec::with_capacity(self.tokens() * self.length);
        for sentence in 0..self.sentences {
            let start = sentence * self.length;
            for query in 0..self.length {
                let visible = |key| pool.visible(sentence, start, self.length, query, key);
                dense.extend((0..self.length).map(|key| i64::from(visible(key))));
            }
        }
        dense
    }

    /// Mean number of tokens that a row of each sentence sees: the only result that different random generators share.
    fn results(&self, dense: &[i64]) -> Results {
        let mean = |sentence: &[i64]| sentence.iter().sum::<i64>() as f32 / self.length as f32;
        named([("visible", dense.chunks(self.length * self.length).map(mean).collect())])
    }
}

/// Sentences, and the samples wanted of them.
pub struct Sampling<'a> {
    pub seed: u64,
    pub step: u32,
    /// Word starts of each sentence
    pub sentences: &'a [Vec<bool>],
    pub indices: &'a [u32],
    pub ids: &'a [i32],
    pub count_limit: MaskCountLimit,
    pub rows: PoolRows,
    /// Corrupted inputs of encoder and decoder
    pub inputs: [Option<(MaskCountLimit, Replacement)>; 2],
}

/// A corrupted input on a device.
pub struct Corrupted {
    count_limit: MaskCountLimit,
    replacement: Replacement,
    offsets: Buffer<i32>,
    pub input_ids: Buffer<i32>,
    pub labeled_rows: Buffer<i32>,
    pub targets: Buffer<i32>,
    pub counts: Buffer<i32>,
}

/// Masks and corrupted inputs, sampled on a device.
pub struct Sampler {
    count_limit: MaskCountLimit,
    pool_rows: PoolRows,
    tokens: usize,
    length_max: usize,
    rng: Buffer<u32>,
    cu_seqlens: Buffer<i32>,
    sentence_indices: Buffer<u32>,
    word_starts: Buffer<u32>,
    offsets: Vec<u32>,
    pool_offsets: Buffer<u32>,
    bits: Buffer<u32>,
    rows: Buffer<u16>,
    workspace: Buffer<u8>,
    ids: Buffer<i32>,
    pub inputs: [Option<Corrupted>; 2],
}

impl Sampler {
    pub fn new(device: &Device, sampling: &Sampling<'_>) -> ops::Result<Self> {
        let lengths: Vec<usize> = sampling.sentences.iter().map(Vec::len).collect();
        let (sums, length_max) = (prefix_sums(&lengths), lengths.iter().copied().max().unwrap_or(1));
        let (sentences, tokens) = (lengths.len(), lengths.iter().sum());
        let rows_max = sampling.rows.rows_max(length_max);
        let offsets = masks::pool_offsets(&sums, rows_max)?;
        let input = |(count_limit, replacement)| -> ops::Result<_> {
            let labeled = masks::labeled_offsets(&sums, count_limit)?;
            let positions = labeled[sentences] as usize;
            Ok(Corrupted {
                count_limit,
                replacement,
                offsets: device.upload(&labeled)?,
                input_ids: device.zeros(tokens)?,
                labeled_rows: device.zeros(positions)?,
                targets: device.zeros(positions)?,
                counts: device.zeros(sentences)?,
            })
        };
        let [encoder, decoder] = sampling.inputs.map(|wanted| wanted.map(input).transpose());
        Ok(Self {
            count_limit: sampling.count_limit,
            pool_rows: sampling.rows,
            tokens,
            length_max,
            rng: device.upload(&rng_state(sampling.seed, sampling.step))?,
            cu_seqlens: device.upload(&sums)?,
            sentence_indices: device.upload(sampling.indices)?,
            word_starts: device.upload(&masks::word_start_bits(&sampling.sentences.concat()))?,
            pool_offsets: device.upload(&offsets)?,
            bits: device.zeros(offsets[sentences] as usize)?,
            rows: device.zeros(tokens)?,
            workspace: masks::workspace(tokens, length_max, rows_max).allocate(device)?,
            ids: device.upload(sampling.ids)?,
            inputs: [encoder?, decoder?],
            offsets,
        })
    }

    pub fn sample(&mut self, stream: &Stream) -> ops::Result<()> {
        let sentences = Sentences {
            rng: self.rng.view(),
            cu_seqlens: self.cu_seqlens.view(),
            indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            tokens: self.tokens,
            length_max: self.length_max,
        };
        let pool = Pool {
            count_limit: self.count_limit,
            rows_max: self.pool_rows.rows_max(self.length_max),
            offsets: self.pool_offsets.view(),
            bits: self.bits.view_mut(),
            rows: (self.pool_rows != PoolRows::Independent).then(|| self.rows.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        let ids = self.ids.view();
        let [encoder, decoder] = self.inputs.each_mut().map(|input| {
            input.as_mut().map(|input| Corruption {
                count_limit: input.count_limit,
                replacement: input.replacement,
                ids,
                input_ids: input.input_ids.view_mut(),
                offsets: input.offsets.view(),
                labeled_rows: input.labeled_rows.view_mut(),
                targets: input.targets.view_mut(),
                counts: input.counts.view_mut(),
            })
        });
        masks::sample(stream, sentences, Outputs { pool: Some(pool), encoder, decoder })
    }

    /// Returns the sampled pool; if every token has a mask of its own, its rows are 0.
    pub fn pool(&self) -> ops::Result<MaskPool> {
        Ok(MaskPool { bits: self.bits.read()?, offsets: self.offsets.clone(), rows: self.rows.read()? })
    }
}

/// Bits of a pool and the encoder's input, sampled on the device.
struct Fused {
    case: Case,
    sampler: Sampler,
}

impl Fused {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let ids: Vec<i32> = (0..case.tokens() as i32).map(|token| token % VOCABULARY as i32).collect();
        let indices: Vec<u32> = (0..case.sentences as u32).collect();
        let encoder = (MaskCountLimit::of(ENCODER_RATIO), Replacement::bert(MASK_ID, VOCABULARY));
        let sampling = Sampling {
            seed: SEED,
            step: STEP,
            sentences: &vec![word_starts(case.length); case.sentences],
            indices: &indices,
            ids: &ids,
            count_limit: MaskCountLimit::of(RATIO),
            rows: PoolRows::AtMost(case.pool_rows_max),
            inputs: [Some(encoder), None],
        };
        Ok(Self { case, sampler: Sampler::new(stream.device(), &sampling)? })
    }
}

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        Ok(self.sampler.sample(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(self.case.results(&self.case.dense(&self.sampler.pool()?)))
    }

    /// Bytes of all mask data of a batch.
    fn extra_bytes(&self) -> Option<usize> {
        let Sampler { bits, rows, word_starts, workspace, .. } = &self.sampler;
        Some(4 * bits.len() + 2 * rows.len() + 4 * word_starts.len() + 2 * workspace.len())
    }
}

/// Dense masks from the CPU.
struct Unfused {
    case: Case,
    dense: Vec<i64>,
    /// Masks as pairs of 32-bit words, on a GPU.
    uploaded: Option<Buffer<u32>>,
}

impl Unfused {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let words = 2 * case.tokens() * case.length;
        let uploaded = (device.name() != "host").then(|| device.zeros(words)).transpose()?;
        Ok(Self { case, dense: Vec::new(), uploaded })
    }
}

impl Work for Unfused {
    fn run(&mut self, _: &Stream) -> Outcome<()> {
        self.dense = self.case.dense(&visibility(&self.case.lengths(), self.case.pool_rows_max));
        match &mut self.uploaded {
            Some(buffer) => Ok(buffer.write(bytemuck::cast_slice(&self.dense))?),
            None => Ok(()),
        }
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(self.case.results(&self.dense))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(8 * self.case.tokens() * self.case.length)
    }
}

/// The collator in a Python process, which samples a batch for each line that it receives.
struct Python {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    answer: String,
}

impl Python {
    fn new(case: Case) -> Outcome<Self> {
        let python = std::env::var_os("RETROMAE_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
        let sizes = [case.sentences, case.length, case.pool_rows_max].map(|size| size.to_string());
        let mut process = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/collator.py"))
            .args(sizes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let (requests, answers) = (process.stdin.take(), process.stdout.take());
        let (Some(requests), Some(answers)) = (requests, answers) else { return Err("no pipes".into()) };
        let mut python = Self { process, requests, answers: BufReader::new(answers), answer: String::new() };
        python
            .ask()
            .map_err(|error| format!("{error}: RETROMAE_BENCH_PYTHON should name a Python with NumPy"))?;
        Ok(python)
    }

    fn ask(&mut self) -> Outcome<()> {
        self.requests.write_all(b"batch\n")?;
        self.answer.clear();
        match self.answers.read_line(&mut self.answer)? {
            0 => Err("the collator has ended".into()),
            _ => Ok(()),
        }
    }
}

impl Work for Python {
    fn run(&mut self, _: &Stream) -> Outcome<()> {
        self.ask()
    }

    fn results(&mut self) -> Outcome<Results> {
        let means = self.answer.split_whitespace().map(str::parse).collect::<Result<Vec<f32>, _>>()?;
        Ok(named([("visible", means)]))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
