"""The drawing of masks on NumPy arrays, and what is computed from lengths."""

import numpy as np
import pytest
from test_numpy_attention import unpack

import retromae.numpy as rn
from retromae import Corruption, CountLimit, Pool, Replacement

LENGTHS = [1, 2, 17, 0, 33, 64, 65, 129, 3]
INDICES = np.arange(len(LENGTHS), dtype=np.uint32) * 5 + 3
MASK, VOCABULARY = 103, 30000


def pack_bits(flags):
    """Words of a bit for each flag, lowest first."""
    bits = np.zeros(-(-len(flags) // 32) * 32, bool)
    bits[: len(flags)] = flags
    return np.packbits(bits, bitorder="little").view(np.uint32)


class Batch:
    """Sentences with ids and words of one to three tokens; `order` is that of the corpus' sentences in the batch."""

    def __init__(self, order=None):
        order = range(len(LENGTHS)) if order is None else order
        rng = np.random.default_rng(0)
        sentences = [
            (rng.integers(1000, VOCABULARY, n).astype(np.int32), rng.random(n) < 0.6) for n in LENGTHS
        ]
        for _, starts in sentences:
            # [CLS], the first word, and [SEP].
            starts[:2] = starts[-1:] = True
        self.lengths = [LENGTHS[place] for place in order]
        self.cu_seqlens = rn.prefix_sums(self.lengths)
        self.ids = np.concatenate([sentences[place][0] for place in order])
        self.starts = np.concatenate([sentences[place][1] for place in order])
        self.indices = INDICES[list(order)]

    def draw(self, limit, rows_max=20, replacement=None, seed=1, step=2):
        pool_offsets = rn.pool_offsets(self.lengths, rows_max)
        offsets = rn.labeled_offsets(self.lengths, limit)
        replacement = replacement or Replacement(MASK, VOCABULARY)
        corruption = Corruption(limit, replacement, offsets, int(offsets[-1]))
        return rn.draw_masks(
            self.ids,
            self.cu_seqlens,
            rn.rng_state(seed, step),
            self.indices,
            pack_bits(self.starts),
            Pool(limit, pool_offsets, int(pool_offsets[-1]), rows_max),
            corruption,
            corruption,
        )

    def sentences(self):
        """Rows, and of each token the number of its word."""
        for start, end in zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True):
            yield slice(start, end), np.cumsum(self.starts[start:end])


def budget(limit, length):
    """Tokens of a sentence that a mask may choose, [CLS] and [SEP] never."""
    count = max(1, int(np.floor(limit.ratio * length + 0.5)))
    return min(count, limit.cap or count, max(length - 2, 0))


def assert_whole_words(chosen, words):
    for word in np.unique(words[chosen]):
        assert chosen[words == word].all(), "a word is chosen as a whole"


@pytest.mark.parametrize("limit", [CountLimit(0.3), CountLimit(0.5, 20), CountLimit(0.0), CountLimit(1.0)])
def test_corrupted_inputs(limit):
    batch = Batch()
    masks = batch.draw(limit)
    offsets = rn.labeled_offsets(batch.lengths, limit)
    for corrupted in (masks.encoder, masks.decoder):
        for place, (rows, words) in enumerate(batch.sentences()):
            count, length = corrupted.counts[place], batch.lengths[place]
            assert 0 <= count <= budget(limit, length)
            labeled = corrupted.labeled_rows[offsets[place] : offsets[place + 1]]
            targets = corrupted.targets[offsets[place] : offsets[place + 1]]
            assert (labeled[count:] < 0).all() and (targets[count:] == -100).all()
            labeled, targets = labeled[:count], targets[:count]
            assert (np.diff(labeled) > 0).all() and np.array_equal(targets, batch.ids[labeled])
            chosen = np.isin(np.arange(rows.start, rows.stop), labeled)
            assert chosen.sum() == count and not chosen[:1].any() and not chosen[-1:].any()
            assert_whole_words(chosen, words)
            unchanged = corrupted.input_ids[rows] == batch.ids[rows]
            assert unchanged[~chosen].all(), "a token that is not chosen stays"
    # Encoder and decoder draw apart.
    assert limit.ratio in (0.0, 1.0) or not np.array_equal(
        masks.encoder.labeled_rows, masks.decoder.labeled_rows
    )


def test_the_count_is_reached():
    """Words of one token fill the count exactly."""
    batch = Batch()
    batch.starts[:] = True
    counts = batch.draw(CountLimit(0.3)).encoder.counts
    assert counts.tolist() == [budget(CountLimit(0.3), length) for length in batch.lengths]


def test_replacement():
    batch = Batch()
    all_masked = batch.draw(CountLimit(0.5), replacement=Replacement(MASK, VOCABULARY, 1.0, 0.0)).encoder
    chosen = all_masked.labeled_rows[all_masked.labeled_rows >= 0]
    assert (all_masked.input_ids[chosen] == MASK).all()
    kept = batch.draw(CountLimit(0.5), replacement=Replacement(MASK, VOCABULARY, 0.0, 0.0)).encoder
    assert np.array_equal(kept.input_ids, batch.ids)
    # BERT's shares over many steps: 80 % masked, 10 % random, within four standard deviations.
    became, total = np.zeros(2), 0
    for step in range(40):
        drawn = batch.draw(CountLimit(0.5), step=step).encoder
        chosen = drawn.labeled_rows[drawn.labeled_rows >= 0]
        now, before = drawn.input_ids[chosen], batch.ids[chosen]
        became += (now == MASK).sum(), ((now != MASK) & (now != before)).sum()
        total += len(chosen)
    assert ((0 <= drawn.input_ids) & (drawn.input_ids < VOCABULARY)).all()
    for share, expected in zip(became / total, (0.8, 0.1), strict=True):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / total)


