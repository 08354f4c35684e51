//! Checkpoints written by `torch.save`, read without executing anything.
//!
//! Two containers hold the same pickle (see [`super::pickle`]):
//!
//! | container | layout |
//! |---|---|
//! | zip (PyTorch ≥ 1.6) | `NAME/data.pkl`; `NAME/data/KEY`: bytes of one storage; `NAME/byteorder`: `little` or `big` |
//! | plain (before) | five pickles: magic number, version 1001, system, **content**, list of keys; then for each key in that order its count of numbers, i64, and its bytes, little-endian |
//!
//! Storages are read only when a tensor that is wanted views them, so optimizer states cost nothing. Every size is
//! checked against the file; what is read and what is made of it may each take at most four times its length, which
//! leaves room for weights that share a storage but none for a view that repeats one number a billion times.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::pickle::{self, Graph, Id, StorageRef, TensorRef, Value};
use super::tensors::{Dtype, Tensor, Tensors, element_count};
use crate::{Error, Result};

/// Longest pickle that is read, bytes. The official checkpoints have half a megabyte; every byte may become a value in
/// memory.
const MAX_PICKLE: u64 = 16 << 20;

/// First pickle of a plain file: the integer 0x1950a86a20f9469cfc6c.
const PLAIN_MAGIC: [u8; 15] = [
    0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.',
];

/// Whether a file that begins with `head` is one that `torch.save` may have written.
pub fn recognise(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(&PLAIN_MAGIC)
}

/// An open checkpoint: its values, and the way to its tensor data.
#[derive(Debug)]
pub struct Pth {
    path: PathBuf,
    graph: Graph,
    root: Id,
    data: Data,
    /// The storage that was read last: tensors that share one usually follow each other.
    last: Option<(StorageRef, Dtype, Vec<u8>)>,
    /// Bytes that may still be read from storages.
    readable: u64,
    /// Bytes that tensors may still take.
    allowance: u64,
}

/// Where the storages lie.
#[derive(Debug)]
enum Data {
    Zip {
        archive: zip::ZipArchive<BufReader<File>>,
        folder: String,
        big_endian: bool,
    },
    Plain {
        file: File,
        /// Key → position and length in bytes.
        place: HashMap<String, (u64, u64)>,
    },
}

impl Pth {
    /// Opens a file of either container and reads its pickle, but no tensor yet.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |e| Error::io(path, e);
        let mut file = crate::io::open_regular(path)?;
        let length = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        (&mut file)
            .take(PLAIN_MAGIC.len() as u64)
            .read_to_end(&mut head)
            .map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let (graph, root, data) = if head.starts_with(b"PK\x03\x04") {
            open_zip(file, length, path)?
        } else if head.starts_with(&PLAIN_MAGIC) {
            open_plain(file, length, path)?
        } else {
            return Err(Error::unusable(
                path,
                "is no PyTorch checkpoint (neither a zip archive nor a pickle with PyTorch's magic number)",
            ));
        };
        Ok(Pth {
            path: path.to_path_buf(),
            graph,
            root,
            data,
            last: None,
            readable: length.saturating_mul(4),
            allowance: length.saturating_mul(4),
        })
    }

    /// The whole content.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The values of the content.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Reads the tensors of the dictionary `dict`. Errors on values that are no tensors.
    pub fn tensors(&mut self, dict: Id) -> Result<Tensors> {
        let Value::Dict(pairs) = self.graph.get(dict).clone() else {
            return Err(Error::malformed(
                &self.path,
                "state_dict",
                "is no dictionary",
            ));
        };
        let mut out = Tensors::new();
        for (key, value) in pairs {
            let name = self
                .graph
                .text(key)
                .unwrap_or("a key that is no text")
                .to_string();
            let path = self.path.clone();
            let fault = |text: String| Error::malformed(path, format!("tensor {name}"), text);
            let view = match self.graph.get(value) {
                Value::Tensor(view) => TensorRef::clone(view),
                other => return Err(fault(format!("is {}", other.kind()))),
            };
            let tensor = self.tensor(&view).map_err(fault)?;
            out.insert(name, tensor)?;
        }
        Ok(out)
    }

    fn tensor(&mut self, view: &TensorRef) -> std::result::Result<Tensor, String> {
        let size = view_size(view)?;
        self.allowance = self
            .allowance
            .checked_sub(size as u64)
            .ok_or("the tensors together are far larger than the file")?;
        let bytes = match &self.last {
            Some((storage, dtype, bytes)) if *storage == view.storage && *dtype == view.dtype => {
                bytes
            }
            _ => {
                let bytes = self.data.storage(&view.storage, view.dtype)?;
                self.readable = self
                    .readable
                    .checked_sub(bytes.len() as u64)
                    .ok_or("its storage is used again and again")?;
                &self
                    .last
                    .insert((view.storage.clone(), view.dtype, bytes))
                    .2
            }
        };
        let bytes = gather(view, bytes, size)?;
        let dims = view.dims.iter().map(|&d| d as usize).collect();
        Tensor::new(dims, view.dtype, bytes).map_err(|e| e.to_string())
    }
}

