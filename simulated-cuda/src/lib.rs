//! A CUDA driver and cuBLASLt in software.
