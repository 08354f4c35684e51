//! Models inside the program, and the choice among them by what can be measured on a scan.
//!
//! A model is chosen only when exactly one fits. What counts: where the coordinates lie, how far the scan reaches, how
//! dense it is. A new model is a file in `data/models/` and an entry of [`SHIPPED`].

use crate::cloud::PointCloud;
use crate::io::{Scan, Source};
use crate::weights::{InputSpec, ModelMetadata, Tensors, safetensors};
use crate::{Error, Result};

/// Coordinates beyond this, metres, are those of a map and not of a sensor.
const MAP: f64 = 10_000.0;

/// A model inside the program.
#[derive(Debug)]
pub struct Shipped {
    /// Name for `--model`.
    pub name: &'static str,
    /// What it was made for, one line.
    pub description: &'static str,
    /// The safetensors file.
    bytes: &'static [u8],
    /// Why the scan is of the kind that the model was trained on, or why not.
    fits: fn(&Facts) -> Result<String, String>,
}

/// All models, in the order in which help lists them.
pub const SHIPPED: &[Shipped] = &[
    Shipped {
        name: "airborne",
        description: "airborne LiDAR of towns: ground, vegetation, building",
        bytes: include_bytes!("../../data/models/airborne.safetensors"),
        fits: Facts::airborne,
    },
    Shipped {
        name: "robot_cell",
        description: "static LiDAR of a robot cell: floor, wall, robot, human, AGV",
        bytes: include_bytes!("../../data/models/robot_cell.safetensors"),
        fits: Facts::robot_cell,
    },
    Shipped {
        name: "robot_cell_stratified",
        description: "the same with Stratified Transformer; slower, chosen by name only",
        bytes: include_bytes!("../../data/models/robot_cell_stratified.safetensors"),
        fits: |_| Err("the Stratified model of robot cells is used when asked for by name".into()),
    },
];

/// What is measured on a scan to choose a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The coordinates are those of a map.
    pub on_a_map: bool,
    /// The file is LAS or LAZ.
    pub is_las: bool,
    /// Size along x, y, z, metres.
    pub extent: [f64; 3],
    /// Points per square metre of the x and y extent.
    pub density: f64,
    /// The points have intensities, return numbers and numbers of returns.
    pub has_echoes: bool,
}

impl Facts {
    /// Measures a scan.
    ///
    /// # Errors
    /// No point with coordinates.
    pub fn new(scan: &Scan) -> Result<Facts> {
        let points = scan.cloud.len() as u64;
        Facts::measured(scan.cloud.extent(), points, &scan.cloud, &scan.source)
    }

    /// The facts of a scan with this extent, number of points and attributes; the points of `schema` are not used.
    ///
    /// # Errors
    /// As [`Facts::new`].
    pub fn measured(
        extent: Option<([f64; 3], [f64; 3])>,
        points: u64,
        schema: &PointCloud,
        source: &Source,
    ) -> Result<Facts> {
        let facts = Facts::of_extent(extent, points, schema)?;
        Ok(Facts {
            on_a_map: facts.on_a_map || source.has_crs(),
            is_las: source.is_las(),
            ..facts
        })
    }

    fn of_extent(
        extent: Option<([f64; 3], [f64; 3])>,
        points: u64,
        schema: &PointCloud,
    ) -> Result<Facts> {
        let (low, high) = extent.ok_or_else(|| {
            Error::argument(
                "scan",
                "has no point with coordinates, so no model can be chosen",
            )
        })?;
        let extent: [f64; 3] = std::array::from_fn(|a| high[a] - low[a]);
        let far = low.iter().chain(&high).take(5).any(|x| x.abs() > MAP);
        Ok(Facts {
            on_a_map: far,
            is_las: false,
            extent,
            density: points as f64 / (extent[0] * extent[1]).max(1e-6),
            has_echoes: schema.intensity().is_some()
                && schema.return_number().is_some()
                && schema.number_of_returns().is_some(),
        })
    }

    fn side(&self) -> f64 {
        self.extent[0].max(self.extent[1])
    }

    fn describe(&self) -> String {
        format!(
            "{:.1} × {:.1} × {:.1} m, {:.*} points/m², {}",
            self.extent[0],
            self.extent[1],
            self.extent[2],
            usize::from(self.density < 10.0),
            self.density,
            if self.on_a_map {
                "map coordinates"
            } else {
                "local coordinates"
            },
        )
    }

    /// Wide, from above, on a map or at least in the format of surveys.
    fn airborne(&self) -> Result<String, String> {
        if !(self.on_a_map || self.is_las) {
            return Err("airborne scans have map coordinates or come as LAS".into());
        }
        if self.side() < 20.0 {
            return Err("airborne scans are at least 20 m wide".into());
        }
        if self.density > 500.0 {
            return Err("airborne scans have less than 500 points/m²".into());
        }
        if self.density < 0.5 {
            return Err("airborne scans in metres have at least 0.5 points/m²".into());
        }
        if !self.has_echoes {
            let lacks = "it reads intensity, return_number and number_of_returns, not all of which the scan has";
            return Err(lacks.into());
        }
        Ok("wide, and with the density of airborne surveys".into())
    }

