//! What networks ask of a cloud, found under the names that scanners and formats give it.
//!
//! | asked for | names, any case, with or without CloudCompare's `scalar_` | unit of the answer |
//! |---|---|---|
//! | colour | `red green blue`, `r g b`, `diffuse_red …`, packed `rgb` or `rgba` | 0–1 |
//! | normal | `nx ny nz`, `normal_x normal_y normal_z` | unit vector, as stored |
//! | intensity | `intensity`, `reflectance` | as stored |
//! | returns | `return_number`, `number_of_returns` | count from 1 |
//! | class | `label`, `classification`, `class`, `segment`, `semantic` | integer code |

use super::{Column, PointCloud};

/// Names of the three colour columns.
const COLOR: [[&str; 3]; 3] = [
    ["red", "green", "blue"],
    ["r", "g", "b"],
    ["diffuse_red", "diffuse_green", "diffuse_blue"],
];
/// Names of a column with all three colours.
const PACKED_COLOR: [&str; 2] = ["rgb", "rgba"];
/// Names of the three columns of a normal.
const NORMAL: [[&str; 3]; 3] = [
    ["nx", "ny", "nz"],
    ["normal_x", "normal_y", "normal_z"],
    ["normalx", "normaly", "normalz"],
];
const INTENSITY: [&str; 2] = ["intensity", "reflectance"];
const RETURN_NUMBER: [&str; 2] = ["return_number", "returnnumber"];
const NUMBER_OF_RETURNS: [&str; 2] = ["number_of_returns", "numberofreturns"];
/// Names of a column of classes; earlier ones win.
pub const CLASS: [&str; 5] = ["label", "classification", "class", "segment", "semantic"];

/// Integer class codes of a cloud and the attribute that holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassColumn {
    /// Name of the attribute.
    pub name: String,
    /// Code of each point.
    pub code: Vec<i64>,
}

/// True when `attribute`, in any case and without `scalar_`, is one of `names`.
fn matches(attribute: &str, names: &[&str]) -> bool {
    let found = attribute.to_ascii_lowercase();
    names.contains(&found.strip_prefix("scalar_").unwrap_or(&found))
}

impl PointCloud {
    /// The first attribute whose name, in any case and without `scalar_`, is one of `names`; earlier names win.
    pub fn find(&self, names: &[&str]) -> Option<&super::Attribute> {
        names.iter().find_map(|name| {
            self.attributes
                .iter()
                .find(|a| matches(&a.name, std::slice::from_ref(name)))
        })
    }

    /// Positions of the attributes among which the feature called `feature` finds its values, ascending.
    pub fn attributes_of(&self, feature: &str) -> Vec<usize> {
        let own = [feature.to_ascii_lowercase()];
        let own = [own[0].as_str()];
        let names: Vec<&str> = match feature {
            "coord" | "height" => Vec::new(),
            "color" => [COLOR.as_flattened(), &PACKED_COLOR].concat(),
            "normal" => NORMAL.as_flattened().to_vec(),
            "return_ratio" => [RETURN_NUMBER, NUMBER_OF_RETURNS].concat(),
            "intensity" => INTENSITY.to_vec(),
            _ => own.to_vec(),
        };
        (0..self.attributes.len())
            .filter(|&i| matches(&self.attributes[i].name, &names))
            .collect()
    }

    fn triple(&self, names: &[[&str; 3]]) -> Option<[&Column; 3]> {
        names.iter().find_map(|names| {
            let [a, b, c] = names.map(|n| self.find(&[n]).map(|a| &a.column));
            Some([a?, b?, c?])
        })
    }

    /// Colours from 0 to 1, or `None` when the cloud has none. Colour fields that are zero at every point count as
    /// none: many airborne files carry the fields of their point format without a camera.
    ///
    /// The range is decided per cloud: 8-bit columns span 255; wider integers span 255 when no value is larger (a
    /// common fault of LAS writers), else 65535; floats span 1, 255 or 65535, the first that holds the largest value.
    pub fn colors(&self) -> Option<Vec<[f32; 3]>> {
        self.colors_up_to(self.largest_color()?)
    }

