//! Layers made of ops, each with a training and an inference form.
