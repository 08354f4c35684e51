//! Encoding of relative positions: Linear(3, C), norm, ReLU, Linear(C, C).
//!
//! The first linear and its norm act on the relative position alone, so they reduce to one affine map per channel, P
//! [C, 4], whatever the statistics: h = ReLU(P · [Δ; 1]).

use super::dense::{BatchNorm, EPSILON, Linear};
use crate::Result;
use crate::geometry::Neighbors;
use crate::graph::{Graph, Mode, Scope, Shape, Var};
use crate::ops;
use std::sync::Arc;

/// The pairs that an attention layer works on.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Who is whose neighbour, and where.
    pub neighbors: Arc<Neighbors>,
    /// Their offsets Δ [N·K, 3] as a value, if gradients with respect to coordinates are asked for.
    pub offsets: Option<Var>,
}

impl Pairs {
    /// Pairs of `neighbors`, with a gradient for `coord` [N, 3] if it is given.
    pub fn new(
        graph: &mut Graph<'_>,
        neighbors: &Arc<Neighbors>,
        coord: Option<Var>,
    ) -> Result<Pairs> {
        let op = || ops::Offsets {
            neighbors: neighbors.clone(),
        };
        Ok(Pairs {
            neighbors: neighbors.clone(),
            offsets: coord.map(|x| graph.push(op(), &[x])).transpose()?,
        })
    }
}

/// `linear_p_bias` and `linear_p_multiplier` of the official code.
#[derive(Debug, Clone)]
pub struct PositionEncoding {
    first: Linear,
    norm: BatchNorm,
    /// Linear(C, C) with bias.
    pub second: Linear,
    name: String,
}

impl PositionEncoding {
    /// Registers `0`, `1.norm` and `3`.
    pub fn new(scope: &mut Scope<'_>, channels: usize) -> Self {
        PositionEncoding {
            name: scope.name("folded"),
            first: Linear::new(&mut scope.child("0"), 3, channels, true),
            norm: BatchNorm::new(&mut scope.child("1"), channels),
            second: Linear::new(&mut scope.child("3"), channels, channels, true),
        }
    }

    /// Records P [C, 4] for the relative positions of `pairs`.
    pub fn record(&self, graph: &mut Graph<'_>, pairs: &Pairs) -> Result<Var> {
        let bias = self.first.bias.expect("registered with a bias in new");
        if graph.mode() == Mode::Inference {
            let shape = Shape::new(self.norm.channels, 4);
            return graph.derived(&self.name, shape, |p| {
                let affine = self.norm.affine(p);
                let (weight, bias) = (p.get(self.first.weight), p.get(bias));
                let rows = weight.chunks_exact(3).zip(bias).enumerate();
                rows.flat_map(|(c, (w, b))| {
                    let (s, t) = (affine.scale[c], affine.shift[c]);
                    let [x, y, z, b] = [w[0], w[1], w[2], *b].map(f64::from);
                    [s * x, s * y, s * z, s * b + t].map(|v| v as f32)
                })
                .collect()
            });
        }
        let statistics = BatchNorm::statistics(graph);
        let op = ops::PositionNorm {
            neighbors: pairs.neighbors.clone(),
            statistics,
            epsilon: EPSILON,
        };
        let mut inputs = vec![graph.param(self.first.weight), graph.param(bias)];
        inputs.extend(self.norm.inputs(graph));
        if statistics == ops::Statistics::Batch {
            inputs.extend(pairs.offsets);
        }
        let outputs = graph.push_many(op, &inputs)?;
        Ok(self.norm.finish(graph, &outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::random::Random;
    use crate::graph::{Layout, Params};

    /// Positions are tiny against the bias, so the running mean nearly is the bias and the scale is large: folded in
    /// single precision, most digits of the offset were lost, and with them digits of the logits.
    #[test]
    fn a_bias_that_cancels_against_the_mean_keeps_its_digits() {
        let mut layout = Layout::default();
        let encoding = PositionEncoding::new(&mut Scope::root(&mut layout), 1);
        let mut params = Params::initial(Arc::new(layout), Device::Cpu, 1).unwrap();
        let norm = &encoding.norm;
        let (bias, mean, variance) = (0.523_876_3_f32, 0.523_891_7_f32, 1e-7_f32);
        for (name, value) in [
            ("0.bias", bias),
            ("1.norm.running_mean", mean),
            ("1.norm.running_var", variance),
            ("1.norm.weight", 1.3),
            ("1.norm.bias", 0.011),
        ] {
            let id = params.layout().find(name).unwrap();
            params.set(id, &[value]).unwrap();
        }
        assert_eq!(norm.channels, 1);
        let neighbors = Neighbors::self_query(&[[0.0; 3]], &[0, 1], 1).unwrap();
        let mut graph = Graph::new(&params, Mode::Inference, Random::new(0, 0));
        let pairs = Pairs::new(&mut graph, &Arc::new(neighbors), None).unwrap();
        encoding.record(&mut graph, &pairs).unwrap();
        let kept = params.derived(&encoding.name, |_| unreachable!("was just recorded"));
        let found = kept[3];
        let scale = f64::from(1.3_f32) / (f64::from(variance) + f64::from(EPSILON)).sqrt();
        let exact = (f64::from(bias) - f64::from(mean)) * scale + f64::from(0.011_f32);
        assert!(
            (f64::from(found) / exact - 1.0).abs() < 1e-7,
            "{found} {exact}"
        );
    }
}
