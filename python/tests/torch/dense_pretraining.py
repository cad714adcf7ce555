"""RetroMAE's loss in dense formulas: padded sentences, matrices of masks, plain operations of torch in any precision."""

import torch

NOTHING = float("-inf")


def norm(x, parameters, name, eps):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def linear(x, parameters, name):
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def softmax(scores):
    """Along the last dimension; zeros where nothing is visible."""
    nothing = (scores == NOTHING).all(-1, keepdim=True)
    return torch.where(nothing, 0.0, scores.masked_fill(nothing, 0.0).softmax(-1))


def layer(query, content, visible, parameters, name, config):
    """A layer of BERT on [B, L, H]; `visible` [B, L, L] are the keys that each query sees."""
    heads = config.num_attention_heads
    size = config.hidden_size // heads

    def split(x, part):
        return linear(x, parameters, f"{name}.attention.self.{part}").unflatten(-1, (heads, size))

    scores = torch.einsum("bqhd,bkhd->bhqk", split(query, "query"), split(content, "key")) / size**0.5
    scores = scores.masked_fill(~visible[:, None], NOTHING)
    context = torch.einsum("bhqk,bkhd->bqhd", softmax(scores), split(content, "value")).flatten(-2)
    eps = config.layer_norm_eps
    context = linear(context, parameters, f"{name}.attention.output.dense")
    hidden = norm(query + context, parameters, f"{name}.attention.output.LayerNorm", eps)
    expanded = gelu(linear(hidden, parameters, f"{name}.intermediate.dense"))
    return norm(
        hidden + linear(expanded, parameters, f"{name}.output.dense"),
        parameters,
        f"{name}.output.LayerNorm",
        eps,
    )


def embed(ids, parameters, config, vectors=None):
    """Embeddings [B, L, H] of ids [B, L], or of vectors [B, L, H]. That of the padding token has no gradient."""
    name = "lm.bert.embeddings"
    words = parameters[f"{name}.word_embeddings.weight"]
    if vectors is None:
        padding = (ids == config.pad_token_id)[..., None]
        vectors = torch.where(padding, words[ids].detach(), words[ids])
    length = vectors.shape[1]
    positions = parameters[f"{name}.position_embeddings.weight"][:length]
    types = parameters[f"{name}.token_type_embeddings.weight"][0]
    return norm(vectors + positions + types, parameters, f"{name}.LayerNorm", config.layer_norm_eps)


def logits(hidden, parameters, config):
    name = "lm.cls.predictions"
    states = gelu(linear(hidden, parameters, f"{name}.transform.dense"))
    states = norm(states, parameters, f"{name}.transform.LayerNorm", config.layer_norm_eps)
    return states @ parameters[f"{name}.decoder.weight"].T + parameters[f"{name}.decoder.bias"]


def cross_entropy(scores, labels):
    """Mean over the labels that are not -100."""
    labeled = labels != -100
    chosen = scores[labeled].log_softmax(-1)
    return -chosen.gather(1, labels[labeled][:, None]).mean()


def loss(batch, parameters, config, *, decoding, query, bag_of_words_weight):
    """`batch` has, padded to [B, L]: encoder_ids, encoder_labels, decoder_ids, decoder_labels, attended, and visible [B, L, L],
    and bags [B, V], the weights of each sentence's tokens."""
    attended = batch["attended"]
    full = attended[:, None, :].expand(-1, attended.shape[1], -1)
    hidden = embed(batch["encoder_ids"], parameters, config)
    for place in range(config.num_hidden_layers):
        name = f"lm.bert.encoder.layer.{place}"
        hidden = layer(hidden, hidden, full, parameters, name, config)
    encoder_loss = cross_entropy(logits(hidden, parameters, config), batch["encoder_labels"])

    sentence = hidden[:, :1]
    embedded = embed(batch["decoder_ids"], parameters, config)
    content = torch.cat([sentence, embedded[:, 1:]], 1)
    if decoding == "basic":
        first, visible = content, full
    else:
        vectors = sentence.expand(-1, embedded.shape[1], -1)
        visible = batch["visible"]
        if query == "embedding":
            first = embed(None, parameters, config, vectors)
        else:
            positions = parameters["lm.bert.embeddings.position_embeddings.weight"]
            first = vectors + positions[: embedded.shape[1]]
    decoded = layer(first, content, visible, parameters, "c_head", config)
    decoder_loss = cross_entropy(logits(decoded, parameters, config), batch["decoder_labels"])
    total = encoder_loss + decoder_loss
    if bag_of_words_weight:
        scores = logits(hidden, parameters, config)[:, 1:]
        largest = scores.masked_fill(~attended[:, 1:, None], NOTHING).amax(1)
        total = total + bag_of_words_weight * -(batch["bags"] * largest.log_softmax(-1)).sum(1).mean()
    return total
