//! All kernel files: what a new machine compiles side by side instead of one by one when they are needed, and what is looked
//! through for spilled registers.

use super::Kernels;

/// Declares the files of `kernels/` by their names.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file of `kernels/`.
        pub const FILES: &[Kernels] = &[$(Kernels {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $name, ".cu")),
        }),*];
    };
}

files![
    "adamw",
    "add",
    "aggregate",
    "aggregate_backward",
    "aggregate_weights",
    "average",
    "batch_norm",
    "bounds",
    "clip",
    "cross_entropy",
    "drop",
    "executor",
    "farthest_point",
    "gather",
    "gelu",
    "grouped_weight",
    "interpolate",
    "interpolation",
    "inverse",
    "kernel_point_conv",
    "knn",
    "layer_norm",
    "leaky_relu",
    "linear",
    "lovasz",
    "matmul",
    "moments",
    "neighbor_max",
    "norm_coefficients",
    "offsets",
    "partition",
    "position_norm",
    "radius",
    "relation",
    "relation_multiplier",
    "relu",
    "scan",
    "segment_max",
    "segment_mean",
    "sgd",
    "softmax",
    "sort",
    "statistics",
    "tree",
    "weighted_sum",
    "window_attention",
    "window_attention_keys",
    "window_attention_queries",
    "window_lists",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_kernel_file_is_forgotten() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
        let paths = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let kernels = paths.filter(|path| path.extension().is_some_and(|e| e == "cu"));
        let names: BTreeSet<String> = kernels
            .map(|path| path.file_stem().unwrap().to_str().unwrap().into())
            .collect();
        assert_eq!(
            names,
            FILES.iter().map(|file| file.name.to_string()).collect()
        );
    }
}