@pytest.mark.parametrize("limit", [CountLimit(0.5), CountLimit(0.5, 10), CountLimit(0.9)])
def test_pools(limit):
    batch, rows_max = Batch(), 20
    masks = batch.draw(limit, rows_max)
    offsets = rn.pool_offsets(batch.lengths, rows_max)
    assert masks.bits.dtype == np.uint32 and masks.rows.dtype == np.uint16
    for place, (rows, words) in enumerate(batch.sentences()):
        length = batch.lengths[place]
        pool = unpack(masks.bits[offsets[place] : offsets[place + 1]], length)
        assert len(pool) == min(length, rows_max)
        assert (masks.rows[rows] < max(len(pool), 1)).all()
        for visible in pool:
            hidden = ~visible
            assert hidden.sum() <= budget(limit, length)
            assert not hidden[:1].any() and not hidden[-1:].any(), "[CLS] and [SEP] are never hidden"
            assert_whole_words(hidden, words)
    longest = slice(batch.cu_seqlens[7], batch.cu_seqlens[8])
    assert len(np.unique(masks.rows[longest])) > 10, "tokens draw different rows"


def test_sentences_draw_the_same_in_any_order():
    first, order = Batch(), [7, 2, 8, 0, 5, 6, 1, 4, 3]
    second = Batch(order)
    limit = CountLimit(0.4)
    masks, moved = first.draw(limit), second.draw(limit)
    pools = [rn.pool_offsets(batch.lengths, 20) for batch in (first, second)]
    for there, here in enumerate(order):
        one, other = ([*batch.sentences()][place][0] for batch, place in ((first, here), (second, there)))
        assert np.array_equal(masks.rows[one], moved.rows[other])
        assert np.array_equal(
            masks.bits[pools[0][here] : pools[0][here + 1]], moved.bits[pools[1][there] : pools[1][there + 1]]
        )
        for name in ("encoder", "decoder"):
            assert np.array_equal(getattr(masks, name).input_ids[one], getattr(moved, name).input_ids[other])
            assert getattr(masks, name).counts[here] == getattr(moved, name).counts[there]


def test_other_words_draw_other_masks():
    batch, limit = Batch(), CountLimit(0.4)
    drawn = [batch.draw(limit, seed=seed, step=step) for seed, step in ((1, 2), (1, 2), (2, 2), (1, 3))]
    same = [np.array_equal(drawn[0].bits, other.bits) for other in drawn[1:]]
    assert same == [True, False, False]


def test_what_follows_from_lengths():
    assert rn.prefix_sums([3, 0, 2]).tolist() == [0, 3, 3, 5] and rn.prefix_sums([3]).dtype == np.int32
    assert rn.prefix_sums([]).tolist() == [0] and rn.prefix_sums(np.array([4, 1])).tolist() == [0, 4, 5]
    # min(L, rows_max) rows of ceil(L / 32) words.
    assert rn.pool_offsets([3, 0, 33, 100], 40).tolist() == [0, 3, 3, 69, 229]
    limit = CountLimit(0.3, 20)
    expected = [0, *np.cumsum([budget(limit, length) for length in LENGTHS])]
    assert rn.labeled_offsets(LENGTHS, limit).tolist() == expected
    assert rn.rng_state(1, 2).tolist() == rn.rng_state(1, 2).tolist() != rn.rng_state(1, 3).tolist()
    assert rn.rng_state(2**64 - 1, 2**32 - 1).shape == (4,)


def test_mask_bits():
    rng = np.random.default_rng(0)
    visible = [rng.random((length, length)) < 0.5 for length in LENGTHS]
    bits, offsets = rn.mask_bits(visible)
    assert bits.dtype == offsets.dtype == np.uint32 and offsets[-1] == len(bits)
    for place, array in enumerate(visible):
        assert np.array_equal(unpack(bits[offsets[place] : offsets[place + 1]], len(array)), array)
    transposed, _ = rn.mask_bits([array.T.copy().T for array in visible])
    assert np.array_equal(bits, transposed)
    assert rn.mask_bits([])[1].tolist() == [0]
