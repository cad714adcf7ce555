//! Random descriptors: right ones of every operation with random changes. No call crashes, writes outside its outputs, or fails without a text.
//!
//! No change claims more elements than an array has, which a library in C cannot know, unless the call must be refused for it.

#[path = "suite/cases/mod.rs"]
mod cases;
#[path = "suite/common.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::null_mut;

use common::{Case, Field, Kind, Memory, OK, device, get, last_error, set, status_name};
use retromae::random::{key, philox};
use retromae_capi::*;

/// Descriptors take turns between these.
const SEEDS: [u64; 3] = [1, 2, 0xdead_beef];
/// Descriptors of a run, unless `RETROMAE_FUZZ_COUNT` says otherwise.
const COUNT: u64 = 50_000;

/// Random numbers that depend on a seed and a descriptor's number alone.
struct Sampler {
    seed: u64,
    descriptor: u64,
    taken: u32,
}

impl Sampler {
    fn word(&mut self) -> u32 {
        self.taken += 1;
        let [low, high] = [self.descriptor as u32, (self.descriptor >> 32) as u32];
        philox(key(self.seed), [low, high, self.taken, 0])[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        self.word() as usize % bound
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Changes a field at random.
fn change(sampler: &mut Sampler, case: &Case, desc: &mut [u64], field: &Field) {
    let Field { offset, kind, .. } = *field;
    match kind {
        Kind::Size => {
            let value: i64 = get(&case.desc, offset);
            let smaller = sampler.below(value as usize + 1) as i64;
            let refused = sampler.one(&[-1, i64::MIN, i64::MAX, 1 << 40, (1 << 40) + value]);
            set(desc, offset, sampler.one(&[smaller, smaller, value - i64::from(value > 0), 0, refused]));
        }
        Kind::Stride => {
            let value: i64 = get(&case.desc, offset);
            let smaller = sampler.below(value as usize + 1) as i64;
            set(desc, offset, sampler.one(&[0, 1, smaller, -value, i64::MIN, i64::MAX, (value - 8).max(0)]));
        }
        Kind::Enum => set(desc, offset, sampler.below(8) as i32 + sampler.one(&[0, 0, 0, -4, i32::MIN])),
        Kind::Flags32 => set(desc, offset, sampler.word() & sampler.one(&[1, 2, 3, u32::MAX])),
        Kind::F32 => {
            let hard = [0.0, -1.0, 1.0, 0.5, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE, 1e-40, f32::MAX];
            set(desc, offset, sampler.one(&hard));
        }
        Kind::F64 => {
            let hard = [0.0, -1.0, 1.0, 0.5, f64::NAN, f64::NEG_INFINITY, 1e-320, f64::MAX];
            set(desc, offset, sampler.one(&hard));
        }
        Kind::I32 => {
            let arbitrary = sampler.word() as i32;
            set(desc, offset, sampler.one(&[0, 1, -1, i32::MIN, i32::MAX, arbitrary]));
        }
        Kind::I64 => {
            let arbitrary = i64::from(sampler.word());
            set(desc, offset, sampler.one(&[0, 1, -1, -2, i64::MIN, i64::MAX, arbitrary]));
        }
        Kind::WorkspaceBytes => {
            let value: usize = get(&case.desc, offset);
            let smaller = sampler.below(value + 1);
            set(desc, offset, sampler.one(&[0, smaller, value.saturating_sub(1), usize::MAX]));
        }
        // Without it the arrays of the queries would have as many rows as the keys.
        Kind::Array { .. } if field.name == "queries.cu_seqlens" => {}
        Kind::Array { .. } => {
            let value: usize = get(&case.desc, offset);
            let address = other_address(sampler, case, value);
            set(desc, offset, address);
        }
        Kind::HostArray => set(desc, offset, 0usize),
    }
}

/// Returns null, an address nearby, or that of another array that is at least as long.
fn other_address(sampler: &mut Sampler, case: &Case, address: usize) -> usize {
    let Some((_, bytes)) = case.memory.find(address) else { return 0 };
    match sampler.below(4) {
        0 => 0,
        1 => address + sampler.one(&[1, 2, 4, 8, 16, 64]),
        _ => {
            let places = case.memory.addresses();
            let (other, other_bytes) = sampler.one(&places);
            if other_bytes >= bytes { other } else { address }
        }
    }
}

/// Changes the words that every descriptor begins with.
fn change_head(sampler: &mut Sampler, desc: &mut [u64]) {
    let value = sampler.word();
    match sampler.below(3) {
        0 => set(desc, 0, sampler.one(&[0, value, desc.len() as u32 * 8 + 8])),
        1 => set(desc, 4, sampler.one(&[0, 2, value])),
        _ => set(desc, 8, sampler.one(&[1u64, 2, 3, 4, 8, u64::MAX, 1 << 63])),
    }
}

/// Returns the numbers of the arrays that a call with this descriptor may write.
fn written(case: &Case, desc: &[u64]) -> BTreeSet<usize> {
    let outputs = case.fields.iter().filter(|field| matches!(field.kind, Kind::Array { written: true, .. }));
    outputs.filter_map(|field| Some(case.memory.find(get(desc, field.offset))?.0)).collect()
}

/// Calls with a changed descriptor; returns the status.
fn run(sampler: &mut Sampler, case: &mut Case) -> rmae_status {
    let mut desc = case.desc.clone();
    for _ in 0..=sampler.below(3) {
        if sampler.below(12) == 0 {
            change_head(sampler, &mut desc);
        } else {
            let field = case.fields[sampler.below(case.fields.len())].clone();
            change(sampler, case, &mut desc, &field);
        }
    }
    let what = format!("{}, seed {}, descriptor {}", case.name, sampler.seed, sampler.descriptor);
    let status = case.call_with(null_mut(), &desc);
    let text = if status == OK { String::new() } else { last_error() };
    // Nothing that the caller wrote is a fault of the library or of a kernel.
    assert!(status == OK || (1000..4000).contains(&status), "{what}: {} {text}", status_name(status));
    assert!(status == OK || text.contains("; it should be "), "{what}: {text}");
    let may_write = if status == OK { written(case, &desc) } else { BTreeSet::new() };
    let contents = case.memory.snapshot().into_iter().zip(case.memory.initial()).enumerate();
    for (array, (content, initial)) in contents {
        assert!(content == initial || may_write.contains(&array), "{what}: array {array} was written");
    }
    if status == OK {
        case.memory.reset();
    }
    status
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let Ok(status) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[test]
fn random_descriptors() {
    let count = std::env::var("RETROMAE_FUZZ_COUNT").map_or(COUNT, |count| {
        count.parse().unwrap_or_else(|_| panic!("RETROMAE_FUZZ_COUNT is {count:?}; it should be a number"))
    });
    let mut all: Vec<Case> = cases::all(Memory::roomy).collect();
    let (mut statuses, start) = (BTreeMap::new(), std::time::Instant::now());
    let (mut buffers, mut memory) = (0, 0);
    for descriptor in 0..count {
        let seed = SEEDS[descriptor as usize % SEEDS.len()];
        let mut sampler = Sampler { seed, descriptor, taken: 0 };
        let number = sampler.below(all.len());
        *statuses.entry(run(&mut sampler, &mut all[number])).or_insert(0u64) += 1;
        // Threads, stacks and tables are there by then.
        if descriptor == count / 4 {
            (buffers, memory) = (device().buffer_bytes(), resident());
        }
    }
    for (status, count) in &statuses {
        println!("{:>10} {}", count, status_name(*status));
    }
    println!("{:.0} descriptors a second", count as f64 / start.elapsed().as_secs_f64());
    assert_eq!(device().buffer_bytes(), buffers, "buffers were leaked");
    let grown = resident().saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes were leaked");
    let refused: u64 = statuses.iter().filter(|(status, _)| **status != OK).map(|(_, count)| count).sum();
    assert!(statuses.len() > 6 && refused > count / 4 && refused < count * 19 / 20, "{statuses:?}");
}