fn open_zip(file: File, length: u64, path: &Path) -> Result<(Graph, Id, Data)> {
    let fault = |text: String| Error::malformed(path, "zip archive", text);
    let mut archive =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|e| fault(e.to_string()))?;
    let names: Vec<String> = archive
        .file_names_raw()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    if names.iter().any(|n| n.ends_with("/constants.pkl")) {
        return Err(Error::unusable(
            path,
            "is a TorchScript program; load it in Python and save its state_dict",
        ));
    }
    let folder = names
        .iter()
        .find_map(|n| n.strip_suffix("data.pkl"))
        .filter(|f| f.is_empty() || f.ends_with('/'))
        .ok_or_else(|| fault("holds no data.pkl, so it was not written by torch.save".into()))?
        .to_string();
    let mut entry = |name: &str, limit: u64| {
        read_entry(&mut archive, &format!("{folder}{name}"), limit).map_err(fault)
    };
    let big_endian = if names
        .iter()
        .any(|n| n.strip_prefix(&folder) == Some("byteorder"))
    {
        match entry("byteorder", 16)?.trim_ascii() {
            b"big" => true,
            b"little" => false,
            other => {
                return Err(fault(format!(
                    "byte order `{}`",
                    String::from_utf8_lossy(other)
                )));
            }
        }
    } else {
        // PyTorch before 2.0 did not say; it was little-endian wherever these networks were trained.
        false
    };
    let bytes = entry("data.pkl", length.min(MAX_PICKLE))?;
    let (graph, root, _) =
        pickle::parse(&bytes).map_err(|e| Error::malformed(path, "data.pkl", e))?;
    let data = Data::Zip {
        archive,
        folder,
        big_endian,
    };
    Ok((graph, root, data))
}

/// The bytes of one archive entry, which has to be stored as it is and to have at most `limit` bytes.
fn read_entry(
    archive: &mut zip::ZipArchive<BufReader<File>>,
    name: &str,
    limit: u64,
) -> std::result::Result<Vec<u8>, String> {
    let fault = |e: &dyn std::fmt::Display| format!("{name}: {e}");
    let mut entry = archive.by_name(name).map_err(|e| fault(&e))?;
    if entry.compression() != zip::CompressionMethod::Stored {
        return Err(fault(&"is compressed; PyTorch never does that"));
    }
    if entry.size() > limit {
        return Err(fault(&format!(
            "has {} bytes, at most {limit} were expected",
            entry.size()
        )));
    }
    let mut bytes = Vec::new();
    entry
        .by_ref()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| fault(&e))?;
    Ok(bytes)
}

fn open_plain(mut file: File, length: u64, path: &Path) -> Result<(Graph, Id, Data)> {
    let fault = |text: String| Error::malformed(path, "plain checkpoint", text);
    // The pickles come first and nothing tells where they end, so as much is read as they may take.
    let mut bytes = Vec::new();
    (&mut file)
        .take(length.min(MAX_PICKLE))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(path, e))?;
    let mut at = 0;
    let mut next = || {
        let (graph, root, taken) = pickle::parse(&bytes[at..]).map_err(fault)?;
        at += taken;
        Ok::<_, Error>((graph, root))
    };
    let _magic = next()?;
    let (graph, version) = next()?;
    if graph.get(version) != &Value::Int(1001) {
        return Err(fault(format!(
            "its version is {}, not 1001",
            graph.get(version).kind()
        )));
    }
    let _system = next()?;
    let (graph, root) = next()?;
    let (key_graph, keys) = next()?;
    let Value::List(keys) = key_graph.get(keys) else {
        return Err(fault("the list of storages is missing".into()));
    };
    let sizes = graph.storage_sizes();
    let mut place = HashMap::new();
    let mut position = at as u64;
    for key in keys {
        let key = key_graph
            .text(*key)
            .ok_or_else(|| fault("a storage key is no text".into()))?;
        let width = *sizes
            .get(key)
            .ok_or_else(|| fault(format!("no tensor uses storage {key}")))?;
        let mut prefix = [0u8; 8];
        file.seek(SeekFrom::Start(position))
            .and_then(|_| file.read_exact(&mut prefix))
            .map_err(|e| fault(format!("storage {key}: {e}")))?;
        let size = u64::from_le_bytes(prefix).checked_mul(width);
        let end = size
            .and_then(|s| s.checked_add(position + 8))
            .filter(|&end| end <= length);
        let (Some(size), Some(end)) = (size, end) else {
            let count = u64::from_le_bytes(prefix);
            return Err(fault(format!(
                "storage {key} is said to have {count} numbers, the file ends before"
            )));
        };
        place.insert(key.to_string(), (position + 8, size));
        position = end;
    }
    Ok((graph, root, Data::Plain { file, place }))
}

