//! Faulty files: each is refused with the place and the fault, or read with a warning.

use std::path::Path;

use cairn::io;

/// What reading a file gives: points and warnings, or a part of the error.
type Expected = std::result::Result<(usize, usize), &'static str>;

#[rustfmt::skip]
const FILES: &[(&str, Expected)] = &[
    ("kitti_empty.bin", Err("byte 0: the file is empty")),
    ("kitti_label_count_differs/labels/000000.label", Err("holds labels and no points; name the .bin file")),
    ("kitti_label_count_differs/velodyne/000000.bin", Err("labels: 40 points, but ")),
    ("kitti_length_not_multiple_of_16.bin", Err("point 39: 635 bytes are neither whole points of 16 bytes (KITTI) nor of 20")),
    ("kitti_nan.bin", Ok((40, 1))),
    ("las14_bomb_u64_points.las", Err("point 1000: the file ends here, but its header promises 92233720368547")),
    ("las14_evlr_offset_past_eof.las", Ok((1000, 1))),
    ("las_bbox_wrong.las", Ok((60, 1))),
    ("las_bomb_4e9_points.las", Err("point 60: the file ends here, but its header promises 4294967295 point")),
    ("las_bytes_named_ply.ply", Err("holds LAS though its name says PLY; rename it to .las")),
    ("las_cut_mid_record.las", Err("point 59: the file ends here, but its header promises 60 points of 34 ")),
    ("las_data_offset_inside_header.las", Err("header byte 96: points start at byte 10, which is not between the end ")),
    ("las_data_offset_past_eof.las", Err("header byte 96: points start at byte 2147483647, which is not between ")),
    ("las_header_cut_at_100_bytes.las", Err("byte 0: LAS header: 227 bytes promised, 100 there")),
    ("las_header_size_10.las", Err("header byte 94: header size 10; LAS 1.2 has at least 227")),
    ("las_offset_inf.las", Err("header byte 155: offset inf of axis 0")),
    ("las_point_format_99.las", Err("header byte 104: point format 99; formats 0 to 10 exist")),
    ("las_record_length_below_format.las", Err("header byte 105: record length 20; point format 3 has at least 34 byte")),
    ("las_record_length_zero.las", Err("header byte 105: record length 0; point format 3 has at least 34 bytes")),
    ("las_scale_nan.las", Err("header byte 131: scale NaN of axis 0")),
    ("las_scale_zero.las", Err("header byte 131: scale 0 of axis 0")),
    ("las_version_9_9.las", Err("header byte 24: LAS version 9.9; versions 1.0 to 1.4 can be read")),
    ("las_vlr_count_4e9.las", Err("header byte 100: 4294967280 variable-length records promised, but only")),
    ("las_vlr_length_past_point_data.las", Err("variable-length record 0 at byte 227: runs past the start of the point")),
    ("las_wrong_magic.las", Err("byte 0: not a LAS file, whatever its name says")),
    ("las_zero_points.las", Ok((0, 0))),
    ("laz_bomb_4e9_points.laz", Err("point 50000: the chunk table ends here, but the header promises 429496")),
    ("laz_chunk_table_offset_past_eof.laz", Err("byte 333: the chunk table is said to start at byte 1000000000000, outs")),
    ("laz_cut_in_half.laz", Err("byte 333: the chunk table is said to start at byte 18203, outside the ")),
    ("laz_payload_random_bytes.laz", Err("chunk with point 0: the compressed data end too early")),
    ("laz_without_laszip_vlr.laz", Err("LASzip record: missing, though the header says that the points are com")),
    ("npy_body_short.npy", Err("byte 71: 41 rows of 12 bytes promised, 480 bytes there")),
    ("npy_header_length_past_eof.npy", Err("byte 10: NPY header: 65535 bytes promised, 61 there")),
    ("npy_object_dtype.npy", Err("NPY header: an array of Python objects; reading it would run code, so ")),
    ("npy_shape_bomb.npy", Err("NPY header: 99999999999 columns; a cloud needs at least 3: x, y, z")),
    ("npy_two_columns.npy", Err("NPY header: 2 columns; a cloud needs at least 3: x, y, z")),
    ("npy_wrong_magic.npy", Err("byte 0: not a NPY file, whatever its name says")),
    ("pcd_binary_cut.pcd", Err("point 39: the file ends here, but its header promises 40 points of 16 ")),
    ("pcd_bomb_1e12_points_binary.pcd", Err("point 40: the file ends here, but its header promises 1000000000000 po")),
    ("pcd_compressed_size_bomb.pcd", Err("byte 156: 4294967280 bytes are said to be compressed, but 40 points of")),
    ("pcd_field_and_size_counts_differ.pcd", Err("header: 4 fields but 3 sizes")),
    ("pcd_lzf_back_reference_before_start.pcd", Err("byte 156: 640 bytes cannot be compressed to 4")),
    ("pcd_negative_width.pcd", Err("header line 7: WIDTH `-40` is no count")),
    ("pcd_no_data_line.pcd", Err("header line 11: numbers before the line `DATA`")),
    ("pcd_no_xyz.pcd", Err("header: no field `x` of one number, only: u, v, w, rgb")),
    ("pcd_organised_nan_ok.pcd", Ok((40, 1))),
    ("pcd_points_disagrees_width_height.pcd", Err("header: POINTS 40, but WIDTH times HEIGHT is 20; mend the header")),
    ("pcd_size_3.pcd", Err("header: field `x`: type F has no size 3")),
    ("pcd_type_q.pcd", Err("header: field `x`: unknown type `Q`")),
    ("ply_all_points_identical.ply", Ok((40, 0))),
    ("ply_binary_cut_mid_record.ply", Err("vertex 39: the file ends here, but its header promises 40 vertices of ")),
    ("ply_binary_trailing_bytes.ply", Ok((40, 1))),
    ("ply_bomb_1e18_vertices_ascii.ply", Err("vertex 40: the file ends here, but its header promises 100000000000000")),
    ("ply_bomb_4e9_vertices_binary.ply", Err("vertex 40: the file ends here, but its header promises 4000000000 vert")),
    ("ply_colour_out_of_range_ascii.ply", Err("line 11, vertex 0: `300` is no U8 for `red`")),
    ("ply_coordinates_3e38.ply", Ok((40, 1))),
    ("ply_count_above_rows_ascii.ply", Err("vertex 40: the file ends here, but its header promises 50 vertices")),
    ("ply_count_below_rows_ascii.ply", Ok((30, 1))),
    ("ply_duplicate_property_x.ply", Err("header line 5: property `x` is declared twice")),
    ("ply_duplicate_vertex_element.ply", Err("header line 10: element `vertex` is declared twice")),
    ("ply_empty_file.ply", Err("byte 0: the file is empty")),
    ("ply_face_index_out_of_range.ply", Ok((40, 0))),
    ("ply_header_line_1mib.ply", Err("byte 21: line longer than 65536 bytes")),
    ("ply_header_truncated.ply", Err("header line 5: `property TYPE NAME` or `property list TYPE TYPE NAME` ")),
    ("ply_inf_coordinates_binary.ply", Ok((40, 1))),
    ("ply_label_out_of_range.ply", Ok((40, 0))),
    ("ply_list_count_bomb.ply", Ok((40, 0))),
    ("ply_list_count_negative.ply", Ok((40, 0))),
    ("ply_list_count_type_float.ply", Err("header line 11: the length of a list must be an integer")),
    ("ply_long_row_ascii.ply", Err("line 31, vertex 20: 3 values more than the 6 properties")),
    ("ply_magic_only.ply", Err("header line 2: the file ends before `end_header`")),
    ("ply_missing_xyz_only_colour.ply", Err("header: vertices have no property `x`, only: red, green, blue")),
    ("ply_missing_z.ply", Err("header: vertices have no property `z`, only: x, y, red, green, blue")),
    ("ply_nan_coordinates_ascii.ply", Ok((40, 1))),
    ("ply_negative_vertex_count.ply", Err("header line 3: `-5` is not a count of elements")),
    ("ply_no_format_line.ply", Err("header: the line `format` is missing")),
    ("ply_no_vertex_element.ply", Err("header: no element `vertex`, so the file holds no points")),
    ("ply_non_utf8_comment.ply", Ok((40, 0))),
    ("ply_non_utf8_property_name.ply", Ok((40, 0))),
    ("ply_property_before_element.ply", Err("header line 3: a property outside an element")),
    ("ply_says_little_holds_big_endian.ply", Ok((40, 1))),
    ("ply_short_row_ascii.ply", Err("line 31, vertex 20: 4 of 6 values")),
    ("ply_text_in_number_ascii.ply", Err("line 18, vertex 7: `12,5` is no F32 for `x`")),
    ("ply_unknown_format.ply", Err("header line 2: unknown format `binary_pdp_endian`")),
    ("ply_unknown_property_type.ply", Err("header line 6: unknown type `float128`")),
    ("ply_version_9_0.ply", Err("header line 2: version 9.0; only 1.0 exists")),
    ("ply_vertex_count_not_a_number.ply", Err("header line 3: `many` is not a count of elements")),
    ("ply_vertex_count_overflows_u64.ply", Err("header line 3: `18446744073709551616` is not a count of elements")),
    ("ply_wrong_magic.ply", Err("byte 0: not a PLY file, whatever its name says")),
    ("ply_zero_vertices.ply", Ok((0, 0))),
    ("s3dis_annotations_disagree/room_1/Annotations/chair_1.txt", Err("byte 0: the file is empty")),
    ("s3dis_annotations_disagree/room_1/Annotations/floor_1.txt", Ok((20, 0))),
    ("s3dis_annotations_disagree/room_1/Annotations/hoverboard_1.txt", Ok((2, 0))),
    ("s3dis_annotations_disagree/room_1/Annotations/wall_1.txt", Ok((10, 0))),
    ("s3dis_annotations_disagree/room_1/room_1.txt", Ok((40, 3))),
    ("s3dis_control_char_in_row.txt", Err("line 10, point 9: `185\\u{10}187` is not a number for `red`")),
    ("s3dis_decimal_comma.txt", Err("line 1, point 0: `22,070` is not a number for `x`; use a decimal point")),
    ("s3dis_missing_column.txt", Err("line 5, point 4: 5 of 6 values")),
    ("s3dis_utf16_bom.txt", Err("byte 0: UTF-16 text; save the file as UTF-8")),
    ("unknown_extension.xyzq", Err("its first bytes are those of no known format; known are .las, .laz, .p")),
];

