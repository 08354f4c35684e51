//! safetensors: the native checkpoint format. Reads files of any writer, writes atomically.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | n, length of the header, little-endian u64 |
//! | n | JSON object: name → `{"dtype", "shape", "data_offsets": [begin, end]}`, `__metadata__` → strings |
//! | rest | the tensors, row-major, little-endian; offsets count from here and leave no gap |
//!
//! Layout: <https://huggingface.co/docs/safetensors>. The crate of that name is the twin in the tests; it is not used
//! for reading because an offset near 2^64 makes it overflow, its faults do not say which tensor they concern, and it
//! writes metadata in random order, so that equal checkpoints would not be equal files.
//!
//! A header is believed only after it was compared with the length of the file: nothing is allocated for a tensor
//! that the file cannot hold.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::tensors::{Dtype, Tensor, Tensors, element_count};
use crate::io::Atomic;
use crate::{Error, Result};

/// Longest header that is read: the limit of the reference implementation, bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Reads a whole file. Errors name the file and the tensor at fault.
pub fn read(path: impl AsRef<Path>) -> Result<Tensors> {
    let path = path.as_ref();
    let mut file = crate::io::open_regular(path)?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    read_from(&mut file, length, path)
}

/// Reads a file that is already in memory, such as a model inside the program; `name` is used in messages only.
pub fn from_bytes(mut bytes: &[u8], name: impl AsRef<Path>) -> Result<Tensors> {
    let length = bytes.len() as u64;
    read_from(&mut bytes, length, name.as_ref())
}

/// True when the first bytes of a file look like a safetensors header.
pub fn recognise(head: &[u8]) -> bool {
    head.len() > 8 && head[8] == b'{' && head[6] == 0 && head[7] == 0
}

/// Reads from a stream of `length` bytes; `path` is used in messages only.
fn read_from(input: &mut impl Read, length: u64, path: &Path) -> Result<Tensors> {
    let fault = |text: String| Error::malformed(path, "safetensors header", text);
    if length < 8 {
        return Err(fault(format!("the file has only {length} bytes")));
    }
    let mut prefix = [0u8; 8];
    fill(input, &mut prefix, path)?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER || header_length > length - 8 {
        return Err(fault(format!(
            "its length is given as {header_length} bytes, the file has {length}"
        )));
    }
    let mut text = vec![0u8; header_length as usize];
    fill(input, &mut text, path)?;
    let header: Header =
        serde_json::from_slice(&text).map_err(|e| fault(format!("not as the format asks: {e}")))?;
    let entries = header.checked(length - 8 - header_length, path)?;
    let mut out = Tensors::new();
    out.metadata = header.metadata;
    for (name, dtype, dims, size) in entries {
        let mut bytes = vec![0u8; size];
        fill(input, &mut bytes, path)?;
        out.insert(name, Tensor::new(dims, dtype, bytes)?)?;
    }
    Ok(out)
}

fn fill(input: &mut impl Read, buffer: &mut [u8], path: &Path) -> Result<()> {
    input.read_exact(buffer).map_err(|e| Error::io(path, e))
}

/// The header as it stands in the file, entries in file order.
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

/// What the header says about one tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Name, type, shape and size in bytes of a tensor whose place in the file was checked.
type Checked = (String, Dtype, Vec<usize>, usize);

