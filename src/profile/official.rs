//! What the official code makes a GPU do in inference, operator by operator: the yardstick for
//! [`network`](super::network) and [`attention`](super::attention).
//!
//! An operator of PyTorch reads its inputs from memory and writes its result there. Every list counts the fewest words:
//! rows that many pairs gather are read once. Products run at the rate of TF32 tensor cores, which PyTorch has to be
//! asked for, and launches cost nothing. All of that flatters the official code.

use super::gpus::Work;

/// Instructions of a thread for one candidate of the neighbour search: three differences, three products and sums, one
/// comparison.
const CANDIDATE: u64 = 7;

/// One operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operator {
    /// What it does.
    pub name: &'static str,
    /// Words of 32 bits read and written.
    pub words: u64,
    /// Multiplications and additions of matrix products.
    pub products: u64,
    /// Instructions of warps, where they bound it.
    pub instructions: u64,
}

impl Operator {
    /// What bounds are made of.
    pub fn work(&self) -> Work {
        Work {
            bytes: 4 * self.words,
            instructions: self.instructions,
            tensor: self.products,
            ..Work::default()
        }
    }
}

/// Operators in the order in which they run.
#[derive(Debug, Clone, Default)]
pub struct Chain(pub Vec<Operator>);

/// Size of the attention of a block.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Points N.
    pub points: u64,
    /// Neighbours K.
    pub neighbours: u64,
    /// Channels C.
    pub channels: u64,
    /// Groups G.
    pub groups: u64,
}

impl Chain {
    /// Words read and written by all of them.
    pub fn words(&self) -> u64 {
        self.0.iter().map(|o| o.words).sum()
    }

    fn pass(&mut self, name: &'static str, read: u64, written: u64) {
        self.0.push(Operator {
            name,
            words: read + written,
            products: 0,
            instructions: 0,
        });
    }

    fn linear(&mut self, rows: u64, inputs: u64, outputs: u64) {
        self.0.push(Operator {
            name: "linear",
            words: rows * (inputs + outputs) + inputs * outputs,
            products: 2 * rows * inputs * outputs,
            instructions: 0,
        });
    }

    /// Batch norm of [N, C] and the ReLU behind it.
    pub fn norm_relu(&mut self, values: u64) {
        self.pass("batch norm", values, values);
        self.pass("relu", values, values);
    }

    /// The same of [N, K, C], which is turned to [N, C, K] and back.
    fn norm_relu_of_pairs(&mut self, values: u64) {
        self.pass("transpose", values, values);
        self.pass("batch norm", values, values);
        self.pass("transpose", values, values);
        self.pass("relu", values, values);
    }

    /// `grouping`: rows of [N, C] by neighbour.
    fn gather(&mut self, points: u64, pairs: u64, channels: u64) {
        let (all, wide) = (points * channels, pairs * channels);
        self.pass("append a row of zeros", all, all);
        self.pass("index to 64 bits", pairs, 2 * pairs);
        self.pass("gather", all + 2 * pairs, wide);
    }

    fn mask(&mut self, pairs: u64) {
        self.pass("index + 1", pairs, pairs);
        self.pass("sign", pairs, pairs);
    }

    /// Grouped vector attention from q, k, v [N, C] to its output [N, C].
    pub fn attention(&mut self, a: Attention) {
        let Attention {
            points,
            neighbours,
            channels,
            groups,
        } = a;
        let pairs = points * neighbours;
        let (all, wide, narrow) = (points * channels, pairs * channels, pairs * groups);
        self.gather(points, pairs, channels); // keys
        self.gather(points, pairs, 3); // positions
        self.pass("relative positions", 3 * (pairs + points), 3 * pairs);
        self.mask(pairs);
        self.pass("mask positions", 4 * pairs, 3 * pairs);
        self.pass(
            "join positions and keys",
            wide + 3 * pairs,
            wide + 3 * pairs,
        );
        self.gather(points, pairs, channels); // values
        self.pass("keys - queries", wide + all, wide);
        self.linear(pairs, 3, channels);
        self.norm_relu_of_pairs(wide);
        self.linear(pairs, channels, channels);
        self.pass("relation + position", 2 * wide, wide);
        self.pass("values + position", 2 * wide, wide);
        self.linear(pairs, channels, groups);
        self.norm_relu_of_pairs(narrow);
        self.linear(pairs, groups, groups);
        self.pass("softmax", narrow, narrow);
        self.mask(pairs);
        self.pass("mask weights", narrow + pairs, narrow);
        // einsum makes a batch of products, whose operands have to lie in its order
        self.pass("values by group", wide, wide);
        self.pass("weights by group", narrow, narrow);
        self.pass("weighted sum", wide + narrow, all);
    }

    /// Window attention of Stratified Transformer from q, k, v [N, C] to its output [N, C], with `pairs` pairs of a query
    /// and a key and `heads` heads. Its own kernels keep no [pairs, C] either, but scores and weights of every pair.
    pub fn window_attention(&mut self, points: u64, pairs: u64, channels: u64, heads: u64) {
        let (all, scores) = (points * channels, pairs * heads);
        for _ in 0..2 {
            self.pass("index to 64 bits", pairs, 2 * pairs);
            self.pass("gather positions", 3 * points + 2 * pairs, 3 * pairs);
        }
        self.pass("relative positions", 6 * pairs, 3 * pairs);
        for step in [
            "times 100 000",
            "round",
            "divide",
            "+ 2w",
            "- 0.0001",
            "bin",
            "to integer",
        ] {
            self.pass(step, 3 * pairs, 3 * pairs);
        }
        self.pass("q k with tables", 2 * all + 4 * pairs, scores);
        self.pass("q k", 2 * all + pairs, scores);
        self.pass("add", 2 * scores, scores);
        self.pass("largest of query", scores, points * heads);
        self.pass("spread", points * heads, scores);
        self.pass("subtract", 2 * scores, scores);
        self.pass("exp", scores, scores);
        self.pass("sum of query", scores, points * heads);
        self.pass("spread", points * heads, scores);
        self.pass("divide", 2 * scores, scores);
        self.pass("weighted sum", all + scores + 4 * pairs, all);
    }