#[test]
fn every_faulty_file_is_refused_or_read_with_a_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed");
    // Without LAZ, compressed files are refused for that.
    let readable = FILES
        .iter()
        .filter(|(n, _)| cfg!(feature = "laz") || !n.ends_with(".laz"));
    for (name, expected) in readable {
        let path = folder.join(name);
        match (io::read(&path), expected) {
            (Ok(scan), Ok((points, warnings))) => {
                assert_eq!(scan.cloud.len(), *points, "{name}");
                assert_eq!(scan.records.len(), *points, "{name}");
                assert_eq!(
                    scan.warnings.len(),
                    *warnings,
                    "{name}: {:?}",
                    scan.warnings
                );
            }
            (Err(e), Err(fault)) => {
                let text = e.to_string();
                assert!(text.contains(fault), "{name}: {text}");
                assert!(text.starts_with(&path.display().to_string()), "{text}");
                assert_eq!(text.lines().count(), 1, "{text}");
                assert_eq!(e.exit_code(), 2, "{name}");
            }
            (found, _) => panic!(
                "{name}: {:?}, expected {expected:?}",
                found.map(|s| s.cloud.len())
            ),
        }
    }
}

#[test]
fn every_faulty_file_of_the_folder_is_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed");
    let mut open = vec![folder.clone()];
    let mut count = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        assert!(FILES.iter().any(|(n, _)| *n == name), "{name}");
        count += 1;
    }
    assert_eq!(count, FILES.len());
}

#[test]
fn unusable_points_do_not_reach_a_network() {
    for (name, usable) in [
        ("ply_nan_coordinates_ascii.ply", 38),
        ("ply_inf_coordinates_binary.ply", 37),
        ("ply_coordinates_3e38.ply", 38),
        ("pcd_organised_nan_ok.pcd", 26),
        ("kitti_nan.bin", 39),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/malformed")
            .join(name);
        let scan = io::read(path).unwrap();
        assert_eq!(
            (scan.cloud.len(), scan.cloud.usable_rows().len()),
            (40, usable),
            "{name}"
        );
    }
}
