//! Fused attention on a GPU: the kernels of `relation` and `aggregate`, with the norms folded in.

use super::super::aggregate::cuda::{Drop, Launch, ValueBiasOn};
use super::super::pairs::Sizes;
use super::super::relation::cuda::{RelationOn, relation_on};
use super::{VectorAttention, has_bias};
use crate::Result;
use crate::device::Gpu;
use crate::graph::Forward;

pub(super) fn forward(op: &VectorAttention, gpu: Gpu, io: &Forward<'_>) -> Result<()> {
    let neighbors = &op.neighbors;
    let sizes = Sizes {
        k: neighbors.k,
        groups: op.groups,
        channels: io.shape(5).cols,
    };
    let [keys, queries, constant, mix, shift] = [0, 1, 2, 3, 4].map(|i| io.input_on(i));
    let has_bias = has_bias(io.inputs());
    let relation = RelationOn {
        keys,
        queries,
        constant,
        bias: has_bias.then(|| [io.input_on(7), io.input_on(8)]),
    };
    let e = io.scratch_on();
    let soft = e.offset(neighbors.index.len() * sizes.groups);
    relation_on(io.cores(gpu), neighbors, sizes, relation, e)?;
    let launch = Launch::new(io.cores(gpu), neighbors, sizes)?;
    launch.softmax((e, None), [mix, shift], soft)?;
    let packed = VectorAttention::packed_shape(sizes.channels, sizes.groups);
    let bias = has_bias.then(|| ValueBiasOn {
        position: io.input_on(7),
        w2: io.input_on(9),
        strides: [packed.len() / sizes.groups, 1, packed.cols],
        constant: io.input_on(10),
    });
    let values = (io.input_on(5), bias);
    launch.attend(
        (soft, Drop::NONE),
        values,
        Some(io.input_on(6)),
        io.output_on(0),
    )
}
