//! Faulty files made from valid ones, one for each thing that a reader checks. Each is refused with the file, the place
//! and the fault in one line, in a process that may use one gibibyte of addresses.

use std::path::{Path, PathBuf};
use std::process::Command;

use cairn::cloud::{Attribute, Column, PointCloud};
use cairn::io;

/// What is done to a valid file.
enum Edit {
    /// Keeps the first bytes.
    Cut(usize),
    /// Drops the last bytes.
    Drop(usize),
    /// Puts bytes over those at a place.
    Put(usize, &'static [u8]),
    /// Puts text for the first occurrence of other text.
    Swap(&'static str, &'static str),
    /// Appends bytes.
    Add(&'static [u8]),
    /// Puts other content in its place.
    Be(&'static [u8]),
}

use Edit::*;

#[rustfmt::skip]
const CASES: &[(&str, Edit, &str)] = &[
    ("las/simple.las", Cut(0), ": byte 0: the file is empty"),
    ("las/simple.las", Cut(3), ": byte 0: not a LAS file, whatever its name says"),
    ("las/simple.las", Cut(150), ": byte 0: LAS header: 227 bytes promised, 150 there"),
    ("las/simple.las", Cut(226), ": byte 0: LAS header: 227 bytes promised, 226 there"),
    ("las/simple.las", Cut(227), ": point 0: the file ends here, but its header promises 1065 points of 34"),
    ("las/simple.las", Cut(1000), ": point 22: the file ends here, but its header promises 1065 points of 3"),
    ("las/simple.las", Drop(1), ": point 1064: the file ends here, but its header promises 1065 points of"),
    ("las/simple.las", Put(0, b"\x4c\x41\x53\x47"), ": byte 0: not a LAS file, whatever its name says"),
    ("las/simple.las", Put(24, b"\x02"), ": header byte 24: LAS version 2.2; versions 1.0 to 1.4 can be read"),
    ("las/simple.las", Put(25, b"\x05"), ": header byte 24: LAS version 1.5; versions 1.0 to 1.4 can be read"),
    ("las/simple.las", Put(94, b"\x00\x00"), ": header byte 94: header size 0; LAS 1.2 has at least 227"),
    ("las/simple.las", Put(94, b"\xff\xff"), ": byte 227: LAS header: 65308 bytes promised, 36210 there"),
    ("las/simple.las", Put(96, b"\x00\x00\x00\x00"), ": header byte 96: points start at byte 0, which is not between the end o"),
    ("las/simple.las", Put(96, b"\xe2\x00\x00\x00"), ": header byte 96: points start at byte 226, which is not between the end"),
    ("las/simple.las", Put(96, b"\xff\xff\xff\xff"), ": header byte 96: points start at byte 4294967295, which is not between"),
    ("las/simple.las", Put(100, b"\x01\x00\x00\x00"), ": header byte 100: 1 variable-length records promised, but only 0 bytes"),
    ("las/simple.las", Put(100, b"\xff\xff\xff\xff"), ": header byte 100: 4294967295 variable-length records promised, but only"),
    ("las/simple.las", Put(104, b"\x0b"), ": header byte 104: point format 11; formats 0 to 10 exist"),
    ("las/simple.las", Put(104, b"\x7f"), ": header byte 104: point format 127; formats 0 to 10 exist"),
    ("las/simple.las", Put(105, b"\x00\x00"), ": header byte 105: record length 0; point format 3 has at least 34 bytes"),
    ("las/simple.las", Put(105, b"\x21\x00"), ": header byte 105: record length 33; point format 3 has at least 34 byte"),
    ("las/simple.las", Put(107, b"\x2a\x04\x00\x00"), ": point 1065: the file ends here, but its header promises 1066 points of"),
    ("las/simple.las", Put(107, b"\xff\xff\xff\xff"), ": point 1065: the file ends here, but its header promises 4294967295 poi"),
    ("las/simple.las", Put(131, b"\x00\x00\x00\x00\x00\x00\x00\x00"), ": header byte 131: scale 0 of axis 0"),
    ("las/simple.las", Put(139, b"\x00\x00\x00\x00\x00\x00\xf8\x7f"), ": header byte 139: scale NaN of axis 1"),
    ("las/simple.las", Put(147, b"\x00\x00\x00\x00\x00\x00\xf0\x7f"), ": header byte 147: scale inf of axis 2"),
    ("las/simple.las", Put(155, b"\x00\x00\x00\x00\x00\x00\xf8\x7f"), ": header byte 155: offset NaN of axis 0"),
    ("las/simple.las", Put(163, b"\x00\x00\x00\x00\x00\x00\xf0\xff"), ": header byte 163: offset -inf of axis 1"),
    ("las/simple.las", Put(104, b"\x83"), ": LASzip record: missing, though the header says that the points are com"),
    ("las/test1_4.las", Cut(300), ": byte 227: LAS header: 148 bytes promised, 73 there"),
    ("las/test1_4.las", Cut(374), ": byte 227: LAS header: 148 bytes promised, 147 there"),
    ("las/test1_4.las", Put(94, b"\xe3\x00"), ": header byte 94: header size 227; LAS 1.4 has at least 375"),
    ("las/test1_4.las", Put(247, b"\xff\xff\xff\xff\xff\xff\xff\xff"), ": point 1000: the file ends here, but its header promises 18446744073709"),
    ("las/test1_4.las", Put(247, b"\x00\x00\x00\x00\x00\x00\x00\x10"), ": point 1000: the file ends here, but its header promises 11529215046068"),
    ("las/test1_4.las", Put(104, b"\x0a"), ": header byte 105: record length 30; point format 10 has at least 67 byt"),
    ("las/test1_4.las", Put(100, b"\x03\x00\x00\x00"), ": variable-length record 2 at byte 2305: runs into the point data"),
    ("laz/simple.laz", Cut(330), ": header byte 96: points start at byte 333, which is not between the end"),
    ("laz/simple.laz", Cut(340), ": byte 333: chunk table offset: 8 bytes promised, 7 there"),
    ("laz/simple.laz", Cut(5000), ": byte 333: the chunk table is said to start at byte 18203, outside the"),
    ("laz/simple.laz", Drop(1), ": chunk table at byte 18203: the compressed data end too early"),
    ("laz/simple.laz", Drop(9), ": byte 333: the chunk table is said to start at byte 18203, outside the"),
    ("laz/simple.laz", Put(107, b"\xff\xff\xff\xff"), ": point 50000: the chunk table ends here, but the header promises 429496"),
    ("laz/simple.laz", Put(333, b"\xff\xff\xff\xff\xff\xff\xff\x7f"), ": byte 333: the chunk table is said to start at byte 9223372036854775807"),
    ("laz/simple.laz", Put(333, b"\x00\x00\x00\x00\x00\x00\x00\x00"), ": byte 333: the chunk table is said to start at byte 0, outside the file"),
    ("laz/simple.laz", Put(281, b"\x09\x00"), ": LASzip record: Compressor type 9 is not valid"),
    ("laz/simple.laz", Put(293, b"\x00\x00\x00\x00"), ": chunk table at byte 18203: the compressed data end too early"),
    ("laz/simple.laz", Put(313, b"\x00\x00"), ": LASzip record: its fields are not those of point format 3 with 0 extra"),
    ("laz/simple.laz", Put(313, b"\x60\xea"), ": LASzip record: IoError: failed to fill whole buffer"),
    ("laz/simple.laz", Put(229, b"\x6e\x6f\x62\x6f\x64\x79\x00\x00"), ": LASzip record: missing, though the header says that the points are com"),
    ("laz/simple.laz", Put(104, b"\x80"), ": LASzip record: its fields are not those of point format 0 with 14 extr"),
    ("laz/simple.laz", Put(315, b"\x4d\x00"), ": LASzip record: Item with type code: 77 is unknown"),
    ("laz/simple.laz", Put(105, b"\x23\x00"), ": LASzip record: its fields are not those of point format 3 with 1 extra"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Cut(2), ": byte 0: not a PLY file, whatever its name says"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Cut(40), ": header line 4: the file ends before `end_header`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("ply\n", "plx\n"), ": byte 0: not a PLY file, whatever its name says"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("format ascii 1.0\n", ""), ": header: the line `format` is missing"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("ascii 1.0", "ascii 2.0"), ": header line 2: version 2.0; only 1.0 exists"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("format ascii", "format words"), ": header line 2: unknown format `words`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("vertex 5", "vertex -5"), ": header line 4: `-5` is not a count of elements"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("vertex 5", "vertex 18446744073709551616"), ": header line 4: `18446744073709551616` is not a count of elements"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("vertex 5", "vertex 99999999999"), ": line 16, vertex 5: 1 values more than the 3 properties"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("vertex 5", "vertex"), ": header line 4: `element` begins no line of a PLY header"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("vertex 5", "points 5"), ": header: no element `vertex`, so the file holds no points"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("float x", "float"), ": header line 5: `property TYPE NAME` or `property list TYPE TYPE NAME`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("float x", "half x"), ": header line 5: unknown type `half`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("float x", "list uchar float x"), ": header: vertices have no property `x`, only: x, y, z"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("float y", "float x"), ": header line 6: property `x` is declared twice"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("float z", "float w"), ": header: vertices have no property `z`, only: x, y, w"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("element face 3", "element vertex 3"), ": header line 8: element `vertex` is declared twice"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("list uchar", "list float"), ": header line 9: the length of a list must be an integer"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("end_header\n", ""), ": header line 10: `1` begins no line of a PLY header"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("1 -1 0", "1 -1"), ": line 11, vertex 0: 2 of 3 values"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("1 -1 0", "1 -1 0 7"), ": line 11, vertex 0: 1 values more than the 3 properties"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("1 -1 0", "1 -1 zero"), ": line 11, vertex 0: `zero` is no F32 for `z`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("1 -1 0", "1 1,5 0"), ": line 11, vertex 0: `1,5` is no F32 for `y`"),
    ("ply/ply-rs_house_2_ok_ascii.ply", Swap("element vertex", "property float q\nelement vertex"), ": header line 4: a property outside an element"),
    ("ply/pdal_simple_binary.ply", Drop(1), ": vertex 2: the file ends here, but its header promises 3 vertices of 12"),
    ("ply/pdal_simple_binary.ply", Drop(30), ": vertex 0: the file ends here, but its header promises 3 vertices of 12"),
    ("ply/pdal_simple_binary.ply", Swap("vertex 3", "vertex 4"), ": vertex 3: the file ends here, but its header promises 4 vertices of 12"),
    ("ply/pdal_simple_binary.ply", Swap("vertex 3", "vertex 4000000000"), ": vertex 3: the file ends here, but its header promises 4000000000 verti"),
    ("ply/pdal_simple_binary.ply", Swap("vertex 3", "vertex 18446744073709551615"), ": vertex 3: the file ends here, but its header promises 1844674407370955"),
    ("ply/pdal_simple_binary.ply", Swap("property float z", "property double z"), ": vertex 2: the file ends here, but its header promises 3 vertices of 16"),
    ("pcd/pcd-rs_ascii.pcd", Cut(60), ": header line 4: the line `DATA` is missing"),
    ("pcd/pcd-rs_ascii.pcd", Drop(40), ": line 223, point 211: 3 of 4 values"),
    ("pcd/pcd-rs_ascii.pcd", Swap("VERSION .7", "VERSION .9"), ": header line 2: version .9; versions 0.5 to 0.7 can be read"),
    ("pcd/pcd-rs_ascii.pcd", Swap("FIELDS x y z rgb", "FIELDS x y z"), ": header: 3 fields but 4 sizes"),
    ("pcd/pcd-rs_ascii.pcd", Swap("FIELDS x y z", "FIELDS x y x"), ": header: field `x` is declared twice"),
    ("pcd/pcd-rs_ascii.pcd", Swap("FIELDS x y z", "FIELDS a y z"), ": header: no field `x` of one number, only: a, y, z, rgb"),
    ("pcd/pcd-rs_ascii.pcd", Swap("SIZE 4 4 4 4", "SIZE 4 4 4 3"), ": header: field `rgb`: type F has no size 3"),
    ("pcd/pcd-rs_ascii.pcd", Swap("SIZE 4 4 4 4", "SIZE 4 4 4"), ": header: 4 fields but 3 sizes"),
    ("pcd/pcd-rs_ascii.pcd", Swap("TYPE F F F F", "TYPE F F F C"), ": header: field `rgb`: unknown type `C`"),
    ("pcd/pcd-rs_ascii.pcd", Swap("COUNT 1 1 1 1", "COUNT 1 1 2 1"), ": header: no field `z` of one number, only: x, y, z, rgb"),
    ("pcd/pcd-rs_ascii.pcd", Swap("COUNT 1 1 1 1", "COUNT 1 1 1 0"), ": header: field `rgb`: COUNT 0"),
    ("pcd/pcd-rs_ascii.pcd", Swap("COUNT 1 1 1 1", "COUNT 1 1 1 4294967295"), ": header: field `rgb`: COUNT 4294967295"),
    ("pcd/pcd-rs_ascii.pcd", Swap("WIDTH 213", "WIDTH 2130"), ": header: POINTS 213, but WIDTH times HEIGHT is 2130; mend the header"),
    ("pcd/pcd-rs_ascii.pcd", Swap("WIDTH 213", "WIDTH -1"), ": header line 7: WIDTH `-1` is no count"),
    ("pcd/pcd-rs_ascii.pcd", Swap("HEIGHT 1", "HEIGHT 0"), ": header: POINTS 213, but WIDTH times HEIGHT is 0; mend the header"),
    ("pcd/pcd-rs_ascii.pcd", Swap("POINTS 213", "POINTS 999"), ": header: POINTS 999, but WIDTH times HEIGHT is 213; mend the header"),
    ("pcd/pcd-rs_ascii.pcd", Swap("POINTS 213", "POINTS many"), ": header line 10: POINTS `many` is no count"),
    ("pcd/pcd-rs_ascii.pcd", Swap("DATA ascii", "DATA words"), ": header line 11: `DATA words`: ascii, binary and binary_compressed exis"),
    ("pcd/pcd-rs_ascii.pcd", Swap("DATA ascii", "DATA binary_compressed"), ": byte 187: 540227383 bytes are said to be compressed, but 213 points of"),
    ("pcd/pcd-rs_ascii.pcd", Swap("0.93773 0.33763", "0.93773"), ": line 12, point 0: 3 of 4 values"),
    ("pcd/pcd-rs_ascii.pcd", Swap("0.93773 0.33763", "0.93773 0.33763 9"), ": line 12, point 0: 1 values more than the 4 of the fields"),
    ("pcd/pcd-rs_ascii.pcd", Swap("0.93773", "O.93773"), ": line 12, point 0: `O.93773` is no F64"),
    ("pcd/pcd-rs_demo_compressed.pcd", Drop(1), ": byte 216: compressed points: 48 bytes promised, 47 there"),
    ("pcd/pcd-rs_demo_compressed.pcd", Drop(100), ": header line 10: POINTS takes one value"),
    ("pcd/derived_ign_rgb_label_binary.pcd", Drop(1), ": point 4266: the file ends here, but its header promises 4267 points of"),
    ("pcd/derived_ign_rgb_label_binary.pcd", Cut(300), ": point 7: the file ends here, but its header promises 4267 points of 18"),
    ("npy/xyz_label_f64_c_order.npy", Cut(5), ": byte 0: not a NPY file, whatever its name says"),
    ("npy/xyz_label_f64_c_order.npy", Cut(9), ": byte 8: NPY header length: 2 bytes promised, 1 there"),
    ("npy/xyz_label_f64_c_order.npy", Cut(40), ": byte 10: NPY header: 118 bytes promised, 30 there"),
    ("npy/xyz_label_f64_c_order.npy", Drop(1), ": byte 128: 4000 rows of 32 bytes promised, 127999 bytes there; the file"),
    ("npy/xyz_label_f64_c_order.npy", Put(6, b"\x09"), ": byte 6: NPY version 9; versions 1 to 3 can be read"),
    ("npy/xyz_label_f64_c_order.npy", Put(8, b"\xff\xff"), ": byte 65545: 4000 rows of 32 bytes promised, 62583 bytes there; the fil"),
    ("npy/xyz_label_f64_c_order.npy", Swap("'<f8'", "'|O'"), ": NPY header: an array of Python objects; reading it would run code, so"),
    ("npy/xyz_label_f64_c_order.npy", Swap("'<f8'", "'<c8'"), ": NPY header: type `<c8` holds no numbers that can be used"),
    ("npy/xyz_label_f64_c_order.npy", Swap("'<f8'", "'<f9'"), ": NPY header: type `<f9` holds no numbers that can be used"),
    ("npy/xyz_label_f64_c_order.npy", Swap("False", "Maybe"), ": NPY header: `Maybe` is not a number that a shape can have"),
    ("npy/xyz_label_f64_c_order.npy", Swap("'descr'", "'descx'"), ": NPY header: key `descr` is missing"),
    ("npy/xyz_label_f64_c_order.npy", Swap("'shape'", "'shap2'"), ": NPY header: key `shape` is missing"),
    ("npy/xyz_label_f64_c_order.npy", Swap("{", "["), ": NPY header: `]` or `,` expected"),
    ("text/ign_xyzrgbc.csv", Swap("x,y,z", "a,b,c"), ": line 1: no columns called x, y and z, only: a, b, c, red, green, blue,"),
    ("text/ign_xyzrgbc.csv", Swap("x,y,z", "x,y,x"), ": line 1: two columns are called `x`; rename one"),
    ("text/ign_xyzrgbc.csv", Swap("x,y,z", "x,y"), ": line 1: 6 names, but the rows below have 7 values"),
    ("text/ign_xyzrgbc.csv", Swap("870284.070,", "870284;070,"), ": line 1: 7 names, but the rows below have 2 values"),
    ("text/ign_xyzrgbc.csv", Swap("870284.070,", ""), ": line 1: 7 names, but the rows below have 6 values"),
    ("text/ign_xyzrgbc.csv", Swap("870284.070,", "870284.070,1,"), ": line 1: 7 names, but the rows below have 8 values"),
    ("text/ign_xyzrgbc.csv", Swap("870284.070", "O"), ": line 2, point 0: `O` is not a number for `x`"),
    ("text/ign_xyzrgbc.csv", Cut(0), ": byte 0: the file is empty"),
    ("text/ign_xyzrgbc.csv", Cut(30), ": line 1: no row of numbers; a text scan has at least x, y and z in each"),
    ("text/ign_xyzrgbc.csv", Be(b"\xff\xfe1\x002\x00"), ": byte 0: UTF-16 text; save the file as UTF-8 (or plain ASCII)"),
    ("text/ign_xyzrgbc.csv", Be(b"\x00\x01\x02"), ": line 1: not text"),
    ("text/ign_xyzrgbc.csv", Be(b"1 2 3\n4 5 \xff\n"), ": line 2: not text in UTF-8"),
    ("text/ign_xyzrgbc.csv", Be(b"1 2\n"), ": line 1: 2 values; a point has at least x, y and z"),
    ("text/ign_xyzrgbc.csv", Add(b"1,2\n"), "point 2000: 2 of 7 values"),
    ("text/test.pts", Swap("19", "99"), ": line 20, point 19: the file ends here, but its header promises 80 more"),
    ("text/test.pts", Swap("19", "18446744073709551615"), ": line 1, point 0: 18446744073709551615 points promised, but only 886 by"),
    ("text/test.pts", Drop(40), ": line 20, point 18: 1 of 7 values"),
    ("text/test.pts", Be(b"2\n1 2\n3 4\n"), ": line 2: 2 values; a point has at least x, y and z"),
    ("text/no-color.ptx", Cut(20), ": line 5, PTX header: 3 finite numbers are expected, not `0 1`"),
    ("text/no-color.ptx", Swap("15\n1\n", "15\n9999\n"), ": line 10, point 0: 149985 points promised, but only 719 bytes follow"),
    ("text/no-color.ptx", Swap("15\n1\n", "15\nx\n"), ": line 2, PTX header: 1 finite numbers are expected, not `x`"),
    ("text/no-color.ptx", Swap("0 0 0\n", "0 0\n"), ": line 3, PTX header: 3 finite numbers are expected, not `0 0`"),
    ("text/no-color.ptx", Swap("1 0 0 0", "1 0 nan 0"), ": line 7, PTX header: 4 finite numbers are expected, not `1 0 nan 0`"),
    ("text/no-color.ptx", Drop(60), ": line 24, point 13: 3 of 4 values"),
    ("text/no-color.ptx", Swap("15\n", "-15\n"), ": line 1, point 0: a number of points or columns is expected here"),
    ("bin/velodyne/000000.bin", Cut(0), ": byte 0: the file is empty"),
    ("bin/velodyne/000000.bin", Drop(1), ": point 15892: 254287 bytes are neither whole points of 16 bytes (KITTI)"),
    ("bin/velodyne/000000.bin", Drop(4), ": point 15892: 254284 bytes are neither whole points of 16 bytes (KITTI)"),
    ("bin/velodyne/000000.bin", Cut(15), ": point 0: 15 bytes are neither whole points of 16 bytes (KITTI) nor of"),
    ("made.e57", Cut(8), ": byte 0: header: 48 bytes promised, 8 there"),
    ("made.e57", Cut(47), ": byte 0: header: 48 bytes promised, 47 there"),
    ("made.e57", Cut(1000), ": header byte 32: an XML part of 1617 bytes in a file of 1000; it is cut"),
    ("made.e57", Drop(1024), ": header: Failed to read E57: File appears to be truncated: cannot read"),
    ("made.e57", Put(0, b"\x41\x53\x54\x4d\x2d\x45\x35\x38"), ": byte 0: not a E57 file, whatever its name says"),
    ("made.e57", Put(8, b"\x09\x00\x00\x00"), ": header: Invalid E57 content: Found unsupported major version in header"),
    ("made.e57", Put(24, b"\x00\x00\x00\x00\x00\x00\x00\x80"), ": header: Failed to read E57: File appears to be truncated: cannot seek"),
    ("made.e57", Put(32, b"\x00\x00\x00\x00\x00\x00\x00\x80"), ": header byte 32: an XML part of 9223372036854775808 bytes in a file of"),
    ("made.e57", Put(40, b"\x00\x00\x00\x00\x00\x00\x00\x00"), ": header: Invalid E57 content: Found unsupported page size in header"),
    ("made.e57", Put(40, b"\x00\x00\x00\x00\x00\x01\x00\x00"), ": header: Invalid E57 content: Found unsupported page size in header"),
    ("made.e57", Put(16, b"\x01\x00\x00\x00\x00\x00\x00\x00"), ": byte 48: the check sum of the page is wrong; the file is damaged"),
    ("made.e57", Put(60, b"\xff\xff"), ": byte 48: the check sum of the page is wrong; the file is damaged"),
    ("made.e57", Put(1020, b"\x00\x00\x00\x00"), ": byte 48: the check sum of the page is wrong; the file is damaged"),
];

/// The bytes of a valid file: a sample, or a small E57 made here.
fn valid(name: &str) -> Vec<u8> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    if sample.exists() {
        return std::fs::read(sample).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let cloud = PointCloud {
        coord: (0..50).map(|i| [f64::from(i), 2.0, 3.0]).collect(),
        attributes: vec![Attribute {
            name: "intensity".into(),
            column: Column::U16((0..50).collect()),
        }],
    };
    io::write_unlabelled(&path, &cloud.into()).unwrap();
    std::fs::read(path).unwrap()
}

fn edited(mut bytes: Vec<u8>, edit: &Edit) -> Vec<u8> {
    match edit {
        Cut(count) => bytes.truncate(*count),
        Drop(count) => bytes.truncate(bytes.len() - count),
        Put(at, new) => bytes[*at..at + new.len()].copy_from_slice(new),
        Swap(old, new) => {
            let old = old.as_bytes();
            let at = bytes.windows(old.len()).position(|w| w == old);
            let at = at.unwrap_or_else(|| panic!("{old:?} is not in the file"));
            bytes.splice(at..at + old.len(), new.bytes());
        }
        Add(more) => bytes.extend_from_slice(more),
        Be(all) => bytes = all.to_vec(),
    }
    bytes
}

/// Reads every case and compares what is said.
fn read_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (i, (base, edit, expected)) in CASES.iter().enumerate() {
        if !cfg!(feature = "laz") && base.ends_with(".laz") {
            continue;
        }
        let extension = Path::new(base).extension().unwrap().to_str().unwrap();
        let path: PathBuf = folder.path().join(format!("case{i}.{extension}"));
        std::fs::write(&path, edited(valid(base), edit)).unwrap();
        match io::read(&path) {
            Ok(scan) => wrong.push(format!("{i} {base}: {} points were read", scan.cloud.len())),
            Err(e) => {
                let text = e.to_string();
                let rest = text.strip_prefix(&path.display().to_string());
                let fits = rest.is_some_and(|rest| rest.contains(expected));
                if !fits || text.lines().count() != 1 || e.exit_code() != 2 {
                    wrong.push(format!("{i} {base}: {text}, expected {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} refused", CASES.len());
}

/// Address space of the child, KiB: one gibibyte.
#[cfg(target_os = "linux")]
const ADDRESS_SPACE: u64 = 1 << 20;

#[cfg(target_os = "linux")]
#[test]
fn every_fault_is_refused_in_little_memory() {
    if std::env::var_os("CAIRN_GENERATED_CHILD").is_some() {
        read_all();
        return;
    }
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -v {ADDRESS_SPACE}; exec \"$0\" --exact --nocapture --test-threads 1 \"$1\""
        ))
        .arg(std::env::current_exe().unwrap())
        .arg("every_fault_is_refused_in_little_memory")
        .env("CAIRN_GENERATED_CHILD", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("refused"), "the child ran no test: {text}");
}

#[test]
fn there_are_more_than_a_hundred_cases() {
    assert!(CASES.len() > 100, "{}", CASES.len());
}
