"""What include/retromae.h declares. Written by tools/abi.py; not to be edited."""

from ctypes import (
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_uint8,
    c_void_p,
)

RMAE_VERSION_MAJOR = 0
RMAE_VERSION_MINOR = 1
RMAE_VERSION_PATCH = 0
RMAE_DEVICE_NO_FAULT_HANDLERS = 1
RMAE_MASK_FIRST = 1
RMAE_MASK_INCLUDE_SELF = 2
RMAE_ATTENTION_ATOMIC = 1
RMAE_ATTENTION_VERSION = 1
RMAE_CROSS_ENTROPY_IGNORE_INDEX = 1
RMAE_CROSS_ENTROPY_VERSION = 1
RMAE_MEAN_WEIGHTS_VERSION = 1
RMAE_BAG_OF_WORDS_VERSION = 1
RMAE_LINEAR_ACCUMULATE = 1
RMAE_LINEAR_VERSION = 1
RMAE_MATMUL_LEFT_TRANSPOSED = 1
RMAE_MATMUL_RIGHT_TRANSPOSED = 2
RMAE_MATMUL_ACCUMULATE = 4
RMAE_MATMUL_VERSION = 1
RMAE_LAYER_NORM_VERSION = 1
RMAE_BIAS_GELU_VERSION = 1
RMAE_SUM_ACCUMULATE = 1
RMAE_COLUMN_SUM_VERSION = 1
RMAE_REDUCE_VERSION = 1
RMAE_SEGMENT_SUM_VERSION = 1
RMAE_ROWS_VERSION = 1
RMAE_GROUP_BY_KEY_VERSION = 1
RMAE_EMBEDDING_VERSION = 1
RMAE_MASKS_VERSION = 1
RMAE_ADAMW_VERSION = 1
RMAE_BATCH_VERSION = 1
RMAE_OK = 0
RMAE_INVALID_ARGUMENT = 1000
RMAE_INVALID_DESCRIPTOR = 1001
RMAE_NULL_POINTER = 1002
RMAE_MISALIGNED = 1003
RMAE_OVERLAP = 1004
RMAE_WORKSPACE_TOO_SMALL = 1005
RMAE_INVALID_HANDLE = 1006
RMAE_WRONG_DEVICE = 1007
RMAE_UNSUPPORTED_SHAPE = 2000
RMAE_UNSUPPORTED_HARDWARE = 2001
RMAE_CAPTURING = 3000
RMAE_OUT_OF_MEMORY = 4000
RMAE_DEVICE_ERROR = 4001
RMAE_DEVICE_LOST = 4002
RMAE_FILE_ERROR = 5000
RMAE_INTERNAL = 9000
RMAE_F32 = 1
RMAE_BF16 = 2
RMAE_F16 = 3
RMAE_MASK_FULL = 0
RMAE_MASK_POOL = 1
RMAE_MASK_INDEPENDENT = 2
RMAE_MASK_BITS = 3
RMAE_MASK_GENERATED = 4
RMAE_MASK_WINDOW = 5
RMAE_MASK_PERMUTATION = 6
RMAE_ALGORITHM_LIBRARY = 0
RMAE_ALGORITHM_FUSED = 1
RMAE_EMBEDDING_WORD = 0
RMAE_EMBEDDING_CONTENT = 1
RMAE_EMBEDDING_QUERY = 2
RMAE_EMBEDDING_QUERY_POSITION = 3


class rmae_packed(Structure):
    _fields_ = [
        ("cu_seqlens", c_void_p),
        ("sequences", c_int64),
        ("tokens", c_int64),
        ("max_seqlen", c_int64),
    ]


class rmae_dropout(Structure):
    _fields_ = [
        ("rng", c_void_p),
        ("rate", c_float),
        ("site", c_uint32),
    ]


class rmae_count_limit(Structure):
    _fields_ = [
        ("ratio", c_double),
        ("cap", c_int64),
    ]


