//! Tests of the pickle machine and of both containers, on files that PyTorch wrote and on hostile ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::pickle::{self, Value};
use super::pth::{Pth, recognise};
use super::tensors::Tensors;
use super::{Dtype, safetensors};
use crate::device::random::{Random, Sequence};
use crate::{Error, Result};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pth")
        .join(name)
}

fn state(path: &Path) -> Result<Tensors> {
    let mut file = Pth::open(path)?;
    let dict = file
        .graph()
        .entry(file.root(), "state_dict")
        .unwrap_or(file.root());
    file.tensors(dict)
}

/// A pickle of protocol 2 with `body` between its opening and STOP.
fn pickled(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2], body, b"."].concat()
}

/// A call of `module.name` with one text.
fn calling(module: &str, name: &str) -> Vec<u8> {
    let name = format!("c{module}\n{name}\n");
    pickled(&[name.as_bytes(), b"X\x04\0\0\0exit\x85R"].concat())
}

fn plain_file(content: &[u8], keys: &[u8], data: &[u8]) -> Vec<u8> {
    let magic = pickled(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    [
        &magic[..],
        &pickled(b"M\xe9\x03"),
        &pickled(b"}"),
        content,
        keys,
        data,
    ]
    .concat()
}

fn zip_file(content: &[u8], storages: &[(&str, &[u8])], order: Option<&str>) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut archive = zip::ZipWriter::new(&mut bytes);
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut put = |name: &str, data: &[u8]| {
        archive.start_file(name, stored).unwrap();
        archive.write_all(data).unwrap();
    };
    put("a/data.pkl", content);
    if let Some(order) = order {
        put("a/byteorder", order.as_bytes());
    }
    for (key, data) in storages {
        put(&format!("a/data/{key}"), data);
    }
    archive.finish().unwrap();
    bytes.into_inner()
}

fn open_bytes(bytes: &[u8]) -> Result<Tensors> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    state(file.path())
}

/// A dictionary of one tensor `x`: `_rebuild_tensor_v2(storage '0' of `count`, offset, dims, strides, False, None)`.
fn one_tensor(kind: &str, count: u32, offset: i32, dims: &[u32], strides: &[u32]) -> Vec<u8> {
    let int = |n: u32| [b"J", &n.to_le_bytes()[..]].concat();
    let tuple = |items: &[u32]| {
        let items: Vec<u8> = items.iter().flat_map(|&n| int(n)).collect();
        [b"(", &items[..], b"t"].concat()
    };
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    pickled(
        &[
            b"}",
            &text("x")[..],
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            format!("c{}\n", kind.replace(' ', "\n")).as_bytes(),
            &text("0"),
            &text("cpu"),
            &int(count),
            b"tQ",
            &int(offset as u32),
            &tuple(dims),
            &tuple(strides),
            b"\x89NtRs",
        ]
        .concat(),
    )
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn strides_shared_storages_and_types_are_read_from_all_containers() {
    let expected = safetensors::read(fixture("odd.safetensors")).unwrap();
    for name in ["zip_odd.pth", "zip_odd_protocol4.pth", "plain_odd.pth"] {
        let found = state(&fixture(name)).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (key, tensor) in expected.iter() {
            assert_eq!(found.get(key), Some(tensor), "{name}: {key}");
        }
    }
}

#[test]
fn training_state_is_read_around() {
    for name in ["zip_m2_module_backbone.pth", "plain_m1_backbone.pth"] {
        let file = Pth::open(fixture(name)).unwrap();
        let entry = |key| {
            file.graph()
                .get(file.graph().entry(file.root(), key).unwrap())
        };
        assert_eq!(entry("epoch"), &Value::Int(7), "{name}");
        assert_eq!(entry("best_metric_value"), &Value::Float(0.7261), "{name}");
        assert!(matches!(entry("optimizer"), Value::Dict(_)), "{name}");
        assert!(matches!(entry("scheduler"), Value::Dict(_)), "{name}");
    }
}

#[test]
fn files_are_recognised_by_content() {
    for (name, yes) in [
        ("zip_odd.pth", true),
        ("plain_odd.pth", true),
        ("odd.safetensors", false),
    ] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        assert_eq!(recognise(&bytes), yes, "{name}");
    }
    let fault = Pth::open(fixture("odd.safetensors")).unwrap_err();
    assert!(
        fault.to_string().contains("no PyTorch checkpoint"),
        "{fault}"
    );
}

