//! The scans of `data/scans` are what `data/README.md` says.

use std::collections::BTreeMap;
use std::path::Path;

use cairn::io;

fn counts(file: &str, column: &str) -> BTreeMap<i64, usize> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/scans")
        .join(file);
    let scan = io::read(path).unwrap();
    assert!(scan.warnings.is_empty(), "{file}: {:?}", scan.warnings);
    let mut counts = BTreeMap::new();
    for code in scan.cloud.labels_of(column).unwrap().code {
        *counts.entry(code).or_default() += 1;
    }
    counts
}

#[cfg(feature = "laz")]
#[test]
fn town_tiles_have_their_class_counts() {
    for (tile, want) in [
        (
            "77050_627755",
            vec![
                (1, 1344),
                (2, 13881),
                (3, 187),
                (4, 1190),
                (5, 29514),
                (6, 27239),
            ],
        ),
        (
            "77050_627760",
            vec![
                (1, 4783),
                (2, 33568),
                (3, 379),
                (4, 933),
                (5, 12154),
                (6, 4148),
                (64, 70),
            ],
        ),
        (
            "77055_627755",
            vec![
                (1, 2264),
                (2, 39468),
                (3, 682),
                (4, 729),
                (5, 5152),
                (6, 24362),
                (64, 113),
            ],
        ),
        (
            "77055_627760",
            vec![
                (1, 581),
                (2, 22343),
                (3, 2497),
                (4, 2449),
                (5, 17875),
                (6, 14908),
            ],
        ),
        (
            "77060_627755",
            vec![
                (1, 4436),
                (2, 32663),
                (3, 2347),
                (4, 3335),
                (5, 19871),
                (6, 20839),
                (64, 27),
            ],
        ),
    ] {
        let found = counts(
            &format!("ign_urban/test_data_{tile}_LA93_IGN69.laz"),
            "classification",
        );
        assert_eq!(found.into_iter().collect::<Vec<_>>(), want, "{tile}");
    }
}

#[test]
fn robot_cell_frames_have_their_class_counts() {
    for (file, column, want) in [
        (
            "scenario_1/pcd-1615483690975101000.npy",
            "column_3",
            [27745, 10526, 12549, 3130, 3199, 974],
        ),
        (
            "scenario_1/pcd-1615483720826260000.npy",
            "column_3",
            [27113, 10011, 12348, 3528, 2761, 2625],
        ),
        (
            "scenario_1/pcd-1615483748628068000.npy",
            "column_3",
            [28005, 10612, 11764, 3507, 3193, 994],
        ),
        (
            "scenario_2/pcd-1615484680875906000.npy",
            "column_3",
            [26762, 10289, 13551, 4012, 2851, 1082],
        ),
        (
            "scenario_2/pcd-1615484706531422000.npy",
            "column_3",
            [27812, 9954, 12866, 3350, 3160, 1040],
        ),
        (
            "scenario_2/pcd-1615484706531422000.pcd",
            "label",
            [27812, 9954, 12866, 3350, 3160, 1040],
        ),
        (
            "scenario_4/pcd-1615489243399769000.npy",
            "column_3",
            [29641, 9704, 14222, 3364, 0, 2436],
        ),
        (
            "scenario_4/pcd-1615489268160133000.npy",
            "column_3",
            [29273, 11224, 13994, 3344, 0, 1153],
        ),
    ] {
        let found = counts(&format!("covered/{file}"), column);
        let found: Vec<usize> = (0..6)
            .map(|c| found.get(&c).copied().unwrap_or(0))
            .collect();
        assert_eq!(found, want, "{file}");
    }
}