impl Graph {
    /// Bytes per number of every storage that occurs, by key.
    fn storage_sizes(&self) -> HashMap<String, u64> {
        let storages = self.values().filter_map(|v| match v {
            Value::Storage(s) => Some(s),
            _ => None,
        });
        storages
            .map(|s| (s.key.clone(), s.dtype.map_or(1, Dtype::size) as u64))
            .collect()
    }
}

impl Data {
    /// The bytes of a storage's view, in the machine's order, which has to be as long as the pickle says.
    fn storage(
        &mut self,
        storage: &StorageRef,
        dtype: Dtype,
    ) -> std::result::Result<Vec<u8>, String> {
        let width = storage.dtype.map_or(1, Dtype::size) as u64;
        let start = storage.start.checked_mul(width);
        let length = storage.count.checked_mul(width);
        let end = start.zip(length).and_then(|(s, l)| s.checked_add(l));
        let (Some(start), Some(length), Some(end)) = (start, length, end) else {
            return Err(format!(
                "its storage is said to have {} numbers",
                storage.count
            ));
        };
        let short = |there: u64| {
            format!(
                "its storage {} has {there} bytes, {end} are needed",
                storage.key
            )
        };
        match self {
            Data::Plain { file, place } => {
                let (position, there) = *place
                    .get(&storage.key)
                    .ok_or_else(|| format!("its storage {} is missing", storage.key))?;
                if end > there {
                    return Err(short(there));
                }
                let mut bytes = vec![0; length as usize];
                file.seek(SeekFrom::Start(position + start))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| e.to_string())?;
                Ok(bytes)
            }
            Data::Zip {
                archive,
                folder,
                big_endian,
            } => {
                let name = format!("{folder}data/{}", storage.key);
                let mut bytes = read_entry(archive, &name, end)?;
                if (bytes.len() as u64) < end {
                    return Err(short(bytes.len() as u64));
                }
                bytes.drain(..start as usize);
                if *big_endian {
                    bytes
                        .chunks_exact_mut(dtype.size())
                        .for_each(<[u8]>::reverse);
                }
                Ok(bytes)
            }
        }
    }
}

/// Bytes of a tensor once it is laid out row by row.
fn view_size(view: &TensorRef) -> std::result::Result<usize, String> {
    let dims: Option<Vec<usize>> = view.dims.iter().map(|&d| d.try_into().ok()).collect();
    dims.and_then(|d| element_count(&d))
        .and_then(|n| n.checked_mul(view.dtype.size()))
        .ok_or_else(|| format!("shape {:?} is larger than any memory", view.dims))
}

/// Lays out a strided view of `storage` row by row; `size` is its length in bytes.
fn gather(view: &TensorRef, storage: &[u8], size: usize) -> std::result::Result<Vec<u8>, String> {
    let width = view.dtype.size();
    if size == 0 {
        return Ok(Vec::new());
    }
    let steps = view.dims.iter().zip(&view.strides);
    let last = steps.clone().try_fold(view.offset, |at, (&d, &s)| {
        at.checked_add((d - 1).checked_mul(s)?)
    });
    let there = (storage.len() / width) as u64;
    if last.is_none_or(|last| last >= there) {
        return Err(format!(
            "shape {:?} with strides {:?} from {} exceeds its storage of {there} numbers",
            view.dims, view.strides, view.offset
        ));
    }
    let mut dense = 1;
    let contiguous = steps.clone().rev().all(|(&d, &s)| {
        let fits = d == 1 || s == dense;
        dense *= d;
        fits
    });
    let start = view.offset as usize * width;
    if contiguous {
        return Ok(storage[start..start + size].to_vec());
    }
    // Axes of length 1 are left out: their strides say nothing and may be anything.
    let axes: Vec<(usize, usize)> = steps
        .filter(|(d, _)| **d > 1)
        .map(|(&d, &s)| (d as usize, s as usize))
        .collect();
    let mut index = vec![0; axes.len()];
    let mut at = view.offset as usize;
    let mut out = Vec::with_capacity(size);
    while out.len() < size {
        out.extend_from_slice(&storage[at * width..(at + 1) * width]);
        for (i, &(length, stride)) in index.iter_mut().zip(&axes).rev() {
            *i += 1;
            at += stride;
            if *i < length {
                break;
            }
            at -= stride * length;
            *i = 0;
        }
    }
    Ok(out)
}