#[test]
fn foreign_functions_are_refused_by_name_in_both_containers() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch.hub", "load"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy", "load"),
        ("argparse", "Namespace"),
    ] {
        let content = calling(module, name);
        for bytes in [
            zip_file(&content, &[], None),
            plain_file(&content, &pickled(b"]"), &[]),
        ] {
            let fault = open_bytes(&bytes).unwrap_err();
            assert!(
                fault.to_string().contains(&format!("{module}.{name}")),
                "{fault}"
            );
            assert!(matches!(fault, Error::Malformed { .. }), "{fault}");
        }
    }
    // The same name given as text, and the way through getattr.
    let stacked = pickled(b"\x8c\x02os\x8c\x06system\x93X\x02\0\0\0id\x85R");
    assert!(pickle::parse(&stacked).unwrap_err().contains("os.system"));
    let attribute = pickled(b"cbuiltins\ngetattr\nX\x01\0\0\0aX\x01\0\0\0b\x86R");
    assert!(
        pickle::parse(&attribute)
            .unwrap_err()
            .contains("builtins.getattr")
    );
}

#[test]
fn schedulers_of_old_versions_are_inert() {
    // {'f': getattr(OneCycleLR.__new__(OneCycleLR) with {}, '_annealing_cos')}, as PyTorch 1.12 writes it.
    let body = b"}X\x01\0\0\0fc__builtin__\ngetattr\ncpointcept.utils.scheduler\nOneCycleLR\n)\x81}bX\x01\0\0\0g\x86Rs";
    let (graph, root, _) = pickle::parse(&pickled(body)).unwrap();
    let f = graph.entry(root, "f").unwrap();
    assert_eq!(graph.get(f), &Value::Opaque);
}

#[test]
fn views_outside_their_storage_are_refused() {
    let data = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let kind = "torch FloatStorage";
    let read = |content: Vec<u8>| open_bytes(&zip_file(&content, &[("0", &data)], None));
    let good = read(one_tensor(kind, 6, 1, &[2, 2], &[1, 2])).unwrap();
    assert_eq!(good.get_f32("x").unwrap(), [2.0, 4.0, 3.0, 5.0]);
    let huge = i32::MAX as u32;
    for (offset, dims, strides, message) in [
        (1, vec![2, 3], vec![3, 1], "exceeds"),
        (6, vec![1], vec![1], "exceeds"),
        (-1, vec![1], vec![1], "offset"),
        (0, vec![2], vec![huge], "exceeds"),
        (0, vec![huge, huge, huge], vec![huge, huge, huge], "larger"),
        (0, vec![huge, huge], vec![0, 0], "larger"),
        (0, vec![1 << 20], vec![0], "larger than the file"),
        (0, vec![2, 2], vec![1], "2 sizes and 1 strides"),
    ] {
        let fault = read(one_tensor(kind, 6, offset, &dims, &strides))
            .unwrap_err()
            .to_string();
        assert!(fault.contains(message), "{dims:?} {strides:?}: {fault}");
    }
    let fault = read(one_tensor(kind, 7, 0, &[6], &[1]))
        .unwrap_err()
        .to_string();
    assert!(fault.contains("28 are needed"), "{fault}");
    let fault = read(one_tensor(kind, 5, 0, &[5], &[1]))
        .unwrap_err()
        .to_string();
    assert!(fault.contains("at most 20"), "{fault}");
    let fault = read(one_tensor("torch ComplexFloatStorage", 3, 0, &[3], &[1])).unwrap_err();
    assert!(
        fault.to_string().contains("torch.ComplexFloatStorage"),
        "{fault}"
    );
}

#[test]
fn plain_storages_have_to_lie_in_the_file() {
    let content = one_tensor("torch DoubleStorage", 2, 0, &[2], &[1]);
    let keys = pickled(b"]X\x01\0\0\0\x30a");
    let data = |count: u64| {
        [
            &count.to_le_bytes()[..],
            &1.5f64.to_le_bytes(),
            &2.5f64.to_le_bytes(),
        ]
        .concat()
    };
    let good = open_bytes(&plain_file(&content, &keys, &data(2))).unwrap();
    assert_eq!(good.get_f64("x").unwrap(), [1.5, 2.5]);
    for (count, message) in [
        (3, "3 numbers"),
        (1, "16 are needed"),
        (u64::MAX, "numbers"),
    ] {
        let fault = open_bytes(&plain_file(&content, &keys, &data(count))).unwrap_err();
        assert!(fault.to_string().contains(message), "{fault}");
    }
    let fault = open_bytes(&plain_file(&content, &pickled(b"]"), &[])).unwrap_err();
    assert!(
        fault.to_string().contains("storage 0 is missing"),
        "{fault}"
    );
}

#[test]
fn byte_order_of_the_writer_is_honoured() {
    let content = one_tensor("torch FloatStorage", 2, 0, &[2], &[1]);
    let big: Vec<u8> = [1.0f32, -2.0]
        .iter()
        .flat_map(|v| v.to_be_bytes())
        .collect();
    let found = open_bytes(&zip_file(&content, &[("0", &big)], Some("big"))).unwrap();
    assert_eq!(found.get_f32("x").unwrap(), [1.0, -2.0]);
    let fault = open_bytes(&zip_file(&content, &[("0", &big)], Some("middle"))).unwrap_err();
    assert!(fault.to_string().contains("middle"), "{fault}");
}

