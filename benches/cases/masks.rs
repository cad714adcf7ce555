//! The masks of a batch. Fused: bits of a pool and the encoder's corrupted input, sampled on the device in one launch. Unfused: the algorithm of the
//! authors' public collator, in Rust, on one CPU core, as in a data loader's worker: the same masks as a dense `[B, L, L]` of 64-bit integers,
//! uploaded if the device is a GPU. Third: that collator in Python and NumPy (`benches/peers/collator.py`, run by the interpreter that
//! `RETROMAE_BENCH_PYTHON` names, else `python3`), likewise in one process.
//!
//! Bound: no matmuls; the bytes of the bits, of a 16-bit row index and a word-start bit for each token, and of ids and labels.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use retromae::device::{Buffer, ModelFloat, Stream};
use retromae::model::MaskPool;
use retromae::ops::masks::{self, Corruption, MaskCountLimit, Outputs, Pool, Replacement, Sentences};
use retromae::ops::rng_state;

use serde_json::{Value, json};

use super::data::{POOL_ROWS_MAX, RATIO, WORD_LENGTHS, prefix_sums, visibility, word_starts};
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

/// Bits, sampled on the device.
struct Fused {
    case: Case,
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
    input_ids: Buffer<i32>,
    labeled_offsets: Buffer<i32>,
    labeled_rows: Buffer<i32>,
    targets: Buffer<i32>,
    counts: Buffer<i32>,
}

impl Fused {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let sums = prefix_sums(&case.lengths());
        let offsets = masks::pool_offsets(&sums, case.pool_rows_max)?;
        let labeled = masks::labeled_offsets(&sums, MaskCountLimit::of(ENCODER_RATIO))?;
        let indices: Vec<u32> = (0..case.sentences as u32).collect();
        let ids: Vec<i32> = (0..case.tokens() as i32).map(|token| token % VOCABULARY as i32).collect();
        let starts = word_starts(case.length).repeat(case.sentences);
        let places = labeled[case.sentences] as usize;
        Ok(Self {
            rng: device.upload(&rng_state(1, 1))?,
            cu_seqlens: device.upload(&sums)?,
            sentence_indices: device.upload(&indices)?,
            word_starts: device.upload(&masks::word_start_bits(&starts))?,
            pool_offsets: device.upload(&offsets)?,
            bits: device.zeros(offsets[case.sentences] as usize)?,
            rows: device.zeros(case.tokens())?,
            workspace: masks::workspace(case.tokens(), case.length, case.pool_rows_max).allocate(device)?,
            ids: device.upload(&ids)?,
            input_ids: device.zeros(case.tokens())?,
            labeled_offsets: device.upload(&labeled)?,
            labeled_rows: device.zeros(places)?,
            targets: device.zeros(places)?,
            counts: device.zeros(case.sentences)?,
            offsets,
            case,
        })
    }
}

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let sentences = Sentences {
            rng: self.rng.view(),
            cu_seqlens: self.cu_seqlens.view(),
            indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            tokens: self.case.tokens(),
            length_max: self.case.length,
        };
        let pool = Pool {
            count_limit: MaskCountLimit::of(RATIO),
            rows_max: self.case.pool_rows_max,
            offsets: self.pool_offsets.view(),
            bits: self.bits.view_mut(),
            rows: Some(self.rows.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        let encoder = Corruption {
            count_limit: MaskCountLimit::of(ENCODER_RATIO),
            replacement: Replacement::bert(MASK_ID, VOCABULARY),
            ids: self.ids.view(),
            input_ids: self.input_ids.view_mut(),
            offsets: self.labeled_offsets.view(),
            labeled_rows: self.labeled_rows.view_mut(),
            targets: self.targets.view_mut(),
            counts: self.counts.view_mut(),
        };
        let outputs = Outputs { pool: Some(pool), encoder: Some(encoder), ..Outputs::default() };
        Ok(masks::sample(stream, sentences, outputs)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let (bits, rows) = (self.bits.read()?, self.rows.read()?);
        let dense = self.case.dense(&MaskPool { bits, offsets: self.offsets.clone(), rows });
        Ok(self.case.results(&dense))
    }

    /// Bytes of all mask data of a batch.
    fn extra_bytes(&self) -> Option<usize> {
        Some(
            4 * self.bits.len() + 2 * self.rows.len() + 4 * self.word_starts.len() + 2 * self.workspace.len(),
        )
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
