//! Checkpoints: safetensors as the native format, PyTorch files read without executing anything.
