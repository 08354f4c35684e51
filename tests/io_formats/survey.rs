//! Points that every format gets, made up from their number.

use cairn::cloud::{Column, Kind, PointCloud};

/// Rows of a chunk.
pub const CHUNK: u64 = 1 << 16;
/// Points of a line of the scanner.
const LINE: u64 = 1000;
/// Largest deviation that is none, metres: what products of a scale and a number of steps round to.
const ROUNDING: f64 = 1e-8;

/// Lines of points with a millimetre as the smallest step.
pub struct Survey {
    pub points: u64,
    /// Of the first point, metres.
    pub origin: [f64; 3],
}

/// Different bits for each number and purpose.
fn bits(i: u64, purpose: u64) -> u64 {
    let mixed = (i ^ purpose << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

impl Survey {
    /// Every [`CHUNK`] consecutive points.
    pub fn chunks(&self) -> impl Iterator<Item = PointCloud> {
        let starts = (0..self.points).step_by(CHUNK as usize);
        starts.map(|first| self.part(first, CHUNK.min(self.points - first)))
    }

    /// Position of a point, metres.
    fn position(&self, i: u64) -> [f64; 3] {
        let (x, y) = ((i % LINE) as f64, (i / LINE) as f64);
        let local = [0.1 * x, 0.3 * y, 40.0 + (0.01 * x).sin()];
        [0, 1, 2].map(|a| ((self.origin[a] + local[a]) * 1000.0).round() / 1000.0)
    }

    /// Some consecutive points.
    pub fn part(&self, first: u64, count: u64) -> PointCloud {
        let range = first..first + count;
        let eight = |purpose| {
            range
                .clone()
                .map(move |i| 257 * (bits(i, purpose) % 256) as u16)
        };
        let unit = |purpose| range.clone().map(move |i| bits(i, purpose) as f32 / 4.3e9);
        let mut cloud = PointCloud {
            coord: range.clone().map(|i| self.position(i)).collect(),
            ..PointCloud::default()
        };
        let mut set = |name: &str, column| cloud.set_attribute(name, column).unwrap();
        let intensity = range.clone().map(|i| (bits(i, 1) % 2000) as u16);
        set("intensity", Column::U16(intensity.collect()));
        for (purpose, name) in [(2, "red"), (3, "green"), (4, "blue")] {
            set(name, Column::U16(eight(purpose).collect()));
        }
        for (purpose, name) in [(5, "nx"), (6, "ny"), (7, "nz")] {
            set(name, Column::F32(unit(purpose).collect()));
        }
        let time = range.clone().map(|i| 3e8 + i as f64 * 1e-5);
        set("gps_time", Column::F64(time.collect()));
        let class = range.clone().map(|i| (bits(i, 8) % 7) as u8);
        set("classification", Column::U8(class.collect()));
        set("curvature", Column::F32(unit(9).collect()));
        cloud
    }

    /// Smallest and largest coordinates, at least.
    pub fn extent(&self) -> ([f64; 3], [f64; 3]) {
        let size = [100.0, 0.3 * (self.points / LINE + 1) as f64, 42.0];
        (self.origin, [0, 1, 2].map(|a| self.origin[a] + size[a]))
    }
}

/// How an attribute comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fidelity {
    Exact,
    /// Colours of 16 bits as 8 bits.
    EightBits,
    Gone,
}

/// What a file holds of the survey.
#[derive(Debug, Clone, Default)]
pub struct Keeps {
    /// In the order of the survey.
    pub attributes: Vec<(String, Fidelity)>,
    /// Largest deviation of a coordinate, metres.
    pub deviation: f64,
}

impl Keeps {
    /// Compares the points from number `first`.
    pub fn compare(&mut self, survey: &Survey, first: u64, cloud: &PointCloud) {
        let want = survey.part(first, cloud.len() as u64);
        for (a, b) in cloud.coord.iter().zip(&want.coord) {
            for (a, b) in a.iter().zip(b) {
                assert!(!a.is_nan(), "a coordinate is missing");
                self.deviation = self.deviation.max((a - b).abs());
            }
        }
        for attribute in &want.attributes {
            let fidelity = match cloud.attribute(&attribute.name) {
                None => Fidelity::Gone,
                Some(found) => fidelity(found, &attribute.column),
            };
            match self
                .attributes
                .iter_mut()
                .find(|(n, _)| *n == attribute.name)
            {
                Some((_, all)) => *all = fidelity.max(*all),
                None => self.attributes.push((attribute.name.clone(), fidelity)),
            }
        }
    }

    /// True for coordinates as they were.
    pub fn is_exact(&self) -> bool {
        self.deviation < ROUNDING
    }

    /// Without the class, which new labels may replace.
    pub fn without_class(&self) -> impl Iterator<Item = &(String, Fidelity)> {
        (self.attributes.iter()).filter(|(name, _)| name != "classification")
    }
}

fn fidelity(found: &Column, want: &Column) -> Fidelity {
    // Text has as many digits as the type needs.
    let is_single = want.kind() == Kind::F32;
    let equal = |factor: f64| {
        (0..want.len()).all(|i| match (found.get(i) * factor, want.get(i)) {
            (a, b) if is_single => a as f32 == b as f32,
            (a, b) => a == b,
        })
    };
    match (equal(1.0), equal(257.0)) {
        (true, _) => Fidelity::Exact,
        (_, true) => Fidelity::EightBits,
        _ => Fidelity::Gone,
    }
}
