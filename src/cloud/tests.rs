//! Reading of reference files for the tests of this crate's point cloud steps.

use safetensors::SafeTensors;
use std::path::Path;

/// A reference file of `data/golden/ptv2`.
pub(crate) struct Golden(Vec<u8>);

/// Opens `data/golden/ptv2/<name>.safetensors`.
pub(crate) fn golden(name: &str) -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/golden/ptv2")
        .join(format!("{name}.safetensors"));
    Golden(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

impl Golden {
    fn words<const N: usize>(&self, name: &str) -> Vec<[u8; N]> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(N)
            .map(|w| w.try_into().unwrap())
            .collect()
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.words(name)
            .into_iter()
            .map(f32::from_le_bytes)
            .collect()
    }

    pub(crate) fn f64(&self, name: &str) -> Vec<f64> {
        self.words(name)
            .into_iter()
            .map(f64::from_le_bytes)
            .collect()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        self.words(name)
            .into_iter()
            .map(i64::from_le_bytes)
            .collect()
    }

    pub(crate) fn points(&self, name: &str) -> Vec<[f32; 3]> {
        let values = self.f32(name);
        values.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect()
    }
}