    /// A residual block.
    pub fn block(&mut self, a: Attention) {
        let (points, channels) = (a.points, a.channels);
        let all = points * channels;
        for _ in 0..3 {
            self.linear(points, channels, channels); // fc1, q, k
            self.norm_relu(all);
        }
        self.linear(points, channels, channels); // v
        self.attention(a);
        self.norm_relu(all);
        self.linear(points, channels, channels);
        self.pass("batch norm", all, all);
        self.pass("residual", 2 * all, all);
        self.pass("relu", all, all);
    }

    /// The `neighbours` nearest of `candidates` points, each looked at by every query.
    pub fn search(&mut self, queries: u64, candidates: u64, neighbours: u64) {
        self.0.push(Operator {
            name: "neighbour search",
            words: 3 * (queries + candidates) + 2 * queries * neighbours,
            products: 0,
            instructions: CANDIDATE * queries * candidates / 32,
        });
    }

    /// Linear, norm and ReLU at the fine level, then the largest value of every cell.
    pub fn pool(&mut self, fine: u64, coarse: u64, inputs: u64, outputs: u64) {
        self.linear(fine, inputs, outputs);
        self.norm_relu(fine * outputs);
        self.pass("cells of points", 3 * fine, 2 * fine);
        self.pass("sort cells", 2 * fine, 4 * fine);
        self.pass("gather positions", 5 * fine, 3 * fine);
        self.pass("mean positions", 3 * fine, 3 * coarse);
        self.pass("gather by cell", (outputs + 2) * fine, outputs * fine);
        self.pass("largest of cell", outputs * fine, outputs * coarse);
    }

    /// Projections of both levels, and the coarse one interpolated.
    pub fn unpool(&mut self, fine: u64, coarse: u64, [below, skip, outputs]: [u64; 3]) {
        self.linear(coarse, below, outputs);
        self.norm_relu(coarse * outputs);
        self.search(fine, coarse, 3);
        self.pass("weights", 3 * fine, 12 * fine);
        let all = fine * outputs;
        self.pass("zeros", 0, all);
        for _ in 0..3 {
            self.pass("gather", coarse * outputs + 2 * fine, all);
            self.pass("times weight", all + fine, all);
            self.pass("add", 2 * all, all);
        }
        self.linear(fine, skip, outputs);
        self.norm_relu(all);
        self.pass("add", 2 * all, all);
    }
}

/// PTv2 in the S3DIS configuration on one cloud whose levels have these numbers of points.
pub fn s3dis(levels: [u64; 4]) -> Chain {
    const CHANNELS: [u64; 4] = [48, 96, 192, 384];
    const ENCODER: [u64; 4] = [2, 2, 6, 2];
    let mut chain = Chain::default();
    let stage = |chain: &mut Chain, level: usize, blocks: u64| {
        let attention = Attention {
            points: levels[level],
            neighbours: 16,
            channels: CHANNELS[level],
            groups: CHANNELS[level] / 8,
        };
        chain.search(levels[level], levels[level], 16);
        (0..blocks).for_each(|_| chain.block(attention));
    };
    chain.linear(levels[0], 6, CHANNELS[0]);
    chain.norm_relu(levels[0] * CHANNELS[0]);
    stage(&mut chain, 0, ENCODER[0]);
    for level in 1..4 {
        let (fine, coarse) = (levels[level - 1], levels[level]);
        chain.pool(fine, coarse, CHANNELS[level - 1], CHANNELS[level]);
        stage(&mut chain, level, ENCODER[level]);
    }
    for level in (0..3).rev() {
        let [fine, coarse] = [CHANNELS[level], CHANNELS[level + 1]];
        chain.unpool(levels[level], levels[level + 1], [coarse, fine, fine]);
        stage(&mut chain, level, 1);
    }
    chain.linear(levels[0], CHANNELS[0], CHANNELS[0]);
    chain.norm_relu(levels[0] * CHANNELS[0]);
    chain.linear(levels[0], CHANNELS[0], 13);
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_moves_its_pairs_many_times() {
        let mut chain = Chain::default();
        chain.attention(Attention {
            points: 1000,
            neighbours: 16,
            channels: 48,
            groups: 6,
        });
        let wide = 1000 * 16 * 48;
        // 27 passes over [N, K, C], as counted by hand, and what is small beside them.
        let passes = chain.words() as f64 / f64::from(wide);
        assert!((27.0..31.5).contains(&passes), "{passes}");
        let products: u64 = chain.0.iter().map(|o| o.products).sum();
        assert_eq!(products, 2 * 16_000 * (3 * 48 + 48 * 48 + 48 * 6 + 6 * 6));
    }

    #[test]
    fn the_network_has_all_its_blocks() {
        let chain = s3dis([800, 200, 50, 12]);
        let count = |name| chain.0.iter().filter(|o| o.name == name).count();
        assert_eq!(count("residual"), 2 + 2 + 6 + 2 + 1 + 1 + 1);
        assert_eq!(count("neighbour search"), 4 + 3 + 3);
        assert_eq!(count("linear"), 15 * (5 + 4) + 3 + 2 * 3 + 3);
    }
}