    /// The largest level in the colour columns, as stored: what decides their range. `None` without such columns.
    pub fn largest_color(&self) -> Option<f64> {
        if let Some(columns) = self.triple(&COLOR) {
            let levels = (columns.iter()).flat_map(|c| (0..c.len()).map(|i| c.get(i)));
            return Some(levels.fold(0.0, f64::max));
        }
        let bits = self.packed_colors()?;
        Some(f64::from(bits.iter().copied().max().unwrap_or(0)))
    }

    /// As [`PointCloud::colors`], for a part of a scan whose [`PointCloud::largest_color`] is `largest`.
    pub fn colors_up_to(&self, largest: f64) -> Option<Vec<[f32; 3]>> {
        if largest <= 0.0 {
            return None;
        }
        let Some(columns) = self.triple(&COLOR) else {
            let channel = |bits: u32, shift: u32| f32::from((bits >> shift) as u8) / 255.0;
            let bits = self.packed_colors()?.into_iter();
            return Some(
                bits.map(|b| [16, 8, 0].map(|shift| channel(b, shift)))
                    .collect(),
            );
        };
        let integer = columns.iter().all(|c| c.is_integer());
        let scale = match largest {
            x if !integer && x <= 1.0 => 1.0,
            x if x <= 255.0 => 255.0,
            x => x.max(65535.0),
        };
        let level = |x: f64| if x > 0.0 { (x / scale) as f32 } else { 0.0 };
        Some(
            (0..self.len())
                .map(|i| columns.map(|c| level(c.get(i))))
                .collect(),
        )
    }

    /// Colours of the point cloud library, 0x00RRGGBB in one integer, or in the bits of one float.
    fn packed_colors(&self) -> Option<Vec<u32>> {
        let bits: Vec<u32> = match &self.find(&PACKED_COLOR)?.column {
            Column::F32(v) => v.iter().map(|x| x.to_bits()).collect(),
            Column::U32(v) => v.clone(),
            Column::I32(v) => v.iter().map(|&x| x as u32).collect(),
            _ => return None,
        };
        Some(bits.into_iter().map(|b| b & 0x00ff_ffff).collect())
    }

    /// Surface normals as stored, or `None`.
    pub fn normals(&self) -> Option<Vec<[f32; 3]>> {
        let columns = self.triple(&NORMAL)?;
        Some(
            (0..self.len())
                .map(|i| columns.map(|c| c.get(i) as f32))
                .collect(),
        )
    }

    fn scalar(&self, names: &[&str]) -> Option<Vec<f32>> {
        let column = &self.find(names)?.column;
        Some((0..column.len()).map(|i| column.get(i) as f32).collect())
    }

    /// Return intensity in the unit of the file, or `None`. LAS stores 0 to 65535, most other formats 0 to 255 or
    /// 0 to 1.
    pub fn intensity(&self) -> Option<Vec<f32>> {
        self.scalar(&INTENSITY)
    }

    /// Number of the return within its pulse, from 1, or `None`.
    pub fn return_number(&self) -> Option<Vec<f32>> {
        self.scalar(&RETURN_NUMBER)
    }

    /// Number of returns of the pulse, or `None`.
    pub fn number_of_returns(&self) -> Option<Vec<f32>> {
        self.scalar(&NUMBER_OF_RETURNS)
    }

    /// Class codes under one of the usual names, or `None`. Float columns count when every value is an integer.
    pub fn labels(&self) -> Option<ClassColumn> {
        CLASS.iter().find_map(|n| self.labels_of(n))
    }

