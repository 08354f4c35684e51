//! Classifiers on point features, and several of them on the same features.

use super::dense::{Linear, LinearNorm};
use crate::graph::{Graph, Scope, Var};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Linear, norm and ReLU, then Linear(C, classes).
#[derive(Debug, Clone)]
pub struct Head {
    /// What makes the hidden features.
    pub hidden: LinearNorm,
    /// What makes logits of them.
    pub classify: Linear,
}

impl Head {
    /// Records the head on x [N, C] → logits [N, classes].
    pub fn record(&self, graph: &mut Graph<'_>, x: Var) -> Result<Var> {
        let hidden = self.hidden.record(graph, x)?; // [N, C]
        self.classify.record(graph, hidden) // [N, classes]
    }
}

/// Heads beside the main one, by name: other label sets on the same features, for recipes with several losses.
///
/// Their parameters are registered as `heads.NAME` behind all others, so that a model with them starts from a
/// checkpoint without them; their logits are tapped as `heads.NAME` and cost nothing in graphs that do not ask for them.
#[derive(Debug, Clone, Default)]
pub struct FurtherHeads(Vec<(String, Head)>);

impl FurtherHeads {
    /// Registers one head per entry of `classes` (name → number of classes) with `head`.
    ///
    /// # Errors
    /// Names that are no part of a parameter name; heads without classes.
    pub fn new(
        root: &mut Scope<'_>,
        classes: &BTreeMap<String, usize>,
        head: impl Fn(&mut Scope<'_>, usize) -> Head,
    ) -> Result<Self> {
        let mut heads = Vec::new();
        for (name, &classes) in classes {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) || classes == 0 {
                return Err(Error::config(
                    format!("network.heads.{name}"),
                    "a name of letters, digits and _ and at least one class are needed",
                ));
            }
            let mut scope = root.child("heads");
            heads.push((name.clone(), head(&mut scope.child(name), classes)));
        }
        Ok(FurtherHeads(heads))
    }

    /// Records all heads on x [N, C] and taps their logits.
    pub fn record(&self, graph: &mut Graph<'_>, x: Var) -> Result<()> {
        for (name, head) in &self.0 {
            let logits = head.record(graph, x)?; // [N, classes of the head]
            graph.tap(&format!("heads.{name}"), logits);
        }
        Ok(())
    }
}
