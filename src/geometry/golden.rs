//! Reads the reference files under `data/golden`.

use safetensors::{Dtype, SafeTensors};

/// One reference file.
pub struct Golden(Vec<u8>);

impl Golden {
    /// Opens `data/golden/ptv2/<name>.safetensors`.
    pub fn open(name: &str) -> Golden {
        Golden::of("ptv2", name)
    }

    /// Opens `data/golden/<network>/<name>.safetensors`.
    pub fn of(network: &str, name: &str) -> Golden {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/golden");
        Golden(std::fs::read(format!("{folder}/{network}/{name}.safetensors")).unwrap())
    }

    fn bytes<const SIZE: usize>(&self, name: &str, kind: Dtype) -> Vec<[u8; SIZE]> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), kind, "{name}");
        tensor.data().as_chunks::<SIZE>().0.to_vec()
    }

    /// Values of an f32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let values = self.bytes(name, Dtype::F32);
        values.into_iter().map(f32::from_le_bytes).collect()
    }

    /// Values of an f64 tensor.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let values = self.bytes(name, Dtype::F64);
        values.into_iter().map(f64::from_le_bytes).collect()
    }

    /// Values of an i32 tensor.
    pub fn i32(&self, name: &str) -> Vec<i32> {
        let values = self.bytes(name, Dtype::I32);
        values.into_iter().map(i32::from_le_bytes).collect()
    }

    /// Values of an i64 tensor.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        let values = self.bytes(name, Dtype::I64);
        values.into_iter().map(i64::from_le_bytes).collect()
    }

    /// A number of the metadata.
    pub fn number(&self, name: &str) -> f32 {
        let (_, header) = SafeTensors::read_metadata(&self.0).unwrap();
        header.metadata().as_ref().unwrap()[name].parse().unwrap()
    }

    /// An [N, 3] tensor.
    pub fn points(&self, name: &str) -> Vec<[f32; 3]> {
        self.f32(name).as_chunks::<3>().0.to_vec()
    }

    /// A tensor of cumulative counts, with the leading 0 that our offsets have.
    pub fn offsets(&self, name: &str) -> Vec<usize> {
        let ends = self.i32(name).into_iter().map(|end| end as usize);
        std::iter::once(0).chain(ends).collect()
    }
}
