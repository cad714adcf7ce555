//! Sampling of passages into batches: each passage once an epoch, split among ranks, and the same after a resume.
#![cfg(feature = "train")]

use std::sync::Arc;

use retromae::data::{BatchOptions, BatchSampler, Passages, Permutation, Position, TokenStore};
use retromae::model::PackedSentences;

const VOCAB_SIZE: u32 = 70_000;

/// Returns a store of `count` passages of 3 to 42 tokens; the second token of each is 100 + its index.
fn store(count: u32) -> Arc<TokenStore> {
    let mut passages = Passages::default();
    for index in 0..count {
        let length = 1 + (index * 7919 + index * index * 31) % 40;
        let content: Vec<u32> = (0..length).map(|k| 100 + index + k).collect();
        passages.push(2, &content, 3, |at| (at as u32 + index).is_multiple_of(2));
    }
    Arc::new(TokenStore::in_memory(&passages, VOCAB_SIZE).unwrap())
}

fn options() -> BatchOptions {
    BatchOptions { seed: 7, batch_tokens: 200, rank: 0, ranks: 1 }
}

fn sampler(store: &Arc<TokenStore>, skipped: &[u32], options: BatchOptions) -> BatchSampler {
    BatchSampler::new(store.clone(), skipped.to_vec(), options, Position::default()).unwrap()
}

/// Returns the passages of each batch until epoch `epochs` begins.
fn batches(sampler: &mut BatchSampler, epochs: u32) -> Vec<Vec<u32>> {
    let count = sampler.batches_until(epochs);
    (0..count).map(|_| sampler.next_batch().sentence_indices).collect()
}

/// Returns a rank's share of an epoch's order, over the passages of a store of `count` that are not `skipped`.
fn part(count: u32, skipped: &[u32], epoch: u32, rank: u32, ranks: u32) -> Vec<u32> {
    let kept: Vec<u32> = (0..count).filter(|index| !skipped.contains(index)).collect();
    let order = Permutation::new(options().seed, epoch, kept.len() as u32);
    (rank..kept.len() as u32).step_by(ranks as usize).map(|place| kept[order.at(place) as usize]).collect()
}

#[test]
fn every_rank_sees_its_part_once_an_epoch() {
    const COUNT: u32 = 301;
    let store = store(COUNT);
    let some: Vec<u32> = (0..COUNT).filter(|n| n % 7 == 3 || (100..120).contains(n)).collect();
    for (skipped, ranks) in [(&[][..], 1), (&[], 2), (&some, 1), (&some, 3), (&[], 20)] {
        for rank in 0..ranks.min(5) {
            let mut sampler = sampler(&store, skipped, BatchOptions { rank, ranks, ..options() });
            let mut left: Vec<u32> = Vec::new();
            for epoch in 0..3 {
                left.extend(batches(&mut sampler, epoch + 1).concat());
                for index in part(COUNT, skipped, epoch, rank, ranks) {
                    let place = left.iter().position(|&sampled| sampled == index);
                    left.remove(place.unwrap_or_else(|| panic!("{index} is not in epoch {epoch}")));
                }
                // The rest was sampled for the next epoch, by the batch that crosses into it.
                let next = part(COUNT, skipped, epoch + 1, rank, ranks);
                let Position { epoch: now, cursor, carried_over } = sampler.position();
                let ahead = if *now > epoch { *cursor as usize } else { 0 };
                let mut expected = next[..ahead].to_vec();
                expected.retain(|index| !carried_over.contains(index));
                left.sort_unstable();
                expected.sort_unstable();
                assert_eq!(left, expected, "rank {rank} of {ranks}, epoch {epoch}");
            }
        }
    }
}

#[test]
fn ranks_are_disjoint_and_cover_everything_but_what_is_skipped() {
    let skipped = [0, 3, 4, 99];
    for ranks in [1, 2, 3, 8] {
        let mut all: Vec<u32> = (0..ranks).flat_map(|rank| part(100, &skipped, 5, rank, ranks)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq((0..100).filter(|index| !skipped.contains(index))));
    }
    assert_ne!(part(100, &[], 0, 0, 1), part(100, &[], 1, 0, 1), "epochs have the same order");
}

#[test]
fn a_resumed_sampler_goes_on_exactly() {
    let store = store(120);
    for (rank, ranks) in [(0, 1), (1, 3)] {
        let options = BatchOptions { rank, ranks, ..options() };
        let mut whole = sampler(&store, &[5, 6, 90], options);
        let mut waited = 0;
        for step in 0..60 {
            let text = serde_json::to_string(whole.position()).unwrap();
            let position: Position = serde_json::from_str(&text).unwrap();
            waited += position.carried_over.len();
            let batch = whole.next_batch();
            let mut resumed =
                BatchSampler::new(store.clone(), vec![5, 6, 90], options, position.clone()).unwrap();
            assert_eq!(resumed.next_batch(), batch, "step {step} from {position:?}");
            assert_eq!(resumed.position(), whole.position());
        }
        assert!(waited > 20, "passages are carried over");
        assert!(whole.position().epoch >= 2, "the test crosses epochs");
    }
    let old: Position = serde_json::from_str("{\"epoch\": 1, \"cursor\": 3}").unwrap();
    assert_eq!(old, Position { epoch: 1, cursor: 3, carried_over: vec![] });
    let old: Position = serde_json::from_str("{\"epoch\": 1, \"cursor\": 3, \"put_off\": [2]}").unwrap();
    assert_eq!(old.carried_over, [2]);
}