impl Header {
    /// Tensors in the order of their data, after checking that they cover `length` bytes without gap or overlap.
    fn checked(&self, length: u64, path: &Path) -> Result<Vec<Checked>> {
        let mut order: Vec<&(String, Entry)> = self.entries.iter().collect();
        order.sort_by_key(|(_, e)| e.data_offsets);
        let mut end = 0u64;
        let mut out = Vec::with_capacity(order.len());
        for (name, entry) in order {
            let fault = |text: String| Error::malformed(path, format!("tensor {name}"), text);
            let dtype = Dtype::from_name(&entry.dtype).ok_or_else(|| {
                fault(format!("numbers of type {} are not supported", entry.dtype))
            })?;
            let [from, to] = entry.data_offsets;
            if from != end || to < from || to > length {
                return Err(fault(format!(
                    "its data is said to lie at {from}..{to}; {end}.. is next and the file holds {length} bytes of data"
                )));
            }
            let wanted = element_count(&entry.shape).and_then(|n| n.checked_mul(dtype.size()));
            if wanted.map(|n| n as u64) != Some(to - from) {
                return Err(fault(format!(
                    "shape {:?} of {} does not fit its {} bytes",
                    entry.shape,
                    entry.dtype,
                    to - from
                )));
            }
            out.push((
                name.clone(),
                dtype,
                entry.shape.clone(),
                (to - from) as usize,
            ));
            end = to;
        }
        if end != length {
            return Err(Error::malformed(
                path,
                "safetensors header",
                format!("the tensors take {end} bytes of the {length} that follow"),
            ));
        }
        Ok(out)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut header = Header {
                    entries: Vec::new(),
                    metadata: BTreeMap::new(),
                };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        let text = format!("the name {name:?} occurs twice");
                        return Err(serde::de::Error::custom(text));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.entries.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Writes `tensors` to `path` through a temporary file beside it, so that an interrupted write leaves the old file.
///
/// Tensors are stored widest type first, otherwise in their order; the same contents always give the same bytes.
pub fn write(path: impl AsRef<Path>, tensors: &Tensors) -> Result<()> {
    let mut file = Atomic::create(path.as_ref())?;
    write_to(&mut file, tensors).map_err(|e| file.io(e))?;
    file.finish()
}

fn write_to(mut output: impl Write, tensors: &Tensors) -> std::io::Result<()> {
    let mut order: Vec<(&str, &Tensor)> = tensors.iter().collect();
    // Readers that map the file need every tensor aligned to its type.
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size()));
    let mut header = serde_json::Map::new();
    if !tensors.metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(tensors.metadata));
    }
    let mut end = 0;
    for (name, tensor) in &order {
        let from = end;
        end += tensor.bytes().len();
        header.insert(
            (*name).into(),
            serde_json::json!({
                "dtype": tensor.dtype().name(),
                "shape": tensor.dims(),
                "data_offsets": [from, end],
            }),
        );
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    output.write_all(&(text.len() as u64).to_le_bytes())?;
    output.write_all(&text)?;
    for (_, tensor) in order {
        output.write_all(tensor.bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Random, Sequence};

    fn sample() -> Tensors {
        let mut all = Tensors::new();
        let dims = [2, 3];
        let values = [1.0, -2.5, 3.0e-9, f32::MAX, f32::MIN_POSITIVE, 0.0];
        all.insert("w.norm.count", Tensor::from_i64(&[], &[7]).unwrap())
            .unwrap();
        all.insert("w.weight", Tensor::from_f32(&dims, &values).unwrap())
            .unwrap();
        all.insert("empty", Tensor::from_f32(&[0, 4], &[]).unwrap())
            .unwrap();
        all.insert(
            "mask",
            Tensor::new(vec![3], Dtype::Bool, vec![1, 0, 1]).unwrap(),
        )
        .unwrap();
        all.insert(
            "a",
            Tensor::from_f64(&[1], &[std::f64::consts::PI]).unwrap(),
        )
        .unwrap();
        all.metadata
            .insert("classes".into(), "[\"ground\", \"façade\"]".into());
        all.metadata.insert("about".into(), "a \"test\"\n".into());
        all
    }

    fn encode(tensors: &Tensors) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_to(&mut bytes, tensors).unwrap();
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Tensors> {
        from_bytes(bytes, "t.safetensors")
    }

    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn files_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, "old").unwrap();
        let all = sample();
        write(&path, &all).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.metadata, all.metadata);
        assert_eq!(back.len(), all.len());
        for (name, tensor) in all.iter() {
            assert_eq!(back.get(name), Some(tensor), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(encode(&all), std::fs::read(&path).unwrap());
    }

    #[test]
    fn reference_crate_reads_and_writes_the_same() {
        let all = sample();
        let bytes = encode(&all);
        assert!(recognise(&bytes));
        let twin = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(twin.len(), all.len());
        for (name, tensor) in all.iter() {
            let view = twin.tensor(name).unwrap();
            assert_eq!(view.data(), tensor.bytes(), "{name}");
            assert_eq!(view.shape(), tensor.dims(), "{name}");
        }
        let (_, header) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let strings: BTreeMap<_, _> = header.metadata().clone().unwrap().into_iter().collect();
        assert_eq!(strings, all.metadata);
        let written = ::safetensors::serialize(twin.tensors(), None).unwrap();
        let back = decode(&written).unwrap();
        for (name, tensor) in all.iter() {
            assert_eq!(back.get(name), Some(tensor), "{name}");
        }
    }

    #[test]
    fn false_headers_are_refused_before_anything_is_allocated() {
        let entry = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let huge = "[0,18446744073709551615]";
        let cases = [
            (entry("F32", "[2]", "[0,8]"), 8, ""),
            (entry("F32", "[2]", "[0,8]"), 7, "0..8"),
            (entry("F32", "[2]", "[0,8]"), 9, "of the 9"),
            (entry("F32", "[2]", "[4,12]"), 12, "4..12"),
            (entry("F32", "[2]", "[8,0]"), 8, "8..0"),
            (entry("F32", "[3]", "[0,8]"), 8, "shape [3]"),
            (entry("U8", "[18446744073709551615]", huge), 8, "tensor x"),
            (entry("F64", "[4294967296,4294967296]", "[0,8]"), 8, "shape"),
            (entry("F8_E5M2", "[8]", "[0,8]"), 8, "F8_E5M2"),
            (entry("F32", "[-1]", "[0,8]"), 8, "not as the format asks"),
            (
                r#"{"__metadata__":{"a":1}}"#.into(),
                0,
                "not as the format asks",
            ),
            (
                r#"{"__metadata__":{},"__metadata__":{}}"#.into(),
                0,
                "twice",
            ),
            (
                format!("{}{}", "[".repeat(5000), "]".repeat(5000)),
                0,
                "not as",
            ),
            (String::new(), 0, "not as the format asks"),
        ];
        for (header, data, message) in cases {
            match decode(&with_header(&header, data)) {
                Ok(all) => assert!(message.is_empty() && all.len() == 1, "{header}"),
                Err(e) => {
                    let text = e.to_string();
                    assert!(
                        !message.is_empty() && text.contains(message),
                        "{header}: {text}"
                    );
                    assert!(matches!(e, Error::Malformed { .. }), "{text}");
                }
            }
        }
        let mut long = with_header("{}", 0);
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode(&long).unwrap_err().to_string().contains("length"));
        assert!(decode(&[1, 2]).unwrap_err().to_string().contains("2 bytes"));
    }

    #[test]
    fn mutated_files_never_panic() {
        let good = encode(&sample());
        let (mut read, mut refused) = (0, 0);
        for trial in 0..6000u64 {
            let mut random = Sequence::new(Random::new(11, trial));
            let mut bytes = good.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(4) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = b"0123456789[]{},:\""[random.below(17) as usize],
                    2 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            match decode(&bytes) {
                Ok(_) => read += 1,
                Err(e) => {
                    assert_eq!(e.exit_code(), 2);
                    refused += 1;
                }
            }
        }
        assert!(
            read > 100 && refused > 1000,
            "{read} read, {refused} refused"
        );
    }

    #[test]
    fn missing_folder_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let fault = write(folder.path().join("no/m.safetensors"), &sample()).unwrap_err();
        assert!(matches!(fault, Error::Io { .. }), "{fault}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
