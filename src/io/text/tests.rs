use crate::io::{Labels, Scan, read, write, write_unlabelled};
use std::path::PathBuf;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, name: &str, text: &str) -> Scan {
        read(self.file(name, text)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn fault(&self, name: &str, text: &str) -> String {
        read(self.file(name, text)).unwrap_err().to_string()
    }

    /// The file after labelling.
    fn labelled(&self, name: &str, text: &str) -> String {
        let path = self.file(name, text);
        let scan = read(&path).unwrap_or_else(|e| panic!("{e}"));
        write(&path, &scan, &labels(scan.cloud.len())).unwrap();
        std::fs::read_to_string(path).unwrap()
    }
}

fn place() -> Place {
    Place(tempfile::tempdir().unwrap())
}

fn labels(count: usize) -> Labels {
    Labels {
        code: (0..count as i32).map(|i| i - 1).collect(),
        confidence: (0..count).map(|i| i as f32 / 8.0).collect(),
        classes: vec![(0, "bare ground".into())],
    }
}

fn names(scan: &Scan) -> Vec<&str> {
    let attributes = scan.cloud.attributes.iter();
    attributes.map(|a| a.name.as_str()).collect()
}

#[test]
fn separators_and_names_are_found() {
    let place = place();
    for (name, text, attributes) in [
        ("a.xyz", "1 2 3\n4 5 6\n", &[][..]),
        ("a.txt", "\t1\t2  3 9\r\n4 5 6 8\r\n", &["column_3"]),
        (
            "a.csv",
            "x,y,z,Intensity\n1,2,3,7\n4,5,6,8\n",
            &["Intensity"],
        ),
        ("a.csv", "z;note;Y;X\n3;tree;2;1\n6;\"a; b\";5;4\n", &[]),
        (
            "a.txt",
            "\"X [m]\" , \"Y [m]\" , Z(m),\"a\"\n 1 , 2,3,0\n4,5,6,\n",
            &["a"],
        ),
        (
            "a.asc",
            "# made by hand\n//X Y Z R G B\n1 2 3 0 0 9\n\n4 5 6 1 2 3\n",
            &["R", "G", "B"],
        ),
        (
            "a.txt",
            "\u{feff}1 2 3 40 50 255 1.5\n4 5 6 0 0 0 1\n",
            &["red", "green", "blue", "column_6"],
        ),
        (
            "a.txt",
            "1 2 3 -40 50 255 1\n4 5 6 0 0 0 1\n",
            &["intensity", "red", "green", "blue"],
        ),
        (
            "a.pts",
            "2\n1 2 3 7 50 255 1\n4 5 6 7 0 0 1\n",
            &["intensity", "red", "green", "blue"],
        ),
        ("a.pts", "1\n1 2 3\n1\n4 5 6\n", &[]),
        ("a.pts", "1 2 3\n4 5 6\n", &[]),
    ] {
        let scan = place.read(name, text);
        assert_eq!(
            scan.cloud.coord,
            [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            "{text}"
        );
        assert_eq!(names(&scan), attributes, "{text}");
        write_unlabelled(place.0.path().join(name), &scan).unwrap();
        let copy = std::fs::read_to_string(place.0.path().join(name)).unwrap();
        let trim = |t: &str| t.lines().map(|l| l.trim().to_string()).collect::<Vec<_>>();
        assert_eq!(trim(&copy), trim(text));
        assert_eq!(copy.contains('\r'), text.contains('\r'));
    }
}

#[test]
fn labels_are_two_more_columns_in_the_style_of_the_file() {
    let place = place();
    for (name, text, want) in [
        (
            "a.xyz",
            "1 2 3\n#end\n4 5 6",
            "1 2 3 -1 0\n#end\n4 5 6 0 0.125\n",
        ),
        (
            "a.csv",
            "x,y,z\r\n1,2,3\r\n",
            "x,y,z,label,confidence\r\n1,2,3,-1,0\r\n",
        ),
        (
            "a.csv",
            "label;\"x\";y;z;\"t\"\n9;1;2;3;s\n",
            "original_label;\"x\";y;z;\"t\";\"label\";\"confidence\"\n9;1;2;3;s;-1;0\n",
        ),
        (
            "a.txt",
            "# a\n# x y z label confidence q\n1 2 3 4 0.5 6\n",
            "# a\n# x y z q label confidence\n1 2 3 6 -1 0\n",
        ),
        ("a.pts", "1\n1 2 3\n", "1\n1 2 3 -1 0\n"),
        (
            "a.txt",
            "X\tY\tZ\tof what\n1\t2\t3\ttall tree\n",
            "X\tY\tZ\tof what\tlabel\tconfidence\n1\t2\t3\ttall tree\t-1\t0\n",
        ),
    ] {
        assert_eq!(place.labelled(name, text), want);
    }
}

#[test]
fn ptx_points_are_moved_and_missing_ones_have_no_coordinates() {
    let place = place();
    let block = |t: [f64; 3]| {
        let [x, y, z] = t;
        format!(
            "1\n2\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 1 0 0\n1 0 0 0\n0 0 1 0\n{x} {y} {z} 1\n1 2 3 0.5\n0 0 0 0.25\n"
        )
    };
    let text = block([10.0, 20.0, 30.0]) + &block([-1.0, 0.0, 0.0]);
    let scan = place.read("a.ptx", &text);
    assert_eq!(scan.cloud.coord[0], [12.0, 21.0, 33.0]);
    assert_eq!(scan.cloud.coord[2], [1.0, 1.0, 3.0]);
    assert!(scan.cloud.coord[1][0].is_nan() && scan.cloud.coord[3][2].is_nan());
    assert_eq!((names(&scan), scan.warnings.len()), (vec!["intensity"], 1));
    let output = place.0.path().join("b.ptx");
    write_unlabelled(&output, &scan).unwrap();
    assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
    write(&output, &scan, &labels(4)).unwrap();
    let back = read(&output).unwrap();
    assert_eq!(names(&back), ["intensity", "column_4", "column_5"][..]);
    // A table has the moved points.
    let table = place.0.path().join("b.xyz");
    write_unlabelled(&table, &scan).unwrap();
    let table = std::fs::read_to_string(table).unwrap();
    assert_eq!(table.lines().nth(1), Some("12 21 33 0.5"));
    let other = write_unlabelled(place.0.path().join("c.pts"), &scan).unwrap_err();
    assert!(other.to_string().contains("write .xyz"), "{other}");
}

#[test]
fn faults_name_the_line_and_the_mend() {
    let place = place();
    let header = "1\n9\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n";
    let ptx = format!("{header}0 0 1 nan\n0 0 0 1\n");
    for (name, text, fault) in [
        (
            "a.txt",
            "1,5 2,5 3,5\n",
            "line 1, point 0: `1,5` is not a number for `x`; use a decimal point",
        ),
        (
            "a.csv",
            "x;y;z\n1,5;2;3\n",
            "line 2, point 0: `1,5` is not a number",
        ),
        ("a.xyz", "1 2 3\n1 2\n", "line 2, point 1: 2 of 3 values"),
        (
            "a.xyz",
            "1 2 3\r4 5 6\r",
            "line 1: lines that end in carriage returns alone; save",
        ),
        (
            "a.xyz",
            "1 2 3\n\n1 2 3 4\n",
            "line 3, point 1: 1 values more than the 3 columns",
        ),
        (
            "a.xyz",
            "1 2\n",
            "line 1: 2 values; a point has at least x, y and z",
        ),
        (
            "a.csv",
            "x,y,z,\"no te\n1,2,3,4\n",
            "line 1: a quote is opened and never closed",
        ),
        (
            "a.csv",
            "x,y,z,note\n1,2,3,ok\n4,5,6,\"no\n",
            "line 3, point 1: a quote is opened and never closed",
        ),
        (
            "a.csv",
            "x,y,x\n1,2,3\n",
            "line 1: two columns are called `x`",
        ),
        (
            "a.csv",
            "a,b,c\n1,2,3\n",
            "line 1: no columns called x, y and z, only: a, b, c",
        ),
        (
            "a.csv",
            "x,y,z,w\n1,2,3\n",
            "line 1: 4 names, but the rows below have 3 values",
        ),
        ("a.txt", "# nothing\n\n", "no row of numbers"),
        ("a.txt", "x y z\n", "no row of numbers"),
        (
            "a.txt",
            "1 2 3\n4 5 \u{10}6\n",
            "line 2, point 1: `\\u{10}6` is not a number for `z`",
        ),
        ("a.txt", "1 2 3\0\n", "line 1: not text"),
        ("a.pts", "3\n1 2 3\n4 5 6\n1 2 3\n", "rows follow"),
        (
            "a.pts",
            "3\n1 2 3 4 5\n4 5 6 1 1\n",
            "header promises 1 more points",
        ),
        (
            "a.pts",
            "99\n1 2 3\n",
            "line 1, point 0: 99 points promised, but only 6 bytes follow",
        ),
        ("a.pts", "18446744073709551615\n1 2 3\n", "points promised"),
        ("a.ptx", "1\n1\n0 0 0\n", "the file ends inside the header"),
        (
            "a.ptx",
            &ptx,
            "line 9, PTX header: 4 finite numbers are expected",
        ),
        (
            "a.ptx",
            "1 2 3\n",
            "a number of points or columns is expected",
        ),
    ] {
        if fault == "rows follow" {
            let scan = place.read(name, text.replacen('3', "2", 1).as_str());
            assert!(scan.warnings[0].text.contains(fault), "{:?}", scan.warnings);
            continue;
        }
        let found = place.fault(name, text);
        assert!(found.contains(fault), "{found}, expected {fault}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    std::fs::write(place.0.path().join("u.txt"), b"\xff\xfe1\0 \0").unwrap();
    let found = read(place.0.path().join("u.txt")).unwrap_err().to_string();
    assert!(found.contains("save the file as UTF-8"), "{found}");
}

#[test]
fn new_tables_read_back_with_their_names() {
    let place = place();
    let mut scan = Scan::from(
        place
            .read("a.csv", "x,y,z,my note,label\n1.5,2,nan,4,5\n1e6,2,3,,5\n")
            .cloud,
    );
    scan.cloud.attributes[0].name = "my, note".into();
    for name in ["b.csv", "b.xyz"] {
        let path = place.0.path().join(name);
        write(&path, &scan, &labels(2)).unwrap();
        let back = read(&path).unwrap();
        let want = ["my__note", "original_label", "label", "confidence"];
        assert_eq!(names(&back), want, "{name}");
        assert_eq!(back.cloud.coord[1], [1e6, 2.0, 3.0]);
        assert!(back.cloud.coord[0][2].is_nan());
        assert_eq!(back.cloud.labels().unwrap().code, [-1, 0]);
    }
}

#[test]
fn rooms_take_their_labels_from_the_annotations_beside_them() {
    let place = place();
    let room = place.0.path().join("room_1");
    std::fs::create_dir_all(room.join("Annotations")).unwrap();
    let file = |name: &str, text: &str| std::fs::write(room.join(name), text).unwrap();
    file("room_1.txt", "1 2 3 9 9 9\n4.50 5 6 9 9 9\n7 8 9 9 9 9\n");
    file("Annotations/chair_1.txt", "4.5 5 6 9 9 9\n");
    file("Annotations/hover_board_2.txt", "7 8 9 9 9 9\n");
    file("Annotations/sofa_1.txt", "");
    let scan = read(room.join("room_1.txt")).unwrap();
    assert_eq!(scan.cloud.labels().unwrap().code, [-1, 8, 12]);
    let texts: Vec<&str> = scan.warnings.iter().map(|w| w.text.as_str()).collect();
    assert!(
        texts[0].contains("`hover_board`") && texts[1].contains("sofa_1.txt is empty"),
        "{texts:?}"
    );
    assert!(
        texts[2].contains("3 points and its annotations 2; 1 points"),
        "{texts:?}"
    );
    // Rows of the file stay as they are, with the new labels behind them.
    write(place.0.path().join("out.txt"), &scan, &labels(3)).unwrap();
    let out = std::fs::read_to_string(place.0.path().join("out.txt")).unwrap();
    assert_eq!(out.lines().nth(1), Some("4.50 5 6 9 9 9 0 0.125"));
    file("Annotations/wall_1.txt", "1 2\n");
    let fault = read(room.join("room_1.txt")).unwrap_err().to_string();
    assert!(
        fault.contains("wall_1.txt: line 1: x, y and z are expected"),
        "{fault}"
    );
}