    /// Class codes of the attribute called `name`, or `None` when it is missing or holds other than integers.
    pub fn labels_of(&self, name: &str) -> Option<ClassColumn> {
        let attribute = self.find(&[&name.to_ascii_lowercase()])?;
        let code = (0..attribute.column.len())
            .map(|i| {
                let x = attribute.column.get(i);
                (x.trunc() == x && x.abs() < 9e15).then_some(x as i64)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(ClassColumn {
            name: attribute.name.clone(),
            code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(columns: Vec<(&str, Column)>) -> PointCloud {
        let mut cloud = PointCloud {
            coord: vec![[0.0; 3]; columns[0].1.len()],
            ..Default::default()
        };
        for (name, column) in columns {
            cloud.set_attribute(name, column).unwrap();
        }
        cloud
    }

    fn red(column: Column) -> Option<f32> {
        let other = column.clone();
        let c = cloud(vec![
            ("Red", column),
            ("green", other.clone()),
            ("scalar_blue", other),
        ]);
        Some(c.colors()?[0][0])
    }

    #[test]
    fn colour_range_follows_type_and_largest_value() {
        assert_eq!(red(Column::U8(vec![255, 0])), Some(1.0));
        assert_eq!(red(Column::U16(vec![255, 0])), Some(1.0));
        assert_eq!(red(Column::U16(vec![65535, 300])), Some(1.0));
        assert_eq!(red(Column::U16(vec![0, 256])), Some(0.0));
        assert_eq!(red(Column::F32(vec![0.5, 1.0])), Some(0.5));
        assert_eq!(red(Column::F32(vec![255.0, 1.0])), Some(1.0));
        assert_eq!(red(Column::F32(vec![f32::NAN, 1.0])), Some(0.0));
        assert_eq!(red(Column::U16(vec![0, 0])), None);
    }

    #[test]
    fn packed_colours_unpack_from_floats_and_integers() {
        let bits = 0x00ff_8000u32;
        let want = vec![[1.0, 128.0 / 255.0, 0.0]];
        for column in [
            Column::U32(vec![bits]),
            Column::F32(vec![f32::from_bits(bits)]),
            Column::I32(vec![bits as i32]),
        ] {
            assert_eq!(cloud(vec![("rgb", column)]).colors(), Some(want.clone()));
        }
    }

    #[test]
    fn parts_of_a_scan_share_its_range_of_colours() {
        let part = cloud(vec![
            ("red", Column::U16(vec![200])),
            ("green", Column::U16(vec![0])),
            ("blue", Column::U16(vec![51])),
        ]);
        assert_eq!(part.colors(), Some(vec![[200.0 / 255.0, 0.0, 0.2]]));
        let whole = part.colors_up_to(65535.0).unwrap();
        assert_eq!(whole, [[200.0 / 65535.0, 0.0, 51.0 / 65535.0]]);
        assert_eq!(part.colors_up_to(0.0), None);
    }

    #[test]
    fn features_find_their_attributes_under_every_name() {
        let column = || Column::U8(vec![1]);
        let names = [
            "nx",
            "Red",
            "g",
            "scalar_Intensity",
            "rgba",
            "echo",
            "return_number",
        ];
        let c = cloud(names.map(|n| (n, column())).to_vec());
        assert_eq!(c.attributes_of("color"), [1, 2, 4]);
        assert_eq!(c.attributes_of("intensity"), [3]);
        assert_eq!(c.attributes_of("Echo"), [5]);
        assert_eq!(c.attributes_of("return_ratio"), [6]);
        assert!(c.attributes_of("height").is_empty());
    }

    #[test]
    fn labels_are_integers_under_a_usual_name() {
        let c = cloud(vec![
            ("classification", Column::U8(vec![2, 6])),
            ("Label", Column::F32(vec![1.0, -1.0])),
        ]);
        assert_eq!(c.labels().unwrap().code, [1, -1]);
        assert_eq!(c.labels_of("classification").unwrap().code, [2, 6]);
        let c = cloud(vec![("label", Column::F32(vec![0.5]))]);
        assert!(c.labels().is_none());
    }
}
