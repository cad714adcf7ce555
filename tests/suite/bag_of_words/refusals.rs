//! Arguments that are refused, and the messages.

use super::*;
use retromae::ops::Packed;
use retromae::ops::bag_of_words::{self, Bags, Forward, Gradients};

/// Lengths of one call with 2 sentences of 4 tokens, 10 words, 8 columns and 3 ids, to be spoiled one by one.
#[derive(Clone, Copy)]
struct Lengths {
    hidden: [usize; 2],
    weight: [usize; 2],
    bias: usize,
    cu_seqlens: usize,
    bag_offsets: usize,
    bag_weights: usize,
    sentence_weights: usize,
    losses: usize,
    d_hidden: [usize; 2],
    d_weight: [usize; 2],
    d_bias: usize,
    workspace: usize,
    tokens: usize,
    /// Name of a matrix with gaps between its rows
    gaps: &'static str,
    first_position: usize,
    algorithm: Algorithm,
}

const RIGHT: Lengths = Lengths {
    hidden: [4, 8],
    weight: [10, 8],
    bias: 10,
    cu_seqlens: 3,
    bag_offsets: 3,
    bag_weights: 3,
    sentence_weights: 2,
    losses: 2,
    d_hidden: [4, 8],
    d_weight: [10, 8],
    d_bias: 10,
    workspace: 576,
    tokens: 4,
    gaps: "",
    first_position: 1,
    algorithm: Algorithm::Library,
};

fn attempt(lengths: Lengths) -> retromae::ops::Result<()> {
    let device = &devices()[0];
    let floats = |length: usize| device.zeros::<f32>(length).unwrap();
    let ids = |length: usize| device.zeros::<i32>(length).unwrap();
    // Twice as much as needed, for gaps.
    let matrix = |[rows, columns]: [usize; 2]| floats(2 * rows * columns);
    let stride = |name, [_, columns]: [usize; 2]| if lengths.gaps == name { 2 * columns } else { columns };
    let [hidden, weight] = [lengths.hidden, lengths.weight].map(matrix);
    let [mut d_hidden, mut d_weight] = [lengths.d_hidden, lengths.d_weight].map(matrix);
    let [bias, bag_weights, sentence_weights] =
        [lengths.bias, lengths.bag_weights, lengths.sentence_weights].map(floats);
    let [cu_seqlens, bag_offsets, bag_ids] = [lengths.cu_seqlens, lengths.bag_offsets, 3].map(ids);
    let [mut losses, mut d_bias] = [lengths.losses, lengths.d_bias].map(floats);
    let mut workspace = device.zeros(lengths.workspace).unwrap();
    let bags = Bags { offsets: bag_offsets.view(), ids: bag_ids.view(), weights: Some(bag_weights.view()) };
    let arguments = Forward {
        hidden: hidden.view().strided(
            lengths.hidden[0],
            lengths.hidden[1],
            stride("hidden", lengths.hidden),
        )?,
        weight: weight.view().strided(
            lengths.weight[0],
            lengths.weight[1],
            stride("weight", lengths.weight),
        )?,
        bias: Some(bias.view()),
        batch: Packed { cu_seqlens: cu_seqlens.view(), tokens: lengths.tokens, max_seqlen: 4 },
        bags,
        sentence_weights: Some(sentence_weights.view()),
        first_position: lengths.first_position,
        algorithm: lengths.algorithm,
        losses: losses.view_mut(),
        workspace: workspace.view_mut(),
    };
    let (d_hidden, d_weight) = (d_hidden.view_mut(), d_weight.view_mut());
    let gradients = Gradients {
        d_hidden: Some(d_hidden.strided(
            lengths.d_hidden[0],
            lengths.d_hidden[1],
            stride("d_hidden", lengths.d_hidden),
        )?),
        d_weight: Some(d_weight.strided(
            lengths.d_weight[0],
            lengths.d_weight[1],
            stride("d_weight", lengths.d_weight),
        )?),
        d_bias: Some(d_bias.view_mut()),
    };
    let stream = device.stream();
    bag_of_words::forward_backward(&stream, arguments, gradients)?;
    Ok(stream.synchronize()?)
}

#[test]
fn wrong_shapes_are_refused() {
    attempt(RIGHT).unwrap();
    for (lengths, message) in [
        (
            Lengths { hidden: [5, 8], ..RIGHT },
            "hidden is [5, 8]; it should be [4, 8] (tokens, columns of weight)",
        ),
        (
            Lengths { hidden: [4, 7], ..RIGHT },
            "hidden is [4, 7]; it should be [4, 8] (tokens, columns of weight)",
        ),
        (Lengths { tokens: 3, ..RIGHT }, "hidden is [4, 8]; it should be [3, 8] (tokens, columns of weight)"),
        (Lengths { tokens: 1 << 31, ..RIGHT }, "batch.tokens is 2147483648; it should be below 2^31"),
        (
            Lengths { weight: [0, 8], ..RIGHT },
            "weight is [0, 8]; it should be [vocabulary, hidden size], with a vocabulary of at least 1 and below 2^31",
        ),
        (Lengths { bias: 0, ..RIGHT }, "bias is 0 elements long; it should be 10 (rows of weight)"),
        (
            Lengths { cu_seqlens: 0, ..RIGHT },
            "batch.cu_seqlens is empty; it should be one longer than there are sentences",
        ),
        (
            Lengths { bag_offsets: 2, ..RIGHT },
            "bags.offsets is 2 elements long; it should be 3 (sentences + 1)",
        ),
        (Lengths { bag_weights: 2, ..RIGHT }, "bags.weights is 2 elements long; it should be 3 (bags.ids)"),
        (
            Lengths { sentence_weights: 3, ..RIGHT },
            "sentence_weights is 3 elements long; it should be 2 (sentences)",
        ),
        (Lengths { losses: 1, ..RIGHT }, "losses is 1 elements long; it should be 2 (sentences)"),
        (Lengths { d_hidden: [3, 8], ..RIGHT }, "d_hidden is [3, 8]; it should be [4, 8] (as hidden)"),
        (Lengths { d_weight: [11, 8], ..RIGHT }, "d_weight is [11, 8]; it should be [10, 8] (as weight)"),
        (Lengths { d_bias: 16, ..RIGHT }, "d_bias is 16 elements long; it should be 10 (rows of weight)"),
        (
            Lengths { workspace: 575, ..RIGHT },
            "workspace is 575 bytes long; it should be at least 576 (a chunk of one row)",
        ),
        (
            Lengths { algorithm: Algorithm::Fused, ..RIGHT },
            "algorithm is Fused; it should be Library for f32",
        ),
        (Lengths { first_position: 65_536, ..RIGHT }, "first_position is 65536; it should be at most 65535"),
        (
            Lengths { weight: [10, 4], ..RIGHT },
            "weight is [10, 4]; it should be of a positive multiple of 8 columns",
        ),
    ] {
        assert_eq!(attempt(lengths).unwrap_err().to_string(), message);
    }
    for gaps in ["hidden", "weight", "d_hidden", "d_weight"] {
        let error = attempt(Lengths { gaps, ..RIGHT }).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{gaps} is strided by 16 elements; it should be contiguous rows of 8 columns")
        );
    }
}