#[test]
fn batches_are_full_and_begin_with_the_longest() {
    let store = store(4000);
    let mut sampler = sampler(&store, &[], BatchOptions { batch_tokens: 512, ..options() });
    let (mut tokens, mut batches) = (0, 0);
    while sampler.position().epoch == 0 {
        let PackedSentences { sentence_indices, cu_seqlens, ids, word_starts } = sampler.next_batch();
        let lengths: Vec<i32> = cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        assert_eq!(
            (ids.len(), word_starts.len()),
            (*cu_seqlens.last().unwrap() as usize, ids.len().div_ceil(32))
        );
        assert!(ids.len() <= 512);
        for (&index, pair) in sentence_indices.iter().zip(cu_seqlens.windows(2)) {
            let (begin, end) = (pair[0] as usize, pair[1] as usize);
            let passage = store.passage(index);
            assert_eq!((ids[begin], ids[begin + 1], ids[end - 1]), (2, 100 + index as i32, 3));
            for t in begin..end {
                let bit = word_starts[t / 32] >> (t % 32) & 1 == 1;
                assert_eq!(bit, passage.word_starts.get(t - begin));
            }
        }
        tokens += ids.len();
        batches += 1;
    }
    let fill = tokens as f64 / f64::from(512 * batches);
    println!("mean fill of batches of 512 tokens by passages of 3 to 42: {fill:.4}");
    assert!(fill > 0.99, "{fill}");
}

#[test]
fn a_batch_larger_than_the_corpus_holds_it_once() {
    for count in [1, 2, 5] {
        let store = store(count);
        let mut sampler = sampler(&store, &[], BatchOptions { batch_tokens: 100_000, ..options() });
        for _ in 0..20 {
            let mut indices = sampler.next_batch().sentence_indices;
            let sampled = indices.len();
            indices.sort_unstable();
            indices.dedup();
            assert_eq!(indices.len(), sampled, "a batch holds a passage twice");
            assert!(sampled >= 1);
        }
    }
}

/// Counted from the batches alone: wherever a batch ends, the numbers of samples of any two passages differ by at most one.
#[test]
fn batches_that_cross_epochs_leave_nothing_out() {
    let (mut crossed, mut ended_early) = (0, 0);
    for count in 1..=12 {
        let store = store(count);
        for batch_tokens in [43, 90, 160, 300, 5000] {
            let mut sampler = sampler(&store, &[], BatchOptions { batch_tokens, ..options() });
            let mut sampled = vec![0_u32; count as usize];
            for batch in 0..200 {
                let epoch = sampler.position().epoch;
                let PackedSentences { sentence_indices, ids, .. } = sampler.next_batch();
                let least = *sampled.iter().min().unwrap();
                let new = sentence_indices.iter().filter(|&&index| sampled[index as usize] == least).count();
                crossed += u32::from(new > 0 && new < sentence_indices.len());
                ended_early +=
                    u32::from(sampler.position().epoch > epoch && ids.len() + store.longest() < batch_tokens);
                for index in sentence_indices {
                    sampled[index as usize] += 1;
                }
                let (least, most) = (*sampled.iter().min().unwrap(), *sampled.iter().max().unwrap());
                assert!(
                    most - least <= 1,
                    "{count} passages, {batch_tokens} tokens, batch {batch}: {sampled:?}"
                );
            }
        }
    }
    assert!(crossed > 100 && ended_early > 100, "{crossed} batches cross epochs, {ended_early} end early");
}

#[test]
fn a_sampler_refuses_bad_arguments() {
    let (store, good) = (store(3), options());
    let message = |store: &Arc<TokenStore>, skipped: &[u32], options, position| {
        BatchSampler::new(store.clone(), skipped.to_vec(), options, position).unwrap_err().to_string()
    };
    let start = Position::default;
    let empty = Arc::new(TokenStore::in_memory(&Passages::default(), VOCAB_SIZE).unwrap());
    let carried_over = |carried_over: Vec<u32>| Position { carried_over, ..start() };
    let cases = [
        (message(&empty, &[], good, start()), "passages was empty"),
        (message(&store, &[0, 1, 2], good, start()), "passages was empty"),
        (message(&store, &[1, 0], good, start()), "ascending"),
        (message(&store, &[3], good, start()), "below 3"),
        (message(&store, &[], BatchOptions { batch_tokens: 3, ..good }, start()), "batch_tokens was 3"),
        (message(&store, &[], BatchOptions { batch_tokens: usize::MAX, ..good }, start()), "below 2^31"),
        (message(&store, &[], BatchOptions { ranks: 0, ..good }, start()), "rank was 0 of 0"),
        (message(&store, &[], BatchOptions { rank: 2, ranks: 2, ..good }, start()), "rank was 2 of 2"),
        (message(&store, &[], BatchOptions { ranks: 4, ..good }, start()), "rank was 0 of 4"),
        (message(&store, &[], good, Position { epoch: 1, cursor: 4, carried_over: vec![] }), "cursor 4"),
        (message(&store, &[2], good, carried_over(vec![2])), "position was"),
        (message(&store, &[], good, carried_over(vec![3])), "position was"),
        (message(&store, &[], good, carried_over(vec![0; 9])), "position was"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let mut passages = Passages::default();
    passages.push(2, &[10, VOCAB_SIZE], 3, |_| true);
    let message = TokenStore::in_memory(&passages, VOCAB_SIZE).unwrap_err().to_string();
    assert!(message.contains("passage 0 has token id 70000"), "{message}");
}