class rmae_mask(Structure):
    _fields_ = [
        ("kind", c_int32),
        ("flags", c_uint32),
        ("bits", c_void_p),
        ("words", c_int64),
        ("offsets", c_void_p),
        ("rows", c_void_p),
        ("order", c_void_p),
        ("left", c_int64),
        ("right", c_int64),
        ("rng", c_void_p),
        ("sentence_indices", c_void_p),
        ("word_starts", c_void_p),
        ("pool_rows_max", c_int64),
        ("count_limit", rmae_count_limit),
    ]


class rmae_queries(Structure):
    _fields_ = [
        ("cu_seqlens", c_void_p),
        ("tokens", c_int64),
        ("max_seqlen", c_int64),
        ("positions", c_void_p),
    ]


class rmae_attention_desc(Structure):
    VERSION = RMAE_ATTENTION_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("scale", c_float),
        ("num_heads", c_int64),
        ("head_dim", c_int64),
        ("batch", rmae_packed),
        ("queries", rmae_queries),
        ("mask", rmae_mask),
        ("dropout", rmae_dropout),
        ("query", c_void_p),
        ("query_stride", c_int64),
        ("key", c_void_p),
        ("key_stride", c_int64),
        ("value", c_void_p),
        ("value_stride", c_int64),
        ("output", c_void_p),
        ("output_stride", c_int64),
        ("log_sum_exp", c_void_p),
        ("d_output", c_void_p),
        ("d_output_stride", c_int64),
        ("d_query", c_void_p),
        ("d_query_stride", c_int64),
        ("d_key", c_void_p),
        ("d_key_stride", c_int64),
        ("d_value", c_void_p),
        ("d_value_stride", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_totals(Structure):
    _fields_ = [
        ("loss", c_float),
        ("log_likelihood", c_float),
        ("labeled", c_uint32),
        ("correct", c_uint32),
        ("invalid", c_uint32),
        ("first_invalid", c_uint32),
    ]


class rmae_cross_entropy_desc(Structure):
    VERSION = RMAE_CROSS_ENTROPY_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("ignore_index", c_int32),
        ("algorithm", c_int32),
        ("label_smoothing", c_float),
        ("z_loss", c_float),
        ("soft_cap", c_float),
        ("rows", c_int64),
        ("hidden_size", c_int64),
        ("vocab_size", c_int64),
        ("hidden", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("targets", c_void_p),
        ("row_weights", c_void_p),
        ("losses", c_void_p),
        ("log_sum_exp", c_void_p),
        ("log_likelihoods", c_void_p),
        ("correct", c_void_p),
        ("totals", c_void_p),
        ("group_ends", c_void_p),
        ("groups", c_int64),
        ("d_hidden", c_void_p),
        ("d_weight", c_void_p),
        ("d_bias", c_void_p),
        ("chunk_rows", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_mean_weights_desc(Structure):
    VERSION = RMAE_MEAN_WEIGHTS_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("rows", c_int64),
        ("sentences", c_int64),
        ("labeled_rows", c_void_p),
        ("counts", c_void_p),
        ("row_weights", c_void_p),
        ("weight", c_float),
    ]


class rmae_bags(Structure):
    _fields_ = [
        ("offsets", c_void_p),
        ("ids", c_void_p),
        ("weights", c_void_p),
        ("length", c_int64),
    ]


class rmae_bag_of_words_desc(Structure):
    VERSION = RMAE_BAG_OF_WORDS_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("algorithm", c_int32),
        ("hidden_size", c_int64),
        ("vocab_size", c_int64),
        ("batch", rmae_packed),
        ("hidden", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("bags", rmae_bags),
        ("sentence_weights", c_void_p),
        ("first_position", c_int64),
        ("losses", c_void_p),
        ("d_hidden", c_void_p),
        ("d_weight", c_void_p),
        ("d_bias", c_void_p),
        ("chunk_rows", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_linear_desc(Structure):
    VERSION = RMAE_LINEAR_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("rows", c_int64),
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("input", c_void_p),
        ("input_stride", c_int64),
        ("weight", c_void_p),
        ("weight_stride", c_int64),
        ("bias", c_void_p),
        ("output", c_void_p),
        ("output_stride", c_int64),
        ("d_output", c_void_p),
        ("d_output_stride", c_int64),
        ("d_input", c_void_p),
        ("d_input_stride", c_int64),
        ("d_weight", c_void_p),
        ("d_weight_stride", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_matmul_desc(Structure):
    VERSION = RMAE_MATMUL_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("output_dtype", c_int32),
        ("m", c_int64),
        ("n", c_int64),
        ("k", c_int64),
        ("batch", c_int64),
        ("left", c_void_p),
        ("left_stride", c_int64),
        ("right", c_void_p),
        ("right_stride", c_int64),
        ("bias", c_void_p),
        ("output", c_void_p),
        ("output_stride", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_layer_norm_desc(Structure):
    VERSION = RMAE_LAYER_NORM_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("eps", c_float),
        ("rows", c_int64),
        ("columns", c_int64),
        ("dropout", rmae_dropout),
        ("input", c_void_p),
        ("bias", c_void_p),
        ("residual", c_void_p),
        ("gamma", c_void_p),
        ("beta", c_void_p),
        ("sum", c_void_p),
        ("output", c_void_p),
        ("mean", c_void_p),
        ("rstd", c_void_p),
        ("d_output", c_void_p),
        ("d_input", c_void_p),
        ("d_residual", c_void_p),
        ("d_gamma", c_void_p),
        ("d_beta", c_void_p),
        ("d_bias", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_bias_gelu_desc(Structure):
    VERSION = RMAE_BIAS_GELU_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("rows", c_int64),
        ("columns", c_int64),
        ("input", c_void_p),
        ("bias", c_void_p),
        ("output", c_void_p),
        ("d_output", c_void_p),
        ("d_input", c_void_p),
    ]


class rmae_column_sum_desc(Structure):
    VERSION = RMAE_COLUMN_SUM_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("rows", c_int64),
        ("columns", c_int64),
        ("input", c_void_p),
        ("input_stride", c_int64),
        ("output", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_reduce_desc(Structure):
    VERSION = RMAE_REDUCE_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("count", c_int64),
        ("input", c_void_p),
        ("output", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_segments(Structure):
    _fields_ = [
        ("offsets", c_void_p),
        ("indices", c_void_p),
        ("keys", c_void_p),
        ("count", c_int64),
        ("indices_length", c_int64),
    ]


class rmae_segment_sum_desc(Structure):
    VERSION = RMAE_SEGMENT_SUM_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("output_dtype", c_int32),
        ("rows", c_int64),
        ("output_rows", c_int64),
        ("columns", c_int64),
        ("input", c_void_p),
        ("segments", rmae_segments),
        ("output", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_rows_desc(Structure):
    VERSION = RMAE_ROWS_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("input_rows", c_int64),
        ("output_rows", c_int64),
        ("columns", c_int64),
        ("rows", c_void_p),
        ("input", c_void_p),
        ("output", c_void_p),
    ]


class rmae_keys(Structure):
    _fields_ = [
        ("keys", c_void_p),
        ("key_count", c_int64),
        ("segment_keys", c_void_p),
        ("offsets", c_void_p),
        ("indices", c_void_p),
    ]


class rmae_group_by_key_desc(Structure):
    VERSION = RMAE_GROUP_BY_KEY_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("rows", c_int64),
        ("array_count", c_int64),
        ("arrays", rmae_keys * 3),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_table_gradient(Structure):
    _fields_ = [
        ("segments", rmae_segments),
        ("d_table", c_void_p),
    ]


class rmae_embedding_desc(Structure):
    VERSION = RMAE_EMBEDDING_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("dtype", c_int32),
        ("source", c_int32),
        ("eps", c_float),
        ("tokens", c_int64),
        ("columns", c_int64),
        ("vocab_size", c_int64),
        ("sentences", c_int64),
        ("max_positions", c_int64),
        ("token_types", c_int64),
        ("dropout", rmae_dropout),
        ("ids", c_void_p),
        ("word_table", c_void_p),
        ("sentence_indices", c_void_p),
        ("sentence_vectors", c_void_p),
        ("positions", c_void_p),
        ("position_table", c_void_p),
        ("token_type_table", c_void_p),
        ("gamma", c_void_p),
        ("beta", c_void_p),
        ("output", c_void_p),
        ("mean", c_void_p),
        ("rstd", c_void_p),
        ("d_output", c_void_p),
        ("d_gamma", c_void_p),
        ("d_beta", c_void_p),
        ("d_position", rmae_table_gradient),
        ("d_word", rmae_table_gradient),
        ("d_token_type", c_void_p),
        ("d_sentences", rmae_table_gradient),
        ("d_sentences_rows", c_int64),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_replacement(Structure):
    _fields_ = [
        ("mask_id", c_int32),
        ("vocab_size", c_int64),
        ("mask_share", c_double),
        ("random_share", c_double),
    ]


class rmae_corruption(Structure):
    _fields_ = [
        ("ids", c_void_p),
        ("count_limit", rmae_count_limit),
        ("replacement", rmae_replacement),
        ("input_ids", c_void_p),
        ("offsets", c_void_p),
        ("labeled_rows", c_void_p),
        ("targets", c_void_p),
        ("counts", c_void_p),
        ("labeled", c_int64),
    ]


class rmae_pool(Structure):
    _fields_ = [
        ("count_limit", rmae_count_limit),
        ("rows_max", c_int64),
        ("offsets", c_void_p),
        ("bits", c_void_p),
        ("words", c_int64),
        ("rows", c_void_p),
    ]


class rmae_masks_desc(Structure):
    VERSION = RMAE_MASKS_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("rng", c_void_p),
        ("cu_seqlens", c_void_p),
        ("indices", c_void_p),
        ("word_starts", c_void_p),
        ("sentences", c_int64),
        ("tokens", c_int64),
        ("length_max", c_int64),
        ("pool", rmae_pool),
        ("encoder", rmae_corruption),
        ("decoder", rmae_corruption),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class rmae_adamw_constants(Structure):
    _fields_ = [
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
        ("weight_decay", c_double),
        ("max_norm", c_double),
    ]


class rmae_adamw_desc(Structure):
    VERSION = RMAE_ADAMW_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("constants", rmae_adamw_constants),
        ("count", c_int64),
        ("decayed", c_int64),
        ("parameters", c_void_p),
        ("gradients", c_void_p),
        ("first_moments", c_void_p),
        ("second_moments", c_void_p),
        ("compute_parameters", c_void_p),
        ("squared_norm", c_void_p),
        ("schedule", c_void_p),
    ]


class rmae_capacity(Structure):
    _fields_ = [
        ("tokens", c_int64),
        ("sentences", c_int64),
        ("sentence_length", c_int64),
    ]


class rmae_parameter_info(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("offset", c_int64),
        ("length", c_int64),
    ]


class rmae_arena(Structure):
    _fields_ = [
        ("parameters", c_void_p),
        ("compute_parameters", c_void_p),
        ("gradients", c_void_p),
        ("first_moments", c_void_p),
        ("second_moments", c_void_p),
        ("length", c_int64),
        ("decayed", c_int64),
    ]


class rmae_batch(Structure):
    VERSION = RMAE_BATCH_VERSION
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("flags", c_uint64),
        ("sentences", c_int64),
        ("cu_seqlens", c_void_p),
        ("ids", c_void_p),
        ("sentence_indices", c_void_p),
        ("word_starts", c_void_p),
        ("mask_id", c_int32),
        ("encoder_limit", rmae_count_limit),
        ("decoder_limit", rmae_count_limit),
        ("pool_rows", c_int64),
        ("encoder_input_ids", c_void_p),
        ("encoder_labels", c_void_p),
        ("decoder_input_ids", c_void_p),
        ("decoder_labels", c_void_p),
        ("visibility_bits", c_void_p),
        ("visibility_words", c_int64),
        ("visibility_offsets", c_void_p),
        ("visibility_rows", c_void_p),
    ]


class rmae_outcome(Structure):
    _fields_ = [
        ("encoder_loss", c_float),
        ("decoder_loss", c_float),
        ("bag_of_words_loss", c_float),
        ("encoder_accuracy", c_float),
        ("decoder_accuracy", c_float),
        ("encoder_perplexity", c_float),
        ("decoder_perplexity", c_float),
        ("gradient_norm", c_float),
    ]


# Result and arguments of each function.
FUNCTIONS = {
    "rmae_status_name": (c_char_p, [c_int32]),
    "rmae_last_error": (c_char_p, []),
    "rmae_version": (None, [c_void_p, c_void_p, c_void_p]),
    "rmae_device_open": (c_int32, [c_char_p, c_uint64, c_void_p]),
    "rmae_device_close": (c_int32, [c_void_p]),
    "rmae_device_description": (c_int32, [c_void_p, c_void_p, c_size_t]),
    "rmae_stream_synchronize": (c_int32, [c_void_p, c_void_p]),
    "rmae_rng_state": (None, [c_uint64, c_uint32, c_void_p]),
    "rmae_attention_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_attention_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_attention_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_mask_bits": (c_int32, [c_void_p, c_int64, c_void_p, c_void_p, c_void_p]),
    "rmae_cross_entropy_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_cross_entropy_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_cross_entropy_forward_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_mean_weights": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_bag_of_words_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_bag_of_words_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_bag_of_words_forward_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_linear_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_linear_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_linear_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_matmul_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_matmul": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_layer_norm_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_layer_norm_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_layer_norm_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_bias_gelu_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_bias_gelu_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_column_sum_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_column_sum": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_reduce_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_reduce_sum": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_reduce_squares": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_segment_sum_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_segment_sum": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_rows_gather": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_rows_scatter_add": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_group_by_key_segments": (c_int32, [c_int64, c_int64, c_void_p]),
    "rmae_group_by_key_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_group_by_key": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_embedding_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_embedding_forward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_embedding_backward": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_masks_pool_offsets": (c_int32, [c_void_p, c_int64, c_int64, c_void_p]),
    "rmae_masks_labeled_offsets": (c_int32, [c_void_p, c_int64, rmae_count_limit, c_void_p]),
    "rmae_masks_workspace": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_masks_sample": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_adamw_schedule": (c_int32, [c_void_p, c_double, c_uint32, c_void_p]),
    "rmae_adamw_step": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "rmae_model_create": (c_int32, [c_void_p, c_char_p, c_int32, rmae_capacity, c_void_p]),
    "rmae_model_destroy": (c_int32, [c_void_p]),
    "rmae_model_memory": (c_int32, [c_void_p, c_char_p, c_int32, rmae_capacity, c_void_p]),
    "rmae_model_initialize": (c_int32, [c_void_p, c_uint64]),
    "rmae_model_parameter_count": (c_int32, [c_void_p, c_void_p]),
    "rmae_model_parameter_info": (c_int32, [c_void_p, c_int64, c_void_p]),
    "rmae_model_parameter": (c_int32, [c_void_p, c_char_p, c_void_p, c_int64]),
    "rmae_model_set_parameter": (c_int32, [c_void_p, c_char_p, c_void_p, c_int64]),
    "rmae_model_gradient": (c_int32, [c_void_p, c_char_p, c_void_p, c_int64]),
    "rmae_model_parameters_arena": (c_int32, [c_void_p, c_void_p]),
    "rmae_model_zero_gradients": (c_int32, [c_void_p, c_void_p]),
    "rmae_model_step": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p, c_uint32, c_void_p]),
    "rmae_model_accumulate": (c_int32, [c_void_p, c_void_p, c_void_p, c_uint64, c_uint32, c_float]),
    "rmae_model_train_step": (c_int32, [c_void_p, c_void_p, c_void_p, c_uint64, c_uint32, c_void_p, c_double, c_uint32]),
    "rmae_model_update": (c_int32, [c_void_p, c_void_p, c_void_p, c_double, c_uint32, c_void_p]),
    "rmae_model_outcome": (c_int32, [c_void_p, c_void_p]),
    "rmae_model_embed": (c_int32, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int32, c_void_p]),
    "rmae_model_save": (c_int32, [c_void_p, c_char_p]),
    "rmae_model_load": (c_int32, [c_void_p, c_char_p]),
    "rmae_model_save_state": (c_int32, [c_void_p, c_char_p]),
    "rmae_model_load_state": (c_int32, [c_void_p, c_char_p]),
}
