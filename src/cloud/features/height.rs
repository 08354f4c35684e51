//! Heights above the lowest point, of all or of the surroundings.

/// Metres above the lowest point of the cloud, or of the square of half-edge `window` around each point.
pub(super) fn height(coord: &[[f32; 3]], window: Option<f64>) -> Vec<f32> {
    let Some(window) = window else {
        let lowest = coord.iter().fold(f32::INFINITY, |a, p| a.min(p[2]));
        return coord.iter().map(|p| p[2] - lowest).collect();
    };
    let mut floors = Floors::new(window);
    coord.iter().for_each(|p| floors.see(*p));
    floors.settle();
    floors.heights(coord)
}

/// The lowest point around any place: in the square of half-edge `window` around it, to the precision of a grid of a fifth
/// of the window.
#[derive(Debug, Clone)]
pub struct Floors {
    edge: f64,
    /// A sparse grid: memory follows the occupied cells, not the extent.
    cells: Floor,
    /// The cell of the last point, which is most often that of the next one too.
    last: Option<((i64, i64), f32)>,
}

impl Floors {
    /// Steps of the grid in half the square's edge.
    const STEPS: i64 = 5;

    /// Nothing seen yet; `window` in metres.
    pub fn new(window: f64) -> Floors {
        Floors {
            edge: window / Floors::STEPS as f64,
            cells: Floor::new(),
            last: None,
        }
    }

    /// How far away a point can be and still count, metres.
    pub fn reach(window: f64) -> f64 {
        window * (1.0 + 1.0 / Floors::STEPS as f64)
    }

    fn cell(&self, p: [f32; 3]) -> (i64, i64) {
        (
            (f64::from(p[0]) / self.edge).floor() as i64,
            (f64::from(p[1]) / self.edge).floor() as i64,
        )
    }

    /// Takes a point, metres.
    pub fn see(&mut self, p: [f32; 3]) {
        let cell = self.cell(p);
        match &mut self.last {
            Some((last, low)) if *last == cell => *low = p[2].min(*low),
            _ => {
                self.put_last();
                self.last = Some((cell, p[2]));
            }
        }
    }

    fn put_last(&mut self) {
        if let Some((cell, z)) = self.last.take() {
            let low = self.cells.entry(cell).or_insert(f32::INFINITY);
            *low = z.min(*low);
        }
    }

    /// Spreads what was seen over the squares; to be called once, after the last point.
    pub fn settle(&mut self) {
        self.put_last();
        // The minimum over a square is the minimum over y of the minimum over x.
        let along_x = spread(&self.cells, Floors::STEPS, |(x, y), d| (x + d, y));
        self.cells = spread(&along_x, Floors::STEPS, |(x, y), d| (x, y + d));
    }

    /// Metres of each point above the lowest one around it.
    pub fn heights(&self, coord: &[[f32; 3]]) -> Vec<f32> {
        let mut last = None;
        let mut low = |p: &[f32; 3]| {
            let cell = self.cell(*p);
            let found = match last {
                Some((same, low)) if same == cell => low,
                _ => self.cells.get(&cell).copied(),
            };
            last = Some((cell, found));
            found.unwrap_or(p[2])
        };
        coord.iter().map(|p| p[2] - low(p)).collect()
    }
}

type Floor = std::collections::BTreeMap<(i64, i64), f32>;

/// Every cell within `steps` of an occupied one along one axis, with the lowest value it can see.
fn spread(floor: &Floor, steps: i64, shift: impl Fn((i64, i64), i64) -> (i64, i64)) -> Floor {
    let mut out = Floor::new();
    for (cell, z) in floor {
        for d in -steps..=steps {
            let low = out.entry(shift(*cell, d)).or_insert(f32::INFINITY);
            *low = z.min(*low);
        }
    }
    out
}