#[test]
fn unusual_zip_files_are_explained() {
    let program = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut archive = zip::ZipWriter::new(&mut bytes);
        archive
            .start_file("a/constants.pkl", zip::write::SimpleFileOptions::default())
            .unwrap();
        archive.finish().unwrap();
        bytes.into_inner()
    };
    let fault = open_bytes(&program).unwrap_err().to_string();
    assert!(fault.contains("TorchScript"), "{fault}");
    let content = one_tensor("torch FloatStorage", 2, 0, &[2], &[1]);
    let fault = open_bytes(&zip_file(&content, &[], None))
        .unwrap_err()
        .to_string();
    assert!(fault.contains("data/0"), "{fault}");
    let fault = open_bytes(b"PK\x03\x04").unwrap_err().to_string();
    assert!(fault.contains("zip archive"), "{fault}");
}

#[test]
fn malformed_pickles_say_where() {
    let cases: [(&[u8], &str); 16] = [
        (b"", "byte 0"),
        (b"\x80\x09.", "protocol 9"),
        (b".", "stack is empty"),
        (b"(.", "stack is empty"),
        (b"t.", "no mark"),
        (b"h\x05.", "not kept"),
        (b"X\xff\xff\xff\xff.", "announced"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff.", "frame"),
        (b"N}s.", "stack is empty"),
        (b"NNa.", "appends to None"),
        (b"(NNNd.", "no value"),
        (b"NQ.", "not named by a tuple"),
        (b"N)R.", "calls None"),
        (b"ctorch\nSize\n)R.", "argument 0"),
        (b"i", "0x69"),
        (b"\x8a\x11aaaaaaaaaaaaaaaaa.", "17 bytes"),
    ];
    for (bytes, message) in cases {
        let fault = pickle::parse(bytes).unwrap_err();
        assert!(fault.contains(message), "{bytes:?}: {fault}");
    }
}

#[test]
fn copies_are_bounded_by_the_length_of_the_pickle() {
    // A list of many items that OrderedDict would copy once per nine bytes.
    let mut body = b"ccollections\nOrderedDict\nq\0(".to_vec();
    body.extend(b"NN\x86".repeat(20_000));
    body.extend(b"lq\x01");
    body.extend(b"h\0h\x01\x85R0".repeat(20_000));
    assert!(
        pickle::parse(&pickled(&body))
            .unwrap_err()
            .contains("again and again")
    );
}

#[test]
fn module_sources_are_refused() {
    let body = b"(X\x06\0\0\0modulectorch\nSize\nNNtQ";
    assert!(
        pickle::parse(&pickled(body))
            .unwrap_err()
            .contains("state_dict")
    );
}

#[test]
fn mutated_checkpoints_never_panic() {
    let (mut read, mut refused) = (0, 0);
    for name in ["zip_odd.pth", "zip_odd_protocol4.pth", "plain_odd.pth"] {
        let good = std::fs::read(fixture(name)).unwrap();
        for trial in 0..3000 {
            let mut random = Sequence::new(Random::new(name.len() as u64, trial));
            let mut bytes = good.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(5) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.below(256) as u8,
                    2 => bytes.truncate(at + 1),
                    3 => bytes.insert(
                        at,
                        b"(.0t}]RQbsue\x85\x86\x87\x94q"[random.below(17) as usize],
                    ),
                    _ => {
                        bytes.remove(at);
                    }
                }
                if bytes.is_empty() {
                    break;
                }
            }
            match open_bytes(&bytes) {
                Ok(tensors) => {
                    let size: usize = tensors.iter().map(|(_, t)| t.bytes().len()).sum();
                    assert!(size <= 4 * bytes.len());
                    read += 1;
                }
                Err(e) => {
                    assert_eq!(e.exit_code(), 2, "{e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        read > 500 && refused > 2000,
        "{read} read, {refused} refused"
    );
}

#[test]
fn mutated_pickles_never_panic() {
    let content = one_tensor("torch FloatStorage", 6, 1, &[2, 2], &[1, 2]);
    let mut accepted = 0;
    for trial in 0..20_000 {
        let mut random = Sequence::new(Random::new(5, trial));
        let mut bytes = content.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            let opcodes =
                b"(.0123t}]aelsudNRQbqrhjcXKMJG)\x81\x85\x86\x87\x88\x8c\x8f\x90\x93\x94\xff";
            bytes[at] = opcodes[random.below(opcodes.len() as u64) as usize];
        }
        accepted += usize::from(pickle::parse(&bytes).is_ok());
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn expected_types_are_kept() {
    let all = state(&fixture("plain_odd.pth")).unwrap();
    assert_eq!(all.get("bfloat").map(|t| t.dtype()), Some(Dtype::BF16));
    assert_eq!(all.get("half").map(|t| t.dtype()), Some(Dtype::F16));
    assert_eq!(all.dims("scalar"), Some(&[][..]));
}