    /// The size of a room or hall, in the frame of a sensor.
    fn robot_cell(&self) -> Result<String, String> {
        if self.on_a_map {
            return Err("robot cells have local coordinates".into());
        }
        if self.side() >= 30.0 || self.extent[2] >= 30.0 {
            return Err("robot cells are less than 30 m wide".into());
        }
        Ok("the size of a room, in local coordinates".into())
    }
}

impl Shipped {
    /// The model called `name`.
    pub fn named(name: &str) -> Result<&'static Shipped> {
        SHIPPED.iter().find(|m| m.name == name).ok_or_else(|| {
            Error::argument(
                "model",
                format!("`{name}` is not built in; there is {}", names()),
            )
        })
    }

    /// Reads it.
    pub fn tensors(&self) -> Result<Tensors> {
        safetensors::from_bytes(self.bytes, format!("model {}", self.name))
    }

    /// What every model reads of a scan.
    ///
    /// # Errors
    /// None, unless a file was damaged before the program was built.
    pub fn inputs() -> Result<Vec<InputSpec>> {
        let input = |model: &Shipped| {
            let name = format!("model {}", model.name);
            Ok(ModelMetadata::from_tensors(&model.tensors()?, name)?.input)
        };
        SHIPPED.iter().map(input).collect()
    }

    /// Chooses the model that fits a scan, and says why.
    pub fn choose(facts: &Facts) -> Result<(&'static Shipped, String)> {
        choose_among(SHIPPED, facts)
    }
}

fn names() -> String {
    let names: Vec<&str> = SHIPPED.iter().map(|m| m.name).collect();
    names.join(", ")
}

fn choose_among<'m>(models: &'m [Shipped], facts: &Facts) -> Result<(&'m Shipped, String)> {
    let answers: Vec<_> = models.iter().map(|m| (m, (m.fits)(facts))).collect();
    let fitting: Vec<_> = answers
        .iter()
        .filter_map(|(m, a)| Some((*m, a.as_ref().ok()?)))
        .collect();
    if let [(model, why)] = fitting[..] {
        return Ok((model, format!("{why}: {}", facts.describe())));
    }
    let reasons: Vec<String> = answers
        .iter()
        .map(|(m, a)| match a {
            Ok(why) => format!("{} would fit ({why})", m.name),
            Err(why) => format!("{} does not fit ({why})", m.name),
        })
        .collect();
    let options: Vec<String> = models
        .iter()
        .map(|m| format!("--model {}", m.name))
        .collect();
    Err(Error::argument(
        "model",
        format!(
            "no built-in model is clearly made for this scan ({}): {}; choose with {} or give your own with \
             --weights FILE",
            facts.describe(),
            reasons.join(", "),
            options.join(" or "),
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [Shipped; 2] = [
        Shipped {
            name: "airborne",
            description: "",
            bytes: &[],
            fits: Facts::airborne,
        },
        Shipped {
            name: "robot_cell",
            description: "",
            bytes: &[],
            fits: Facts::robot_cell,
        },
    ];

    fn facts(corner: [f64; 3], extent: [f64; 3], count: usize, is_las: bool) -> Facts {
        let mut cloud = PointCloud {
            coord: vec![corner; count],
            attributes: Vec::new(),
        };
        cloud.coord[0] = std::array::from_fn(|a| corner[a] + extent[a]);
        Facts {
            is_las,
            has_echoes: true,
            ..Facts::of_extent(cloud.extent(), count as u64, &cloud).unwrap()
        }
    }

    fn chosen(facts: &Facts) -> Result<&'static str, String> {
        choose_among(&MODELS, facts)
            .map(|(m, why)| {
                assert!(why.contains("points/m²"), "{why}");
                m.name
            })
            .map_err(|e| e.to_string())
    }

    #[test]
    fn tiles_and_cells_are_told_apart() {
        let tile = facts([7.7e5, 6.2e6, 30.0], [50.0, 50.0, 18.0], 72_770, true);
        assert_eq!(chosen(&tile).unwrap(), "airborne");
        let cell = facts([-1.0, -2.0, 0.0], [3.1, 4.9, 2.1], 58_000, false);
        assert_eq!(chosen(&cell).unwrap(), "robot_cell");
        let converted = facts([7.7e5, 6.2e6, 30.0], [50.0, 50.0, 18.0], 72_770, false);
        assert_eq!(chosen(&converted).unwrap(), "airborne");
    }

    #[test]
    fn doubtful_scans_get_an_explanation() {
        let street = facts([0.0; 3], [150.0, 80.0, 20.0], 100_000, false);
        let both = facts([0.0; 3], [25.0, 25.0, 5.0], 9000, true);
        let tile = |count| facts([7.7e5, 6.2e6, 30.0], [50.0, 50.0, 18.0], count, true);
        let without_echoes = Facts {
            has_echoes: false,
            ..tile(72_770)
        };
        let in_feet = tile(300);
        for doubtful in [street, both, without_echoes, in_feet] {
            let fault = chosen(&doubtful).unwrap_err();
            assert!(
                fault.contains("--model airborne or --model robot_cell"),
                "{fault}"
            );
            assert!(fault.contains("--weights"), "{fault}");
        }
        assert!(Facts::new(&Scan::default()).is_err());
    }
}
