//! From the offset of a pair to rows of the position tables.

/// How offsets become bins, per axis, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantization {
    /// Stratified Transformer: r = a − b rounded to 10 µm (ties to even), then trunc((r + reach − 0.0001) / step), and 0
    /// below. Places are metres. The reference code divides with truncation, so offsets just above −reach, where the
    /// quotient is negative, are in bin 0 too; later PyTorch versions round them down to −1 and fail.
    Offset {
        /// 2w: largest offset, metres.
        reach: f32,
        /// q: edge of a bin, metres.
        step: f32,
    },
    /// 3D Swin: a − b + center. Places are whole numbers of bins.
    Cell {
        /// Bin of offset 0: G − 1.
        center: f32,
    },
}

impl Quantization {
    /// Of places in metres, in windows of `size` and bins of `step` metres.
    pub(super) fn offsets(size: f32, step: f32) -> Quantization {
        let reach = 2.0 * size;
        Quantization::Offset { reach, step }
    }

    /// Of places inside windows of `size` metres, in bins of `step` metres.
    pub(super) fn cells(size: f32, step: f32) -> Quantization {
        let center = (f64::from(size) / f64::from(step) + 1e-4).floor() as f32 - 1.0;
        Quantization::Cell { center }
    }

    /// Bins that offsets can fall into: the least number of rows of a table.
    pub fn bins(self) -> usize {
        match self {
            Quantization::Offset { reach, step } => {
                ((reach + reach - 1e-4) / step).max(0.0) as usize + 1
            }
            Quantization::Cell { center } => 2 * center as usize + 1,
        }
    }

    /// The bin of a query at `a` and a key at `b` in a table of `rows` rows.
    pub fn bin(self, a: f32, b: f32, rows: usize) -> usize {
        let bin = match self {
            Quantization::Offset { reach, step } => {
                let r = ((a - b) * 100_000.0).round_ties_even() / 100_000.0;
                ((r + reach) - 1e-4) / step
            }
            Quantization::Cell { center } => (a - b) + center,
        };
        (bin.max(0.0) as usize).min(rows - 1)
    }

    /// Rows of the tables of Stratified Transformer for windows of `size` and bins of `step` metres: 2G with
    /// G = ⌊(2w + 0.0001) / q⌋.
    pub fn stratified_rows(size: f64, step: f64) -> usize {
        (((2.0 * size + 1e-4) / step) as usize).saturating_mul(2)
    }

    /// Rows of the tables of 3D Swin for windows of `size` and bins of `step` metres: 2G − 1 with G = ⌊w / q⌋.
    pub fn swin_rows(size: f64, step: f64) -> usize {
        ((size / step) as usize).saturating_mul(2).saturating_sub(1)
    }
}
